"""The report: a template, the parts that fill it, and all plots."""
