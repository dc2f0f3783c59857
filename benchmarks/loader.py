"""Training batches at 224 px, side by side, as ratios to torchvision's ImageFolder + PIL in a DataLoader:

    python benchmarks/loader.py SHARDS_DIR RAW_DIR [--workers 0 2] [--rounds 5] [--batches 20] [--batch 64]

SHARDS_DIR is written by the shard stage from RAW_DIR, an ImageNet-style tree with train/. Peers: plain
webdataset with PIL, and webdataset with this project's decoder and transform. Rounds are interleaved, the
median of their ratios is shown; CPU time where nothing runs beside (workers 0), wall time otherwise.
Batches stay uint8 where a path allows; normalising is the device's work in all of them.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import (
    Compose,
    InterpolationMode,
    PILToTensor,
    RandomHorizontalFlip,
    RandomResizedCrop,
)

from mae.data.decode import decode
from mae.data.loading.batches import training_batches
from mae.data.shards.index import Index
from mae.data.transforms.image import pretraining

PIL_TRANSFORM = Compose(
    [
        RandomResizedCrop(224, (0.2, 1.0), interpolation=InterpolationMode.BICUBIC),
        RandomHorizontalFlip(),
        PILToTensor(),
    ]
)
TENSOR_TRANSFORM = pretraining(224)


def image_folder(arguments: argparse.Namespace, workers: int) -> Iterator[Any]:
    data = ImageFolder(str(arguments.raw / "train"), PIL_TRANSFORM)
    return iter(DataLoader(data, arguments.batch, shuffle=True, num_workers=workers, drop_last=True))


def _with_pil(sample: dict) -> tuple[torch.Tensor, int]:
    data = next(sample[name] for name in ("jpg", "png", "webp") if name in sample)
    return PIL_TRANSFORM(Image.open(io.BytesIO(data)).convert("RGB")), int(sample["cls"])


def _with_ours(sample: dict) -> tuple[torch.Tensor, int]:
    data = next(sample[name] for name in ("jpg", "png", "webp") if name in sample)
    return TENSOR_TRANSFORM(decode(data)), int(sample["cls"])


def _webdataset(arguments: argparse.Namespace, workers: int, load: Callable[[dict], Any]) -> Iterator[Any]:
    split = Index.open(arguments.shards).split("train")
    urls = [str(split.directory / name) for name in split.shards]
    data = webdataset.WebDataset(urls, resampled=True, shardshuffle=False).shuffle(500).map(load)
    return iter(DataLoader(data, arguments.batch, num_workers=workers))


def webdataset_pil(arguments: argparse.Namespace, workers: int) -> Iterator[Any]:
    return _webdataset(arguments, workers, _with_pil)


def webdataset_ours(arguments: argparse.Namespace, workers: int) -> Iterator[Any]:
    return _webdataset(arguments, workers, _with_ours)


def ours(arguments: argparse.Namespace, workers: int) -> Iterator[Any]:
    split = Index.open(arguments.shards).split("train")
    steps = arguments.batches + arguments.warmup
    return training_batches(
        split, TENSOR_TRANSFORM, global_batch=arguments.batch, start=0, stop=steps, seed=0, workers=workers
    )


LOADERS = {
    "ImageFolder + PIL": image_folder,
    "webdataset + PIL": webdataset_pil,
    "webdataset + our decode and crop": webdataset_ours,
    "mae.data": ours,
}


def rate(make: Callable[..., Iterator[Any]], arguments: argparse.Namespace, workers: int) -> float:
    """Images per second of the batches after the first few (which hold the start of the workers)."""
    clock = time.perf_counter if workers else time.process_time
    batches = make(arguments, workers)
    for _ in range(arguments.warmup):
        next(batches)
    began = clock()
    for _ in range(arguments.batches):
        next(batches)
    return arguments.batch * arguments.batches / (clock() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for workers in arguments.workers:
        rates: dict[str, list[float]] = {name: [] for name in LOADERS}
        for _ in range(arguments.rounds):
            for name, make in LOADERS.items():
                rates[name].append(rate(make, arguments, workers))
        base = rates["ImageFolder + PIL"]
        for name, found in rates.items():
            ratio = statistics.median(one / other for one, other in zip(found, base, strict=True))
            print(
                json.dumps(
                    {
                        "loader": name,
                        "workers": workers,
                        "images_per_s": round(statistics.median(found)),
                        "ratio": round(ratio, 2),
                        "machine": platform.processor() or platform.machine(),
                    }
                )
            )


if __name__ == "__main__":
    main()
