"""Training: one loop, its optimizers, learning-rate schedules and checkpoints."""
