"""The weights that a pretraining starts from: the file `pretrain.init`, checked against the settings."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae import interchange
from mae.config import Params
from mae.files import sha256_of
from mae.methods import METHODS
from mae.models.vit import build
from mae.stages.context.stage_context import encoder_config

_log = logging.getLogger("mae.stages")


@dataclass(frozen=True)
class WeightSource:
    """The source of weights. digest: sha256 of the file; whole: all of a method, not an encoder alone."""

    file: str
    digest: str
    whole: bool

    def __str__(self) -> str:
        what = "encoder and decoder" if self.whole else "the encoder alone, the rest is new,"
        return f"{what} of {self.file} (sha256 {self.digest[:12]})"


def method_config(params: Params) -> dict[str, Any]:
    """Return the config of a method file: all that its weights need to mean the same in another run."""
    name = params.pretrain.method
    settings = getattr(params, name).model_dump()
    about = {"task": "pretrain", "method": name, "encoder": encoder_config(params), "settings": settings}
    return about | ({"target": params.pretrain.target} if METHODS[name].predicts else {})


def load_initial_weights(method: Any, params: Params) -> WeightSource | None:
    """Load the weights of pretrain.init into `method`; None where the setting is null.

    A method file (models/pretrain/method.safetensors of any run) gives all of them, an encoder file
    (encoder.safetensors, or one that `mae import` wrote) those of the encoder. The fitted module of the
    target is always this run's own.
    Raises ValueError naming the file, and each key of the parameters or weight that does not fit it.
    """
    if params.pretrain.init is None:
        return None
    part, state = read_initial_weights(method, params)
    part.load_state_dict(state)
    file, whole = Path(params.pretrain.init), part is method
    origin = WeightSource(params.pretrain.init, sha256_of(file), whole)
    _log.info("starting from %s", origin)
    return origin


def read_initial_weights(method: Any, params: Params) -> tuple[nn.Module, dict[str, Tensor]]:
    """Read the weights of pretrain.init and check them; return the part of `method` that takes them.

    Raises ValueError as `load_initial_weights` does. `method` may be on the meta device.
    """
    file = Path(str(params.pretrain.init))
    try:
        state, config = interchange.open_weights(file)
        # Older files hold the fitted module of their target; this run has its own.
        state = {name: value for name, value in state.items() if not name.startswith("target.")}
        whole = any(name.startswith("encoder.") for name in state)
        _check_settings(method, params, config, file, whole)
        part = method if whole else method.encoder
        interchange.check(state, {name: value.shape for name, value in part.state_dict().items()}, str(file))
    except ValueError as error:
        raise ValueError(f"pretrain.init: {error}") from error
    return part, state


def _check_settings(
    method: Any, params: Params, config: dict[str, Any] | None, file: Path, whole: bool
) -> None:
    """Compare heads, colour statistics and targets, which shapes do not show; a file may have no config."""
    if config is None:
        return
    try:
        encoder = config["encoder"] if whole else config
        with torch.device("meta"):
            theirs = _architecture(build(**interchange.encoder_arguments(encoder)))
        theirs |= {f"input.{name}": list(encoder[name]) for name in ("mean", "std")}
        if whole:
            theirs |= _what_weights_mean(config)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: its config is unusable ({error!r})") from error
    ours = _architecture(method.encoder)
    ours |= {f"input.{name}": value for name, value in params.input.numbers.items()}
    ours |= _what_weights_mean(method_config(params))
    wrong = [
        f"{key} is {ours.get(key)}, there {value}" for key, value in theirs.items() if ours.get(key) != value
    ]
    if wrong:
        raise ValueError(f"{file} was trained with other settings: {'; '.join(wrong)}")


def _what_weights_mean(config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of params.yaml that a method file's config fixes, apart from its encoder's."""
    name, settings = config["method"], dict(config["settings"])
    target = config.get("target")
    if "norm_pix" in settings:  # what MAE's files said before there were other targets
        target = "normalised_pixels" if settings.pop("norm_pix") else "pixels"
    said = {"pretrain.method": name, **{f"{name}.{key}": value for key, value in settings.items()}}
    return said | ({"pretrain.target": target} if target else {})


def _architecture(vit: nn.Module) -> dict[str, Any]:
    """Read the keys of params.yaml's `encoder` from a built encoder, whatever its timm name says."""
    built: Any = vit
    block, embedding = built.blocks[0], built.patch_embed
    return {
        "encoder.img_size": tuple(embedding.img_size),
        "encoder.patch_size": tuple(embedding.patch_size),
        "encoder.embed_dim": built.embed_dim,
        "encoder.depth": len(built.blocks),
        "encoder.num_heads": block.attn.num_heads,
        "encoder.mlp_ratio": block.mlp.fc1.out_features / built.embed_dim,
    }
