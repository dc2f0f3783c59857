"""Images to patches and back, picking tokens by index, and sine-cosine positions.

Letters used in every shape of this project:
N images in the batch, C channels, H and W image height and width, P patch side (rows and columns may differ),
L patches in an image (row by row), V visible patches, M masked patches, K tokens of any sequence, D width.
"""

import torch
from torch import Tensor

Pair = tuple[int, int]
EPSILON = 1e-6  # added to a patch's variance, inside the square root


def pair(value: int | Pair | list[int]) -> Pair:
    """Return `value` as (rows, columns): an int is both. Raises ValueError unless both are above 0."""
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or not all(isinstance(side, int) and side > 0 for side in both):
        raise ValueError(f"a size is a whole number of pixels or a pair of them, not {value!r}")
    return both


def grid_of(image_size: int | Pair, patch_size: int | Pair) -> Pair:
    """Count the patches in a column and in a row of an image.

    Raises ValueError where the patches do not tile the image.
    """
    (height, width), (rows, columns) = pair(image_size), pair(patch_size)
    if height % rows or width % columns:
        raise ValueError(
            f"patches of {rows}x{columns} pixels do not tile an image of {height}x{width}: "
            "choose an img_size that is a multiple of patch_size"
        )
    return height // rows, width // columns


def _blocks(images: Tensor, patch_size: int | Pair) -> Tensor:
    """View (N, C, H, W) as (N, H/P, W/P, C, P, P), without a copy."""
    n, c, *size = images.shape
    (rows, columns), (h, w) = pair(patch_size), grid_of((size[0], size[1]), patch_size)
    return images.reshape(n, c, h, rows, w, columns).permute(0, 2, 4, 1, 3, 5)


def patchify(images: Tensor, patch_size: int | Pair) -> Tensor:
    """Split images (N, C, H, W) into patches (N, L, P*P*C), ordered (row, column, channel) as in MAE."""
    return _blocks(images, patch_size).permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch_size: int | Pair, grid: Pair) -> Tensor:
    """Join patches (N, L, P*P*C) to images (N, C, H, W), undoing `patchify`; `grid` is (H/P, W/P)."""
    (rows, columns), (h, w) = pair(patch_size), grid
    if patches.shape[1] != h * w or patches.shape[2] % (rows * columns):
        raise ValueError(f"patches {tuple(patches.shape)} are not {h}x{w} patches of {rows}x{columns} pixels")
    blocks = patches.reshape(len(patches), h, w, rows, columns, -1)
    return blocks.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def normalise(patches: Tensor) -> Tensor:
    """Normalise each patch of (N, L, T) to mean 0 and unbiased variance 1 (arXiv 2111.06377, section 3)."""
    mean, std = _statistics(patches)
    return (patches - mean) / std


def unnormalise(normalised: Tensor, patches: Tensor) -> Tensor:
    """Give normalised patches (N, L, T) the mean and std of `patches`, the inverse of `normalise`."""
    mean, std = _statistics(patches)
    return normalised * std + mean


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + EPSILON).sqrt()


def pixels_at(images: Tensor, patch_size: int | Pair, ids: Tensor) -> Tensor:
    """Select the pixels of the patches `ids` (N, V) alone: (N, V, C*P*P), ordered (channel, row, column).

    That is the order of a convolution's weight, so `linear(pixels_at(...), weight.flatten(1))` is the
    patch embedding of those patches; the rest of the image is never read.
    """
    blocks = _blocks(images, patch_size)
    columns = blocks.shape[2]
    sample = torch.arange(len(ids), device=ids.device)[:, None]
    return blocks[sample, ids // columns, ids % columns].flatten(2)


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """Select tokens (N, K, D) at ids (N, V): (N, V, D)."""
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


def put(tokens: Tensor, ids: Tensor, onto: Tensor) -> Tensor:
    """Copy `onto` (N, K, D) with rows ids (N, V) replaced by tokens (N, V, D), in the dtype of `onto`."""
    return onto.scatter(1, ids[..., None].expand(-1, -1, onto.shape[-1]), tokens.to(onto.dtype))


def sincos_positions(embed_dim: int, grid: Pair) -> Tensor:
    """Compute fixed 2-D positions (L, D) in float32 for a grid (rows, columns), patches row by row.

    MAE's layout (arXiv 2111.06377, appendix A.1, as released): the first half of the channels encodes the
    COLUMN, the second the ROW, each as [sin | cos] at frequencies 10000^(-k / (D/4)). Computed in float64.

    Raises ValueError unless `embed_dim` divides by 4.
    """
    if embed_dim % 4:
        raise ValueError(f"embed_dim {embed_dim} must be divisible by 4: sine and cosine of two coordinates")
    quarter = embed_dim // 4
    # On the CPU whatever the default device: the table is the same bits on every machine.
    steps = torch.arange(quarter, dtype=torch.float64, device="cpu") / quarter
    frequencies = 1 / 10000**steps
    rows, columns = (torch.arange(side, dtype=torch.float64, device="cpu") for side in grid)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    angles = [coordinate.flatten()[:, None] * frequencies for coordinate in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()
