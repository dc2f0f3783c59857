"""Image tokenizers, a code for every patch and back: trained (convolutions and FSQ) or fitted (k-means)."""

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
_ROWS = 8192  # of vectors that are compared with all centres at a time
Parts = dict[str, Tensor]


class Tokenizer(nn.Module):
    """Codes of images and back. grid: codes in a column and in a row; num_codes: how many different ones."""

    grid: Pair
    patch_size: Pair
    num_codes: int

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised -> codes (N, L) int64, row by row. Call it without autocast: codes
        are to be the same for every precision."""
        raise NotImplementedError

    def decode(self, codes: Tensor, patches: Tensor) -> Tensor:
        """Codes (N, L) -> pixels of the patches (N, L, P*P*C); what a code leaves open is as in `patches`."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Parts:
        """{"loss": what is minimised, "error": mean squared error of what comes back}."""
        raise NotImplementedError

    def round_trip(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> the pixels of their patches (N, L, P*P*C), out of their codes."""
        return self.decode(self.encode(images), patchify(images.float(), self.patch_size))


class FSQTokenizer(Tokenizer):
    """Convolutions 8 times down, finite scalar quantisation (arXiv 2309.15505), convolutions up again.

    It stands in for DALL-E's tokenizer of BEiT and CAE. The tokenizer has a view of its own of the same crop:
    images are resized (bicubic, antialiased, on their device) to 8 pixels a code, so that the codes' grid is
    the patches'; of 224 pixels in patches of 16 that is 112 (CAE, arXiv 2202.03026).

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
        self.quantise = FSQ(list(levels))
        self.decoder = nn.Sequential(*up, nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, channels, 1))
        self.num_codes = self.quantise.codebook_size

    def view(self, images: Tensor) -> Tensor:
        """What the tokenizer sees of images (N, C, H, W): the same, at 8 pixels a code."""
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
    """x + two 3x3 convolutions of it, each after a group norm and SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        halves = [(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in "ab"]
        self.layers = nn.Sequential(*(layer for half in halves for layer in half))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class KMeans(Tokenizer):
    """The nearest of `codes` centres to each normalised patch: a code is a pattern of no brightness.

    It learns by mini-batches, holding no data: its loss is how far each centre is from the mean of the
    vectors nearest to it, so an SGD step of rate 1 puts the centre there, as Lloyd's algorithm does, and
    smaller rates average over batches. In training mode that is the mean over the images of all ranks, so
    any number of them learns the same; accumulated steps would be averaged, however many vectors each has:
    give it the images of a step at once, it holds no activations of them. Begin by `start`.
    """

    def __init__(self, grid: Pair, patch_size: Pair, *, channels: int = 3, codes: int = 512) -> None:
        super().__init__()
        self.grid, self.patch_size, self.num_codes = grid, patch_size, codes
        self.centres = nn.Parameter(torch.zeros(codes, self.width(channels)))

    def width(self, channels: int) -> int:
        """T, how long a vector is."""
        return self.patch_size[0] * self.patch_size[1] * channels

    def vectors(self, images: Tensor) -> Tensor:
        """What is clustered, (N, L, T), in the centres' dtype."""
        return normalise(patchify(images.to(self.centres.dtype), self.patch_size))

    @torch.no_grad()
    def start(self, vectors: Tensor, seed: int) -> None:
        """Centres from vectors (n, T), far apart, by k-means++; ValueError where n is below `num_codes`."""
        from sklearn.cluster import kmeans_plusplus

        if len(vectors) < self.num_codes:
            raise ValueError(
                f"{len(vectors)} vectors to choose {self.num_codes} codes from: choose fewer codes"
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
        """Of vectors (n, T) with codes (n,): the mean (K, T) of each code's, and whether it has any (K,)."""
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
        """Of vectors (n, T), the number (n,) of the nearest centre; the first of equals."""
        lengths = self.centres.square().sum(1)
        turned = self.centres.T
        return torch.cat(
            [torch.addmm(lengths, part, turned, alpha=-2).argmin(1) for part in vectors.split(_ROWS)]
        )


class Palette(KMeans):
    """The nearest of `codes` colours to each patch's mean: to each pixel, where that is a patch (iGPT)."""

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
    """The row config["kind"] of KINDS, unfitted. config: kind, grid, patch_size, channels, settings.

    Raises ValueError for a kind or settings that there are not.
    """
    try:
        grid, patch_size = pair(config["grid"]), pair(config["patch_size"])
        return KINDS[config["kind"]](grid, patch_size, channels=config["channels"], **config["settings"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"no tokenizer can be built of {dict(config)} ({error!r})") from error
