"""Pretrained weights for an encoder that may have another image size or pooling."""

from collections.abc import Mapping

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.models.vit import resize_positions


def load_encoder_state(
    vit: VisionTransformer, state: Mapping[str, Tensor], from_grid: tuple[int, int] | None = None
) -> None:
    """Load pretrained weights into `vit`, except a head, and except the final norm where `vit` averages.

    An encoder with pool "avg" has a fresh fc_norm instead of the pretrained norm, as in MAE's fine-tuning.
    from_grid (rows, columns): the grid of the weights' positions where it is not square. Raises ValueError
    naming the keys that are missing, left over or of another shape.
    """
    averages = isinstance(vit.norm, nn.Identity)
    dropped = ("head.", "fc_norm.", "norm.") if averages else ("head.", "fc_norm.")
    kept = {name: value for name, value in state.items() if not name.startswith(dropped)}
    if "pos_embed" in kept:
        side = round((kept["pos_embed"].shape[1] - 1) ** 0.5)
        kept = resize_positions(kept, from_grid or _grid(vit, kept, side), vit.patch_embed.grid_size)
    own = {
        name: value for name, value in vit.state_dict().items() if not name.startswith(("head.", "fc_norm."))
    }
    wrong = sorted(own.keys() ^ kept.keys())
    wrong += [name for name in own.keys() & kept.keys() if own[name].shape != kept[name].shape]
    if wrong:
        raise ValueError(
            f"the pretrained weights do not fit this encoder: {', '.join(wrong[:6])} missing, left over "
            "or of another shape; build it with the name and sizes that it was pretrained with"
        )
    vit.load_state_dict(kept, strict=False)


def _grid(vit: VisionTransformer, state: Mapping[str, Tensor], side: int) -> tuple[int, int]:
    length = state["pos_embed"].shape[1] - 1
    if length == vit.patch_embed.num_patches:
        return vit.patch_embed.grid_size
    if side * side != length:
        raise ValueError(f"pos_embed has {length} patches, not a square number: give their grid as from_grid")
    return side, side
