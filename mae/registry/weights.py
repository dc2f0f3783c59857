"""Old name of `mae.serving.model_file`: models registered before it moved import it."""

from mae.serving.model_file import kind_of, load_model

__all__ = ["kind_of", "load_model"]
