"""Checkpoint files, read without running code in them, and our encoder file: safetensors with its config."""

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mae.files import atomic_path
from mae.interchange.convert import State, detect
from mae.models.vit import OVERRIDES, build

PICKLED = (".pth", ".pt", ".bin", ".ckpt")
CONFIG_KEYS = ("name", "img_size", "mean", "std")


def read(path: str | Path) -> tuple[str, State]:
    """Read (kind, state) of a checkpoint; kind is a key of `convert.KINDS`.

    .safetensors, .pth, .pt, .bin or .ckpt ({"model": ...} is unwrapped), or a Hugging Face folder. Pickles
    are read as weights only: one that would run code is refused.
    Raises ValueError naming the file where it cannot be read or holds no known weights.
    """
    path = Path(path)
    if path.is_dir():
        found = [
            path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()
        ]
        if not found:
            raise ValueError(f"{path}: no model.safetensors or pytorch_model.bin in this folder")
        path = found[0]
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        state = _open_safetensors(path)[0]
    elif path.suffix in PICKLED:
        state = _unwrap(path, _unpickle(path))
    else:
        raise ValueError(
            f"{path}: unknown file kind {path.suffix!r}; known: .safetensors, {', '.join(PICKLED)}"
        )
    try:
        return detect(state), state
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _unpickle(path: Path) -> Any:
    # The official release keeps its command line as an argparse.Namespace: a bag of plain values, no code.
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on old pickle protocols; real faults raise
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it refers to {found[1]}" if found else "it is no plain pickle of tensors"
        raise ValueError(
            f"{path}: refused, because it holds more than weights and could run code ({what}); "
            "save its state dict alone and try again"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, AttributeError) as error:
        reason = f"{error!s:.150}" or "it is empty or cut short"
        raise ValueError(f"{path}: not a readable torch checkpoint ({reason})") from error


def _unwrap(path: Path, loaded: Any) -> State:
    for key in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"{path}: holds no state dict")
    strange = [str(name) for name, value in loaded.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"{path}: these entries are no tensors: {', '.join(strange[:5])}")
    return dict(loaded)


def _open_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: the tensors would otherwise be views of a mapped file that may be replaced.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def encoder_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Select the arguments of `vit.build` from an encoder's config: `build(**encoder_arguments(config))`."""
    missing = [key for key in CONFIG_KEYS if key not in config]
    if missing:
        raise ValueError(f"the encoder's config lacks {', '.join(missing)}")
    return {key: config[key] for key in ("name", "img_size", *OVERRIDES) if key in config}


def check(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], source: str) -> None:
    """Raise ValueError naming `source` and every weight that is missing, unexpected or of another shape."""
    wrong = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in state and state[name].shape != shape
    ]
    problems = {
        "missing": [name for name in shapes if name not in state],
        "unexpected": [name for name in state if name not in shapes],
        "wrong shape": wrong,
    }
    found = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError(f"{source} does not fit its encoder; {'; '.join(found)}")


def _some(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def encoder_shapes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Map each weight of the encoder that `config` describes to its shape; nothing is allocated."""
    with torch.device("meta"):
        return {name: value.shape for name, value in build(**encoder_arguments(config)).state_dict().items()}


def save_encoder(path: str | Path, vit_state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write an encoder: timm's names in safetensors, `config` as JSON in its metadata, whole or not at all.

    config: "name", "img_size", the `vit.build` overrides, "mean" and "std" of its images, and any other
    values to keep. Raises ValueError where the weights are not those of the encoder that it describes.
    """
    check(vit_state, encoder_shapes(config), f"the encoder for {path}")
    save_weights(path, vit_state, config)


def save_weights(path: str | Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write weights as safetensors with `config` as JSON in the metadata, whole or not at all.

    Every model file of ours is written here.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    # One entry: safetensors writes several in random order, and equal weights must give equal bytes.
    metadata = {"config": json.dumps(dict(config), sort_keys=True)}
    with atomic_path(path) as file:
        safetensors.torch.save_file(tensors, file, metadata)


def open_weights(path: str | Path) -> tuple[State, dict[str, Any] | None]:
    """Read (state, config) of one of our files, of any kind; config None where it has none.

    Raises ValueError naming the file where there is none, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    state, metadata = _open_safetensors(path)
    try:
        return state, json.loads(metadata["config"]) if "config" in metadata else None
    except ValueError as error:
        raise ValueError(f"{path}: its config is unusable ({error})") from error


def load_encoder(path: str | Path) -> tuple[State, dict[str, Any]]:
    """Read (state, config) of an encoder file. Raises ValueError naming the file and its fault."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    state, metadata = _open_safetensors(path)
    if "config" not in metadata:
        raise ValueError(f"{path}: not an encoder file of mae (no config in it); `mae import` makes one")
    try:
        config = json.loads(metadata["config"])
        shapes = encoder_shapes(config)
    except ValueError as error:
        raise ValueError(f"{path}: its config is unusable ({error})") from error
    check(state, shapes, str(path))
    return state, config
