"""The old name of `mae.serving.answers`, which the code of older registered models imports."""

from mae.serving.answers import ANSWERS

__all__ = ["ANSWERS"]
