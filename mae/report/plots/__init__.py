"""PNG pictures, drawn without a screen; the same values give the same bytes."""
