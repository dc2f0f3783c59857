"""State of a working copy: its lock, DVC's files, settings of one run."""
