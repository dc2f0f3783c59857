"""The report's parts and plots."""
