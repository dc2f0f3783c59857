"""How anything is trained: one loop, its optimizers and its checkpoints."""
