"""The old name of `mae.serving.model_file`, which the code of older registered models imports."""

from mae.serving.model_file import kind_of, load_model

__all__ = ["kind_of", "load_model"]
