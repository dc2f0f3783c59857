"""Pretraining methods by name: one paper, one file. `method.Method` is the contract."""

from mae.methods.beit import BEiT
from mae.methods.cae import CAE
from mae.methods.denoising import Denoising
from mae.methods.igpt import IGPT
from mae.methods.ijepa import IJEPA
from mae.methods.mae import MAE
from mae.methods.method import Method
from mae.methods.mocov3 import MoCoV3
from mae.methods.mpp import MPP
from mae.methods.simmim import SimMIM
from mae.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "mae": MAE,
    "cae": CAE,
    "beit": BEiT,
    "simmim": SimMIM,
    "mpp": MPP,
    "denoising": Denoising,
    "mocov3": MoCoV3,
    "igpt": IGPT,
    "ijepa": IJEPA,
    "supervised": Supervised,
}

__all__ = ["METHODS", "Method"]
