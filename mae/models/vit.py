"""The encoder, a stock timm VisionTransformer: build it, initialise it, run it on part of an image."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import timm
import torch
from timm.layers import Attention, Mlp, PatchEmbed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mae.models.patches import Pair, grid_of, pair, pixels_at, sincos_positions
from mae.suggestions import did_you_mean, not_one_of

OVERRIDES = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "in_chans", "init_values")
POOLS = ("token", "avg")
layer_norm: Any = partial(nn.LayerNorm, eps=1e-6)  # timm types it as a class and passes device and dtype


def build(
    name: str,
    *,
    img_size: int | Pair,
    drop_path: float = 0.0,
    pool: str = "token",
    num_classes: int = 0,
    **overrides: Any,
) -> VisionTransformer:
    """Build a plain timm ViT with one class token, randomly initialised by timm (see `initialise`).

    `name` is any plain `vit_*` of timm (vit_base_patch16_224 ...); `overrides` change its `patch_size`,
    `embed_dim`, `depth`, `num_heads`, `mlp_ratio`, `in_chans` or `init_values` (LayerScale). pool "token"
    keeps the final norm over all tokens (pretraining, probes); "avg" moves it after the mean of the patch
    tokens as `fc_norm` (fine-tuning, arXiv 2111.06377 A.1). num_classes 0 means no head.

    Raises ValueError for an unknown name or override, sizes that do not fit, or a ViT that is not plain.
    """
    _check_arguments(name, pool, overrides)
    create = partial(
        timm.create_model,
        name,
        pretrained=False,
        img_size=pair(img_size),
        num_classes=num_classes,
        global_pool=pool,
        drop_path_rate=drop_path,
        norm_layer=layer_norm,
        **overrides,
    )
    try:
        with torch.device("meta"):  # check the shape before a billion weights are drawn
            draft: Any = create()
    except (AssertionError, TypeError, RuntimeError) as error:
        raise ValueError(f"timm cannot build {name} with {overrides or 'no overrides'}: {error}") from error
    check_plain(draft, name)
    grid_of(img_size, draft.patch_embed.patch_size)
    if draft.embed_dim % 4:
        raise ValueError(f"embed_dim {draft.embed_dim} must be divisible by 4 for sine-cosine positions")
    # A caller on the meta device wants the shape alone.
    return cast(VisionTransformer, draft if torch.get_default_device().type == "meta" else create())


def layer_groups(prefix: str, *with_block: str) -> dict[str, Any]:
    """Group the parameters of a model with an encoder at `prefix` (a regular expression) for layer decay.

    The embedding is the first layer, then come the blocks, each with the matches of `with_block` (regular
    expressions whose group is the block's number); everything else is the last layer, at scale 1.
    """
    return {
        "stem": rf"^{prefix}(?:cls_token|pos_embed|patch_embed)",
        "blocks": [(rf"^{prefix}blocks\.(\d+)", None), *((found, None) for found in with_block)],
    }


def _check_arguments(name: str, pool: str, overrides: Mapping[str, Any]) -> None:
    known = timm.list_models("vit_*", module="vision_transformer")
    if name not in known:
        close = did_you_mean(name, known) or "; vit_base_patch16_224 is one"
        raise ValueError(f"timm has no plain ViT named {name!r}{close}")
    if pool not in POOLS:
        raise ValueError(f"pool {not_one_of(pool, POOLS)}")
    for key, value in overrides.items():
        if key not in OVERRIDES:
            raise ValueError(f"unknown encoder setting: {not_one_of(key, OVERRIDES)}")
        if key in ("embed_dim", "depth", "num_heads", "in_chans") and not (type(value) is int and value > 0):
            raise ValueError(f"{key} must be a whole number above 0, not {value!r}")
        if key in ("mlp_ratio", "init_values") and not isinstance(value, int | float):
            raise ValueError(f"{key} must be a number, not {value!r}")
    pair(overrides.get("patch_size", 1))


def check_plain(vit: nn.Module, name: str = "the encoder") -> None:
    """Raise ValueError, naming why, unless `vit` is a plain ViT: one class token, absolute positions."""
    if type(vit) is not VisionTransformer:
        raise ValueError(f"{name} is a {type(vit).__name__}, not a timm VisionTransformer")
    block: Any = vit.blocks[0]
    problems = {
        "no class token": not vit.has_class_token,
        "register tokens": vit.num_reg_tokens > 0,
        "no position for the class token": vit.no_embed_class,
        "no absolute positions": vit.pos_embed is None,
        "a norm before the blocks": not isinstance(vit.norm_pre, nn.Identity),
        "attention pooling": vit.attn_pool is not None,
        "its own patch embedding": type(vit.patch_embed) is not PatchEmbed,
        "a norm in the patch embedding": not isinstance(vit.patch_embed.norm, nn.Identity),
        "variable image sizes": vit.dynamic_img_size,
        "patch dropout": not isinstance(vit.patch_drop, nn.Identity),
        "blocks of another kind": type(block) is not Block,
    }
    if type(block) is Block:
        attention: Any = block.attn
        mlp: Any = block.mlp
        problems |= {
            "attention of another kind": type(attention) is not Attention,
            "normalised queries": not isinstance(getattr(attention, "q_norm", None), nn.Identity),
            "no bias in attention": getattr(attention, "qkv", None) is None or attention.qkv.bias is None,
            "another MLP": type(mlp) is not Mlp,
            "no exact GELU": type(mlp.act) is not nn.GELU or mlp.act.approximate != "none",
        }
    found = [problem for problem, there in problems.items() if there]
    if found:
        raise ValueError(f"{name} is not a plain ViT ({'; '.join(found)}); vit_base_patch16_224 is one")


@torch.no_grad()
def initialise(vit: VisionTransformer) -> None:
    """MAE's initialisation (arXiv 2111.06377 A.1, as released), in place, over the weights of `vit`.

    Patch embedding Xavier-uniform as one matrix, its bias as a convolution's; every Linear Xavier-uniform
    with zero bias; class token normal of std .02; sine-cosine positions, frozen, zeros for the class token.
    """
    vit.apply(xavier)
    vit.patch_embed.proj.reset_parameters()
    nn.init.xavier_uniform_(vit.patch_embed.proj.weight.view(vit.embed_dim, -1))
    cls_token, positions = _learned(vit)
    nn.init.normal_(cls_token, std=0.02)
    table = sincos_positions(vit.embed_dim, vit.patch_embed.grid_size)
    positions.copy_(F.pad(table, (0, 0, 1, 0))[None])
    positions.requires_grad_(False)


def _learned(vit: VisionTransformer) -> tuple[nn.Parameter, nn.Parameter]:
    """Return class token (1, 1, D) and positions (1, 1+L, D), which timm types as optional."""
    return cast(nn.Parameter, vit.cls_token), cast(nn.Parameter, vit.pos_embed)


def xavier(module: nn.Module) -> None:
    """Initialise a module (for `Module.apply`): Linear Xavier-uniform with zero bias, norms the identity."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()


def encode(
    vit: VisionTransformer,
    images: Tensor,
    visible_ids: Tensor | None = None,
    corrupt: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Encode images (N, C, H, W) to tokens (N, 1+V, D) after the final norm, class token first.

    visible_ids (N, V): only these patches enter, from their pixels on (MAE, CAE).
    corrupt (mask (N, L) bool, mask_token broadcastable to (N, L, D)): every patch enters, the masked ones
    with their embedding replaced before positions are added (BEiT, SimMIM, MAE's Table 1c).
    With neither, all patches: exactly `vit.forward_features(images)`.

    Raises ValueError for images of another size than the encoder's, or for both arguments at once.
    """
    embedding = vit.patch_embed
    wanted = (vit.in_chans, *embedding.img_size)
    if images.shape[1:] != wanted:
        raise ValueError(
            f"the encoder takes (N, C, H, W) with (C, H, W) = {wanted}, not {tuple(images.shape)}"
        )
    if visible_ids is not None and corrupt is not None:
        raise ValueError("encode takes visible_ids or corrupt, not both")
    cls_token, positions = _learned(vit)
    if visible_ids is not None:
        pixels = pixels_at(images, embedding.patch_size, visible_ids)
        tokens = F.linear(pixels, embedding.proj.weight.flatten(1), embedding.proj.bias)
        tokens = tokens + positions[0, 1:][visible_ids]
    elif corrupt is not None:
        mask, mask_token = corrupt
        tokens = embedding(images)
        tokens = torch.where(mask[..., None], mask_token.to(tokens.dtype), tokens) + positions[:, 1:]
    else:
        return vit.forward_features(images)
    first = (cls_token + positions[:, :1]).expand(len(tokens), -1, -1)
    tokens = vit.pos_drop(torch.cat([first, tokens], dim=1))
    tokens = checkpoint_seq(vit.blocks, tokens) if vit.grad_checkpointing else vit.blocks(tokens)
    return vit.norm(tokens)


def tokens_after(vit: VisionTransformer, images: Tensor, block: int, *, causal: bool = False) -> Tensor:
    """Encode images to tokens (N, 1+L, D) after block number `block` (from 0), before any norm.

    causal: each token attends only to itself and those before it (iGPT).
    """
    found: Any = vit.forward_intermediates(
        images,
        indices=[block],
        return_prefix_tokens=True,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
        is_causal=causal,
    )
    patches, first = found[0]
    return torch.cat([first, patches], dim=1)


def resize_positions(state: Mapping[str, Tensor], from_grid: Pair, to_grid: Pair) -> dict[str, Tensor]:
    """Resample `pos_embed` (1, 1+L, D) of an encoder's state to another grid; the class row stays.

    Bicubic without antialiasing, as MAE's release does for larger fine-tuning images; timm's own resampling
    antialiases and differs by 5 % from 14 to 24 patches.

    Raises ValueError where the table does not have `from_grid` patches.
    """
    table = state["pos_embed"]
    if table.shape[1] != 1 + from_grid[0] * from_grid[1]:
        raise ValueError(f"pos_embed has {table.shape[1]} rows, not a class row and a grid of {from_grid}")
    resized = dict(state)
    if tuple(from_grid) != tuple(to_grid):
        image = table[:, 1:].unflatten(1, tuple(from_grid)).permute(0, 3, 1, 2)
        image = F.interpolate(image.float(), size=tuple(to_grid), mode="bicubic", align_corners=False)
        patches = image.to(table.dtype).flatten(2).transpose(1, 2)
        resized["pos_embed"] = torch.cat([table[:, :1], patches], dim=1)
    return resized
