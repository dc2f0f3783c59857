"""A working copy in use: its lock, DVC's files, settings of one run."""
