"""The file of a detector or segmenter: safetensors, with all that building it again needs in its metadata."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# How large the model wants its images: both sides of the padded square, or the shorter side.
SIZE_KEYS = {"detect": "image_size", "segment": "short"}


def save_dense(
    file: Path,
    model: Any,
    *,
    task: str,
    categories: Sequence[Mapping[str, Any]],
    mean: Sequence[float],
    std: Sequence[float],
    size: int,
) -> None:
    """Write a Detector ("detect") or Segmenter ("segment") for `registry.load_model`, whole or not at all.

    Args:
        model: its `settings` go into the config as `build`, its state dict into the file.
        categories: [{"id", "name"}] in the order of the model's category indices, as in index.json.
        mean, std: of the images' colours, 3 each, of values 0 to 1.
        size: in pixels, what evaluation scales images to: the longer side ("detect", config key
            `image_size`) or the shorter one ("segment", config key `short`).

    Raises ValueError for another task.
    """
    from safetensors.torch import save_file

    from mae.interchange import replace

    if task not in SIZE_KEYS:
        raise ValueError(f"task {task!r}: choose one of {', '.join(SIZE_KEYS)}")
    config = {
        "task": task,
        "build": model.settings,
        "categories": [{"id": each["id"], "name": each["name"]} for each in categories],
        "mean": list(mean),
        "std": list(std),
        SIZE_KEYS[task]: size,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {"config": json.dumps(config, sort_keys=True)}  # one entry: equal weights give equal bytes
    replace(file, lambda path: save_file(tensors, path, metadata))
