"""Old name of `mae.serving.answers`: models registered before it moved import it."""

from mae.serving.answers import ANSWERS

__all__ = ["ANSWERS"]
