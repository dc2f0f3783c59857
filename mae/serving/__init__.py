"""The served model, its answers and the model files."""
