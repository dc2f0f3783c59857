"""The memory for one training image of the detector, counted on a CPU:

    python benchmarks/detector_memory.py [--encoder vit_base_patch16_224] [--size 1024] [--objects 100]

Runs one real training forward pass under bfloat16 autocast and adds up every storage that is kept for the
backward pass, then weights, gradients and AdamW's two moments in float32. The largest passing buffers are
shown too: where every anchor is compared with every object, whose number `detect.max_objects` bounds. It is a
count, not a GPU's measurement: autocast on CUDA computes LayerNorm in float32, so the same pass is counted in
float32 throughout (--fp32) as the upper figure. Workspaces and the gradients in flight come on top.

ViT-B at 1024 pixels with 100 objects, GiB: 2.7 kept + 1.7 weights, gradients, AdamW + 0.9 passing = 5.2;
in float32 4.6 + 1.7 + 0.9 = 7.1. With 500 objects 4.4 are passing: 8.8 and 10.7.
"""

import argparse
import json
import math
import time
from typing import Any

import torch
from torch import Tensor

from mae.models.detection.detector import Detector, build_detector
from mae.models.detection.mask_rcnn import ASPECTS

GIB = 2**30


class Kept:
    """Saved-tensor hooks that count each storage once, parameters left out, and keep all of them alive."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.bytes = 0
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._alive: list[Any] = []

    def pack(self, tensor: Tensor) -> Tensor:
        """Count `tensor`'s storage if it is new."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())  # the address stays taken: the storage is kept
            self._alive.append(storage)
            self.bytes += storage.nbytes()
        return tensor


def example(size: int, objects: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """A noise image (1, 3, size, size) with `objects` squares of 32 to 256 pixels."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.randint(32, 257, (objects,), generator=generator)
    corners = (torch.rand(objects, 2, generator=generator) * (size - sides[:, None])).long()
    boxes = torch.cat([corners, corners + sides[:, None]], dim=1)
    masks = torch.zeros(objects, size, size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    labels = torch.randint(0, 80, (objects,), generator=generator)
    images = torch.randn(1, 3, size, size, generator=generator)
    return images, [{"boxes": boxes.float(), "labels": labels, "masks": masks}]


def count(model: Detector, size: int, objects: int, bf16: bool) -> dict[str, float]:
    """GiB kept for the backward pass and of the training state, and seconds of the forward pass."""
    images, targets = example(size, objects)
    kept = Kept(model)
    start = time.process_time()
    with (
        torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        losses = model(images, targets)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    anchors = sum(len(ASPECTS) * math.ceil(size / stride) ** 2 for stride in model.heads.strides)
    # Not kept, and not at the same time: the objects' masks as float32, and pairs of anchor and object, where
    # torchvision's box_iou holds nine float32 (corners and sides of the overlap, areas) at once.
    passing = max(4 * objects * size**2, 9 * 4 * objects * anchors)
    del losses
    return {
        "kept": round(kept.bytes / GIB, 2),
        "state": round(4 * weights / GIB, 2),
        "passing": round(passing / GIB, 2),
        "total": round((kept.bytes + 4 * weights + passing) / GIB, 2),
        "forward_cpu_seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    """Print the count as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--fp32", action="store_true")
    options = parser.parse_args()
    model = build_detector({"name": options.encoder, "img_size": 224}, 80, image_size=options.size)
    print(json.dumps(count(model.train(), options.size, options.objects, bf16=not options.fp32)))


if __name__ == "__main__":
    main()
