"""Parts of the flow `sweep`: axes, experiments, the report."""
