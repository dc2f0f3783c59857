"""The pictures of reports: PNG files, drawn without a screen, with the same bytes for the same values."""
