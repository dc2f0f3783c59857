"""The preflight: what a later stage will need, looked at before the first one runs. Start with checks.py."""
