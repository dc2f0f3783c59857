"""Checkpoints of the official MAE release, timm and Hugging Face ViTMAE, in and out; our encoder file."""

from mae.interchange.checkpoint_files import (
    check,
    check_finite,
    encoder_arguments,
    load_encoder,
    open_weights,
    read,
    save_encoder,
    save_weights,
)
from mae.interchange.convert import KINDS, convert, detect
from mae.interchange.import_export import FORMATS, export, import_

__all__ = [
    "FORMATS",
    "KINDS",
    "check",
    "check_finite",
    "convert",
    "detect",
    "encoder_arguments",
    "export",
    "import_",
    "load_encoder",
    "open_weights",
    "read",
    "save_encoder",
    "save_weights",
]
