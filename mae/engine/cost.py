"""The cost of a training: operations per image, counted without computing, and peak memory."""

import copy
import resource
import sys

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode


def training_flops(method: nn.Module, *inputs: Tensor) -> float:
    """Count the floating-point operations of one forward and backward of `method`, per image of inputs[0].

    Matrix products and convolutions count, a multiplication and an addition each; recomputed activations
    count as often as they are computed. inputs: those of forward; only shapes and types matter. A copy
    on the meta device is counted: no value, generator or statistic of `method` changes. On several ranks
    each counts its own part.
    """
    counted = copy.deepcopy(method).to("meta").train()
    for module in counted.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # one that is synchronised over ranks would ask the others
    with FlopCounterMode(display=False) as counter:
        counted(*(given.to("meta") for given in inputs))["loss"].backward()
    return counter.get_total_flops() / len(inputs[0])


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process had in use: by its tensors on a GPU, in all on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return taken if sys.platform == "darwin" else 1024 * taken  # bytes there, kilobytes elsewhere
