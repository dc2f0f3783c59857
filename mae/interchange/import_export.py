"""`mae import` and `mae export`: conversion of other projects' checkpoints to our encoder file, and back."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from mae.files import atomic_path, atomic_write, write_text
from mae.interchange.checkpoint_files import (
    check,
    encoder_shapes,
    load_encoder,
    open_checkpoint,
    save_encoder,
)
from mae.interchange.convert import ENCODERS, State, convert
from mae.models.patches import Pair, grid_of, pair
from mae.models.vit import build, resize_positions
from mae.suggestions import not_one_of

_log = logging.getLogger(__name__)
SAFETENSORS_ENDING = ".safetensors"
TORCH_ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
ENDINGS = {"timm": (SAFETENSORS_ENDING, *TORCH_ENDINGS), "official": TORCH_ENDINGS, "hf": ()}  # hf: a folder
FORMATS = tuple(ENDINGS)
HOLD_AN_ENCODER = (*ENCODERS, "official")  # under one prefix; those of "mae" and "hf" lie under another one
HEADS = ("head.", "fc_norm.", "pooler.")  # timm's, and that of Hugging Face's ViTModel
IMAGENET = {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}
# MAE's own sizes by (embed_dim, depth): their names and heads. Weights do not show the number of heads, and
# smaller ViTs exist with two (CAE's and MoCo v3's ViT-S has 12, timm's 6), so others must be given.
PRESETS = {
    (768, 12): ("vit_base_patch16_224", 12),
    (1024, 24): ("vit_large_patch16_224", 16),
    (1280, 32): ("vit_huge_patch14_224", 16),
}


def export(encoder_file: str | Path, out: str | Path, format: str) -> None:
    """Write an encoder file in another project's format: one of FORMATS.

    "timm": weights that `timm.create_model(name, num_classes=0, checkpoint_path=out)` loads strictly, in the
    form that the ending of `out` names. "official": a torch file {"model": weights}, as the MAE release's.
    "hf": a folder that `ViTMAEModel.from_pretrained` reads, with mask_ratio 0 so that nothing is dropped
    (transformers still orders patches by random noise: pass `noise` ascending to keep their order).
    Raises ValueError where the format cannot hold this encoder, or has no file of this ending.
    """
    if format not in FORMATS:
        raise ValueError(f"format {not_one_of(format, FORMATS)}")
    out = Path(out)
    _check_ending(out, ENDINGS[format], f"the format {format}")
    state, config = load_encoder(encoder_file)
    if format == "hf":
        _export_hf(state, config, out)
    elif out.name.lower().endswith(SAFETENSORS_ENDING):
        save_encoder(out, state, config)
    else:
        _save(out, state if format == "timm" else {"model": state})


def _check_ending(out: Path, endings: tuple[str, ...], what: str) -> None:
    """Raise ValueError where the name of `out` says another form than `what` has; no endings: a folder."""
    if not endings and (out.is_file() or out.name.lower().endswith(ENDINGS["timm"])):
        raise ValueError(f"{out}: {what} is a folder: give it a name without a file's ending")
    if endings and not out.name.lower().endswith(endings):
        folder = ", or without an ending for a folder" if endings is ENDINGS["timm"] else ""
        raise ValueError(f"{out}: {what} is a file that ends in {' or '.join(endings)}: name it so{folder}")
    if endings and out.is_dir():
        raise ValueError(f"{out}: a folder of this name is in the way")


def _save(out: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(out) as file:  # a file, not a name: torch would write the name into it
        torch.save(content, file)


def _export_hf(state: State, config: Mapping[str, Any], folder: Path) -> None:
    if any(".ls1." in name for name in state):
        raise ValueError("Hugging Face ViTMAE has no LayerScale: this encoder cannot be exported to it")
    dims = dimensions(state)
    height, width = pair(config["img_size"])
    heads = config.get("num_heads") or _width_and_heads(config["name"])[1]
    described = {
        "architectures": ["ViTMAEModel"],
        "model_type": "vit_mae",
        "hidden_size": dims["embed_dim"],
        "num_hidden_layers": dims["depth"],
        "num_attention_heads": heads,
        "intermediate_size": state["blocks.0.mlp.fc1.weight"].shape[0],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": height if height == width else [height, width],
        "patch_size": dims["patch_size"],
        "num_channels": dims["in_chans"],
        "qkv_bias": True,
        "mask_ratio": 0.0,
    }
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": config["mean"],
        "image_std": config["std"],
    }
    weights = {name: value.contiguous().clone() for name, value in convert(state, "hf_encoder").items()}
    for name, content in (("config.json", described), ("preprocessor_config.json", processor)):
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
    with atomic_path(folder / "model.safetensors") as file:
        safetensors.torch.save_file(weights, file, {"format": "pt"})


def import_(
    path: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    img_size: int | Pair | None = None,
    num_heads: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    prefix: str | None = None,
) -> dict[str, Any]:
    """Read a checkpoint of any known kind, write its encoder to `out`, and return that file's config.

    Sizes come from the weights; heads from `num_heads`, `name`, the file (ours tell them, and folders of
    Hugging Face and timm's hub) or MAE's presets. img_size: at another size than the weights', positions are
    resampled (bicubic, as the release does); needed for a grid that is not square.
    mean and std of the images: the file's, else ImageNet's, unless given. prefix: that of the encoder's
    names, where the file holds several. A fine-tuned checkpoint's head is left out, and its `fc_norm` becomes
    the final norm. Raises ValueError naming the file and what is missing.
    """
    out = Path(out)
    _check_ending(out, (SAFETENSORS_ENDING,), "an encoder file of ours")
    checkpoint = open_checkpoint(path)
    kind, state = checkpoint.model(HOLD_AN_ENCODER, prefix)
    state = _without_head(convert(state, "timm", kind))
    try:
        sizes = dimensions(state)
    except KeyError as error:
        raise ValueError(f"{path}: the encoder in it lacks {error.args[0]}") from None
    told = checkpoint.about
    if name is None and num_heads is None and "name" in told:
        name, num_heads = told["name"], told.get("num_heads") or _width_and_heads(told["name"])[1]
    elif name is None:
        num_heads = num_heads or told.get("num_heads")
    name, heads = _identity(path, sizes, name, num_heads)
    _refuse_unusable(path, state)
    grid = _grid(path, state, sizes["patch_size"], img_size, told.get("img_size"))
    rows, columns = pair(sizes["patch_size"])
    size = (grid[0] * rows, grid[1] * columns)
    given = {"mean": mean or told.get("mean"), "std": std or told.get("std")}
    statistics = {key: _statistic(path, key, value, sizes["in_chans"]) for key, value in given.items()}
    if None in given.values():
        _log.warning("%s does not tell its images' colours: ImageNet's; --mean and --std give others", path)
    config = {"name": name, "img_size": _plain(size), **sizes, "num_heads": heads, **statistics}
    check(state, encoder_shapes(config), str(path))
    if img_size is not None and pair(img_size) != size:
        config["img_size"] = _plain(pair(img_size))
        state = resize_positions(state, grid, grid_of(img_size, sizes["patch_size"]))
    save_encoder(out, state, config)
    return config


def dimensions(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Find patch_size, embed_dim, depth, mlp_ratio and in_chans of an encoder from the shapes of its weights.

    Raises KeyError with the name of a weight that it needs and does not find.
    """
    embed_dim, in_chans, rows, columns = state["patch_embed.proj.weight"].shape
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    ratio = hidden / embed_dim
    if int(embed_dim * ratio) != hidden:  # timm truncates
        ratio = math.nextafter(ratio, math.inf)
    sizes = {
        "patch_size": _plain((rows, columns)),
        "embed_dim": embed_dim,
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "mlp_ratio": ratio,
        "in_chans": in_chans,
    }
    if "blocks.0.ls1.gamma" in state:
        sizes["init_values"] = 1e-5  # LayerScale exists; its values are in the weights
    return sizes


def _statistic(path: str | Path, key: str, given: Sequence[float] | None, channels: int) -> list[float]:
    """Return the mean or std of the images' colours; ImageNet's where nobody gives one."""
    if given is None and channels != 3:
        raise ValueError(f"{path}: {channels} channels: give the {key} of its images (--{key})")
    values = IMAGENET[key] if given is None else list(given)
    if len(values) != channels or not all(0 <= value <= 1 for value in values):
        raise ValueError(
            f"{path}: {key} {values}: it needs {channels} numbers from 0 to 1; divide those of pixels by 255"
        )
    return values


def _plain(size: Pair) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def _without_head(state: State) -> State:
    kept = {name: value for name, value in state.items() if not name.startswith(HEADS)}
    if "norm.weight" not in kept:
        kept |= {
            f"norm.{end}": state[f"fc_norm.{end}"] for end in ("weight", "bias") if f"fc_norm.{end}" in state
        }
    return kept


def _identity(
    path: str | Path, sizes: Mapping[str, Any], name: str | None, num_heads: int | None
) -> tuple[str, int]:
    """Find the timm name and the number of heads of the encoder in `path`."""
    width, depth = sizes["embed_dim"], sizes["depth"]
    if name is not None:
        named_width, heads = _width_and_heads(name)
        if num_heads is None and named_width != width:
            raise ValueError(f"{path}: its width is {width}, that of {name} {named_width}: give --num-heads")
        return name, num_heads or heads
    if (width, depth) in PRESETS:
        name, heads = PRESETS[width, depth]
        return name, num_heads or heads
    if num_heads is None:
        raise ValueError(
            f"{path}: weights do not show the number of attention heads of a ViT of width {width} and depth "
            f"{depth}: give --num-heads, or --name of the timm model that it is"
        )
    return "vit_base_patch16_224", num_heads


def _width_and_heads(name: str) -> tuple[int, int]:
    with torch.device("meta"):
        vit = build(name, img_size=16, patch_size=16, depth=1)
    block: Any = vit.blocks[0]
    return vit.embed_dim, block.attn.num_heads


def _refuse_unusable(path: str | Path, state: State) -> None:
    """Raise ValueError for an encoder with register tokens, and for weights that are whole numbers."""
    registers = [name for name in state if "reg_token" in name or "register_token" in name]
    if registers:
        raise ValueError(
            f"{path}: has register tokens ({registers[0]}), which the encoders here lack: take the model's "
            "version without registers"
        )
    if whole := [name for name, value in state.items() if not value.is_floating_point()]:
        raise ValueError(
            f"{path}: {whole[0]} holds whole numbers ({state[whole[0]].dtype}), as quantised weights do: "
            "take the weights in 16 or 32 bits"
        )


def _grid(path: str | Path, state: State, patch_size: int | Pair, *sizes: int | Pair | None) -> Pair:
    """Find the grid of the position table: that of one of `sizes` that has as many patches, else a square."""
    if "pos_embed" not in state:
        raise ValueError(f"{path}: the encoder in it lacks pos_embed")
    length = state["pos_embed"].shape[1] - 1
    for size in sizes:
        if size is not None:
            rows, columns = grid_of(size, patch_size)
            if rows * columns == length:
                return rows, columns
    side = math.isqrt(max(length, 0))
    if side * side != length:
        raise ValueError(f"{path}: {length} positions are no square grid: give --img-size of its images")
    return side, side
