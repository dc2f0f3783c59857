"""Training of anything: one loop, its optimizers and its checkpoints."""
