"""Checkpoint files, read without running code in them, and our encoder file: safetensors with its config."""

import argparse
import json
import logging
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mae.files import atomic_path, read_json
from mae.interchange.convert import KINDS, State, detect
from mae.interchange.file_form import SAFETENSORS, TORCH, form_of
from mae.interchange.prefixes import choose, find, flatten
from mae.models.vit import OVERRIDES, build

_log = logging.getLogger(__name__)
CONFIG_KEYS = ("name", "img_size", "mean", "std")
IDENTITY = ("name", "num_heads", "img_size", "mean", "std")  # of an encoder, what its weights do not show
FOLDER = ("model.safetensors", "pytorch_model.bin", "encoder.safetensors")
# Plain values next to the weights; to read them runs no code. MAE keeps its command line (argparse, paths),
# others their best figure or the state of a generator (numpy's numbers and arrays, under both its names).
_NUMBERS = "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]
_PLAIN: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in _NUMBERS},
    *(
        (made.__reduce__()[0], f"{package}.multiarray.{name}")
        for made, name in ((np.float64(0), "scalar"), (np.zeros(0), "_reconstruct"))
        for package in ("numpy._core", "numpy.core")
    ),
    *(
        (path, f"{module}.{path.__name__.removeprefix('Pure')}")
        for path in (PurePosixPath, PureWindowsPath)
        for module in ("pathlib", "pathlib._local")
    ),
]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint under flat names, and what the file tells of its encoder (IDENTITY)."""

    path: Path
    state: State
    about: dict[str, Any]

    def model(self, kinds: tuple[str, ...], prefix: str | None = None) -> tuple[str, State]:
        """Return (kind, weights) of the model of one of `kinds` in it; several: see `prefixes.choose`.

        Raises ValueError naming the file where there is none.
        """
        found = find(self.state, kinds)
        try:
            if not found:
                detect(self.state)  # its error says what is there
            chosen = choose(found, prefix)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        if len(found) > 1 and prefix is None:
            _log.warning(
                "%s holds several models (%s): taking %s; --prefix takes another",
                self.path, ", ".join(found), chosen,
            )  # fmt: skip
        weights = {n.removeprefix(chosen): value for n, value in self.state.items() if n.startswith(chosen)}
        return found[chosen], weights


def read(path: str | Path, prefix: str | None = None) -> tuple[str, State]:
    """Read (kind, state) of a checkpoint; kind is a key of `convert.KINDS`. See `open_checkpoint`.

    prefix: that of the model's names, where the file holds several models.
    Raises ValueError naming the file where it cannot be read or holds no known weights.
    """
    return open_checkpoint(path).model(tuple(KINDS), prefix)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a file of safetensors or torch, known by its content, or a folder of Hugging Face or timm's hub.

    Dicts in dicts become names with dots, and what wraps a model (DistributedDataParallel, torch.compile ...)
    is left out of names. Pickles are read as weights only: one that would run code is refused.
    Raises ValueError naming the file where it cannot be read, is something else or holds no tensors.
    """
    path = Path(path)
    about: dict[str, Any] = {}
    if path.is_dir():
        path, about = _in_folder(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    loaded: Mapping[Any, Any]
    config: Any
    if form_of(path) == SAFETENSORS:
        loaded, config = open_weights(path)
    else:
        loaded = _unpickle(path)
        config = loaded.get("encoder_config")
    try:
        state = flatten(loaded)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not state:
        entries = ", ".join(map(str, [*loaded][:5])) or "none"
        raise ValueError(f"{path}: holds no tensors; its entries: {entries}")
    return Checkpoint(path, state, about | _identity(config))


def _in_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Find the weights in a folder, and what its files of Hugging Face or timm tell of the encoder."""
    file = next((folder / name for name in FOLDER if (folder / name).is_file()), None)
    if file is None:
        raise ValueError(
            f"{folder}: a folder without {', '.join(FOLDER[:-1])} or {FOLDER[-1]}: name the file"
        )
    config = read_json(folder / "config.json") or {}
    processor = read_json(folder / "preprocessor_config.json") or {}
    arguments = config.get("model_args", {})  # of timm's hub, as "architecture" is
    told = {
        "name": config.get("architecture"),
        "num_heads": config.get("num_attention_heads", arguments.get("num_heads")),
        "img_size": arguments.get("img_size"),
        **{key: config.get("pretrained_cfg", {}).get(key) for key in ("mean", "std")},
    }
    told |= {key: processor[f"image_{key}"] for key in ("mean", "std") if f"image_{key}" in processor}
    return file, {key: value for key, value in told.items() if value is not None}


def _identity(config: Any) -> dict[str, Any]:
    """Select from the config of one of our files, of any kind, what it tells of its encoder."""
    if not isinstance(config, Mapping):
        return {}
    parts = (config, config.get("encoder"), config.get("build", {}).get("encoder"))
    told = {key: value for part in parts if isinstance(part, Mapping) for key, value in part.items()}
    return {key: told[key] for key in IDENTITY if told.get(key) is not None}


def _unpickle(path: Path) -> Mapping[Any, Any]:
    try:
        # An open file, not its name: torch reads the form that an ending names.
        with torch.serialization.safe_globals(_PLAIN), warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore", UserWarning)  # on old pickle protocols; real faults raise
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise ValueError(
                f"{path}: written with a pickle protocol that torch.save does not choose itself, or damaged; "
                "save it again without pickle_protocol"
            ) from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it refers to {found[1]}" if found else "it is no plain pickle of tensors"
        raise ValueError(
            f"{path}: refused, because it holds more than weights and could run code ({what}); "
            "save its state dict alone, where you trust it, and try again"
        ) from error
    except Exception as error:  # damaged bytes raise anything
        reason = f"{error!s:.150}" or "it is empty or cut short"
        raise ValueError(f"{path}: not a readable torch checkpoint ({reason})") from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path}: holds no state dict, but a {type(loaded).__name__}")
    return loaded


def _open_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    if path.is_dir():
        raise ValueError(
            f"{path}: a folder: `mae import {path} NAME.safetensors` makes an encoder file of what is in it"
        )
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if form_of(path) == TORCH:
        raise ValueError(
            f"{path}: a file of torch: `mae import {path} NAME.safetensors` makes an encoder file of it"
        )
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
    """Raise ValueError naming `source` and each weight that is missing, unknown, misshapen or not finite."""
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
    check_finite(state, source)


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError naming `source` and every weight that holds a NaN or an infinity."""
    wrong = [name for name, value in state.items() if not value.isfinite().all()]
    if wrong:
        raise ValueError(
            f"{source}: weights are not finite (NaN or infinite): {_some(wrong)}; "
            "the training that wrote them diverged, or the file is damaged: take an earlier checkpoint"
        )


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
    state, metadata = _open_safetensors(path)
    try:
        return state, json.loads(metadata["config"]) if "config" in metadata else None
    except ValueError as error:
        raise ValueError(f"{path}: its config is unusable ({error})") from error


def load_encoder(path: str | Path) -> tuple[State, dict[str, Any]]:
    """Read (state, config) of an encoder file. Raises ValueError naming the file and its fault."""
    path = Path(path)
    state, config = open_weights(path)
    if config is None:
        raise ValueError(f"{path}: not an encoder file of mae (no config in it); `mae import` makes one")
    task = config.get("task") or ("classify" if "classes" in config else "encode")
    if task != "encode":
        remedy = "; `mae import` makes one of it" if task in ("pretrain", "classify") else ""
        raise ValueError(f"{path}: not an encoder file of mae, but one of the task {task}{remedy}")
    try:
        shapes = encoder_shapes(config)
    except ValueError as error:
        raise ValueError(f"{path}: its config is unusable ({error})") from error
    check(state, shapes, str(path))
    return state, config
