"""Image tokenizers, patches to codes and back: trained (convolutions and FSQ) or fitted (k-means)."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae import distributed
from mae.models.colours import spread_tiles, tile_colours
from mae.models.patches import Pair, normalise, pair, patchify, unnormalise
from mae.models.pca import PatchPCA

DOWN = 8  # pixels of the tokenizer's own view per code
_ROWS = 8192  # vectors that are compared with all centres at once
Parts = dict[str, Tensor]


class Tokenizer(nn.Module):
    """Images to codes and back. grid: codes in a column and in a row; num_codes: of different codes."""

    grid: Pair
    patch_size: Pair
    num_codes: int

    def encode(self, images: Tensor) -> Tensor:
        """Encode images (N, C, H, W), normalised, to codes (N, L) int64, row by row.

        Call it without autocast, so that every precision has the same codes.
        """
        raise NotImplementedError

    def decode(self, codes: Tensor, patches: Tensor) -> Tensor:
        """Decode codes (N, L) to pixels (N, L, P*P*C); `patches` give what a code leaves open."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Parts:
        """Images -> {"loss": to minimise, "error": mean squared error of the decoded images}."""
        raise NotImplementedError

    def round_trip(self, images: Tensor) -> Tensor:
        """Encode and decode images (N, C, H, W): the pixels of their patches (N, L, P*P*C)."""
        return self.decode(self.encode(images), patchify(images.float(), self.patch_size))


class FSQTokenizer(Tokenizer):
    """Convolutions 8 times down, finite scalar quantisation (arXiv 2309.15505), convolutions up again.

    It replaces DALL-E's tokenizer of BEiT and CAE. The tokenizer has its own view of the same crop: images
    are resized (bicubic, antialiased, on their device) to 8 pixels a code, so that codes and patches have the
    same grid; 224 pixels in patches of 16 become 112 (CAE, arXiv 2202.03026).

    levels: of each quantised channel; their product is the number of codes. width: channels at full size,
    a multiple of 8. depth: residual blocks at each size.
    """

    def __init__(
        self,
        grid: Pair,
        patch_size: Pair,
        *,
        channels: int = 3,
        levels: tuple[int, ...] = (8, 8, 8, 16),
        width: int = 64,
        depth: int = 2,
    ) -> None:
        from vector_quantize_pytorch.finite_scalar_quantization import FSQ  # costs seconds

        super().__init__()
        if min(levels, default=0) < 3:
            raise ValueError(f"levels {levels}: each channel needs at least 3")
        if width % 8:
            raise ValueError(f"width {width} must be a multiple of 8")
        self.grid, self.patch_size = grid, patch_size
        widths = [width, 2 * width, 4 * width, 4 * width]
        down: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        up: list[nn.Module] = []
        for before, after in pairwise(widths):
            down += [*(Residual(before) for _ in range(depth)), nn.Conv2d(before, after, 4, 2, padding=1)]
            bigger = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(after, before, 3, padding=1))
            up = [bigger, *(Residual(before) for _ in range(depth)), *up]
        down += [Residual(widths[-1]), nn.Conv2d(widths[-1], len(levels), 1)]
        up = [nn.Conv2d(len(levels), widths[-1], 3, padding=1), Residual(widths[-1]), *up]
        self.encoder = nn.Sequential(*down)
        with torch.device("cpu"):  # it reads its own buffers while it is built, which the meta device forbids
            self.quantise = FSQ(list(levels))
        self.decoder = nn.Sequential(*up, nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, channels, 1))
        self.num_codes = self.quantise.codebook_size

    def view(self, images: Tensor) -> Tensor:
        """Resize images (N, C, H, W) to the tokenizer's view, 8 pixels a code."""
        return _resized(images, (DOWN * self.grid[0], DOWN * self.grid[1]))

    def forward(self, images: Tensor) -> Parts:
        seen = self.view(images)
        rebuilt = self.decoder(self.quantise(self.encoder(seen))[0])
        error = F.mse_loss(rebuilt.float(), seen.float())
        return {"loss": error, "error": error.detach()}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        seen = self.view(images.to(next(self.parameters()).dtype))
        return self.quantise(self.encoder(seen))[1].flatten(1).long()

    @torch.no_grad()
    def decode(self, codes: Tensor, patches: Tensor) -> Tensor:
        rebuilt = self.decoder(self.quantise.indices_to_codes(codes.unflatten(1, self.grid)))
        sides = (self.grid[0] * self.patch_size[0], self.grid[1] * self.patch_size[1])
        return patchify(_resized(rebuilt, sides), self.patch_size)


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions, each after a group norm and SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        halves = [(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in "ab"]
        self.layers = nn.Sequential(*(layer for half in halves for layer in half))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class KMeans(Tokenizer):
    """k-means of normalised patches: a code is the nearest of `codes` centres, a pattern without brightness.

    It learns by mini-batches and holds no data. Its loss is the distance of each centre from the mean of the
    vectors nearest to it: an SGD step of rate 1 moves the centre there, as Lloyd's algorithm does, and
    smaller rates average over batches. In training mode the mean is over the images of all ranks, so that
    any number of ranks learns the same. Give it all images of a step at once (it holds no activations):
    accumulated steps would be averaged without regard to their numbers of vectors. Begin by `start`.
    """

    def __init__(self, grid: Pair, patch_size: Pair, *, channels: int = 3, codes: int = 512) -> None:
        super().__init__()
        self.grid, self.patch_size, self.num_codes = grid, patch_size, codes
        self.centres = nn.Parameter(torch.zeros(codes, self.width(channels)))

    def width(self, channels: int) -> int:
        """Return T, the length of a vector."""
        return self.patch_size[0] * self.patch_size[1] * channels

    def vectors(self, images: Tensor) -> Tensor:
        """Make the vectors (N, L, T) to cluster, in the centres' dtype."""
        return normalise(patchify(images.to(self.centres.dtype), self.patch_size))

    @torch.no_grad()
    def start(self, vectors: Tensor, seed: int) -> None:
        """Choose centres far apart from vectors (n, T) by k-means++; ValueError if n is below `num_codes`."""
        from sklearn.cluster import kmeans_plusplus

        if len(vectors) < self.num_codes:
            raise ValueError(
                f"{len(vectors)} vectors are too few for {self.num_codes} codes: lower tokenizer.codes"
            )
        centres, _ = kmeans_plusplus(vectors.cpu().numpy(), self.num_codes, random_state=seed)
        self.centres.copy_(torch.from_numpy(centres))

    def forward(self, images: Tensor) -> Parts:
        vectors = self.vectors(images).flatten(0, 1)
        codes = self._nearest(vectors)
        means, found = self._means(vectors, codes)
        away = (self.centres - means).square().sum(1)
        error = (vectors - self.centres.detach()[codes]).square().mean()
        return {"loss": 0.5 * (away * found).sum(), "error": error}

    @torch.no_grad()
    def _means(self, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Average vectors (n, T) by their codes (n,): means (K, T), and a flag (K,) for codes in use."""
        counted = torch.cat([torch.ones_like(vectors[:, :1]), vectors], dim=1).double()
        # By index_add, which adds in order, as the gradient of centres[codes] would not; in float64, so that
        # the order in which ranks share the vectors does not matter either.
        sums = counted.new_zeros(self.num_codes, counted.shape[1]).index_add(0, codes, counted)
        if self.training:
            sums = distributed.mean(sums)
        found = sums[:, :1] > 0
        means = sums[:, 1:] / sums[:, :1].where(found, 1)
        return means.to(vectors.dtype), found[:, 0]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        vectors = self.vectors(images)
        return self._nearest(vectors.flatten(0, 1)).view(vectors.shape[:2])

    @torch.no_grad()
    def decode(self, codes: Tensor, patches: Tensor) -> Tensor:
        return unnormalise(self.centres[codes], patches)

    @torch.no_grad()
    def _nearest(self, vectors: Tensor) -> Tensor:
        """Find the nearest centre (n,) of vectors (n, T); the first of equals."""
        lengths = self.centres.square().sum(1)
        turned = self.centres.T
        return torch.cat(
            [torch.addmm(lengths, part, turned, alpha=-2).argmin(1) for part in vectors.split(_ROWS)]
        )


class Palette(KMeans):
    """k-means of colours: a code is the nearest of `codes` colours to a patch's mean (iGPT: to a pixel)."""

    def width(self, channels: int) -> int:
        return channels

    def vectors(self, images: Tensor) -> Tensor:
        return tile_colours(images.to(self.centres.dtype), self.patch_size, 1)[:, :, 0]

    @torch.no_grad()
    def decode(self, codes: Tensor, patches: Tensor) -> Tensor:
        return spread_tiles(self.centres[codes][:, :, None], self.patch_size)


def _resized(images: Tensor, sides: Pair) -> Tensor:
    if tuple(images.shape[-2:]) == sides:
        return images
    return F.interpolate(images, sides, mode="bicubic", align_corners=False, antialias=True)


KINDS: dict[str, Callable[..., nn.Module]] = {
    "fsq": FSQTokenizer,
    "kmeans": KMeans,
    "palette": Palette,
    "pca": PatchPCA,
}


def build_tokenizer(config: Mapping[str, Any]) -> nn.Module:
    """Build the row config["kind"] of KINDS, unfitted. config: kind, grid, patch_size, channels, settings.

    Raises ValueError for an unknown kind or setting.
    """
    try:
        grid, patch_size = pair(config["grid"]), pair(config["patch_size"])
        return KINDS[config["kind"]](grid, patch_size, channels=config["channels"], **config["settings"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the tokenizer's settings {dict(config)} are unusable ({error!r})") from error
