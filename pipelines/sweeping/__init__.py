"""Parts of a sweep: axes, experiments, the report."""
