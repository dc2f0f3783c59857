"""Targets: the values to predict for a masked patch, and the loss that fits them. A target is frozen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mae.models.colours import COLOURS, ColourBins, spread_tiles, tile_colours
from mae.models.hog import hog, hog_width
from mae.models.patches import Pair, normalise, patchify, unnormalise
from mae.models.pca import PatchPCA
from mae.models.tokenizer import KMeans, Palette, Tokenizer
from mae.suggestions import not_one_of

BORROWED = "each masked one is shown with the mean and contrast of the original patch"
Fitted = TypeVar("Fitted", bound=nn.Module)


class Target(nn.Module):
    """A target: the values to predict for each patch of an image. Always in eval mode, never trained.

    width: T, the values that a head predicts per patch. classes: their number, None where values are real.
    fitted: the result of the stage `tokenizer`. It is an input of a run, as images are: it moves with the
    target but is not in its state, so that no checkpoint and no file of another run can replace it.
    """

    width: int
    classes: int | None = None
    fitted: nn.Module | None

    def __init__(self, patch_size: Pair, width: int, fitted: nn.Module | None = None) -> None:
        super().__init__()
        self.patch_size, self.width = patch_size, width
        # Not by nn.Module, which would make it a submodule.
        vars(self)["fitted"] = None if fitted is None else fitted.requires_grad_(False).eval()
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), float32 or float64 -> values (N, L, T), or classes (N, L) or (N, L, S)."""
        raise NotImplementedError

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Compare (N, M, width) with (N, M, ...): 0-dim, in float32, or float64 where the target is."""
        return squared_error(predicted, target)

    def as_pixels(self, predicted: Tensor, patches: Tensor) -> Tensor | None:
        """Turn predictions (N, L, width) into pixels (N, L, P*P*C); None where they cannot be drawn.

        patches (N, L, P*P*C): the original pixels; `note` names what a picture borrows of them.
        """
        return None

    @property
    def note(self) -> str:
        """Caption for pictures by `as_pixels`."""
        return "masked patches are shown as predicted"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Target":
        """Move `fitted`, too, to another device or dtype."""
        if self.fitted is not None:
            self.fitted._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> "Target":
        """Stay in eval mode, whatever the method around it does."""
        return super().train(False)


class Pixels(Target):
    """The pixels of each patch (N, L, P*P*C), ordered (row, column, channel)."""

    def forward(self, images: Tensor) -> Tensor:
        return patchify(images, self.patch_size)

    def as_pixels(self, predicted: Tensor, patches: Tensor) -> Tensor | None:
        return predicted


class NormalisedPixels(Pixels):
    """Pixels (N, L, P*P*C), each patch of mean 0 and unbiased variance 1 (arXiv 2111.06377, section 3)."""

    def forward(self, images: Tensor) -> Tensor:
        return normalise(patchify(images, self.patch_size))

    def as_pixels(self, predicted: Tensor, patches: Tensor) -> Tensor | None:
        """Use each patch's mean and std of the ORIGINAL, masked patches included.

        A model of normalised pixels predicts a patch's pattern, not its brightness or contrast.
        """
        return unnormalise(predicted, patches)

    @property
    def note(self) -> str:
        return f"the model predicts normalised patches, so {BORROWED}"


class Coefficients(Target):
    """Coefficients (N, L, K) of each patch's first principal components (MAE's Table 1d: 96)."""

    fitted: PatchPCA

    def __init__(self, pca: PatchPCA) -> None:
        super().__init__(pca.patch_size, len(pca.components), pca)

    def forward(self, images: Tensor) -> Tensor:
        return self.fitted.coefficients(images)

    def as_pixels(self, predicted: Tensor, patches: Tensor) -> Tensor | None:
        return self.fitted.rebuilt(predicted)


class HOG(Target):
    """Histograms of oriented gradients (N, L, T), see `models.hog` (MaskFeat, arXiv 2112.09133)."""

    def forward(self, images: Tensor) -> Tensor:
        return hog(images, self.patch_size)

    @property
    def note(self) -> str:
        return "the model predicts gradients' orientations, which cannot be drawn"


class Classes(Target):
    """A target of `count` classes each for S parts of a patch, (N, L, S), or (N, L) where S is 1."""

    classes: int

    def __init__(self, patch_size: Pair, count: int, parts: int = 1, fitted: nn.Module | None = None) -> None:
        super().__init__(patch_size, parts * count, fitted)
        self.classes, self.parts = count, parts

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy, in float32, or float64 where the prediction is."""
        wide = predicted if predicted.dtype == torch.float64 else predicted.float()
        return F.cross_entropy(wide.reshape(-1, self.classes), target.flatten())

    def likeliest(self, predicted: Tensor) -> Tensor:
        """Choose the likeliest classes: (N, L, width) -> (N, L, S)."""
        return predicted.unflatten(2, (self.parts, self.classes)).argmax(-1)


class Colours(Classes):
    """The mean colour of each of tiles x tiles parts of a patch, one of 512 (arXiv 2010.11929, B.1.2)."""

    def __init__(self, patch_size: Pair, bins: ColourBins, tiles: int = 1) -> None:
        super().__init__(patch_size, COLOURS, tiles**2)
        self.bins, self.tiles = bins, tiles

    def forward(self, images: Tensor) -> Tensor:
        classes = self.bins.classes(tile_colours(images, self.patch_size, self.tiles))
        return classes[..., 0] if self.parts == 1 else classes

    def as_pixels(self, predicted: Tensor, patches: Tensor) -> Tensor | None:
        return spread_tiles(self.bins.colours(self.likeliest(predicted)), self.patch_size)


class Tokens(Classes):
    """The tokenizer's code (N, L) of each patch (BEiT, CAE; iGPT's palette).

    The tokenizer takes the encoder's images and makes its own view of them on their device.
    """

    fitted: Tokenizer

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer.patch_size, tokenizer.num_codes, fitted=tokenizer)

    def forward(self, images: Tensor) -> Tensor:
        return self.fitted.encode(images)

    def as_pixels(self, predicted: Tensor, patches: Tensor) -> Tensor | None:
        return self.fitted.decode(self.likeliest(predicted)[..., 0], patches)

    @property
    def note(self) -> str:
        likeliest = "masked patches are shown as the tokenizer draws their likeliest codes"
        borrows = isinstance(self.fitted, KMeans) and not isinstance(self.fitted, Palette)
        return f"{likeliest}: {BORROWED}" if borrows else likeliest


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Compute the mean squared error of (N, M, T): 0-dim, in the dtype of `target`."""
    return (predicted.to(target.dtype) - target).square().mean()


@dataclass(frozen=True)
class TargetInputs:
    """The arguments of a row of TARGETS. colours: of the images' normalisation."""

    patch_size: Pair
    grid: Pair
    channels: int
    colours: ColourBins
    fitted: nn.Module | None

    @property
    def values(self) -> int:
        return self.patch_size[0] * self.patch_size[1] * self.channels

    def needed(self, kind: type[Fitted], said: str) -> Fitted:
        """Return `fitted` if it is of that kind and fits these patches; raise ValueError otherwise."""
        if not isinstance(self.fitted, kind):
            raise ValueError(f"it needs the stage `tokenizer` run with tokenizer.kind {said}")
        there = (cast(Any, self.fitted).grid, cast(Any, self.fitted).patch_size)
        if there != (self.grid, self.patch_size):
            raise ValueError(
                f"the tokenizer has a grid of {there[0]} with patches of {there[1]}, the encoder {self.grid} "
                f"of {self.patch_size}: run the stage `tokenizer` for this encoder"
            )
        return self.fitted


TARGETS: dict[str, Callable[[TargetInputs], Target]] = {
    "pixels": lambda inputs: Pixels(inputs.patch_size, inputs.values),
    "normalised_pixels": lambda inputs: NormalisedPixels(inputs.patch_size, inputs.values),
    "pca": lambda inputs: Coefficients(inputs.needed(PatchPCA, "pca")),
    "hog": lambda inputs: HOG(inputs.patch_size, hog_width(inputs.patch_size, inputs.channels)),
    "mean_colour": lambda inputs: Colours(inputs.patch_size, inputs.colours),
    "mosaic": lambda inputs: Colours(inputs.patch_size, inputs.colours, tiles=4),
    "tokens": lambda inputs: Tokens(inputs.needed(Tokenizer, "fsq or kmeans (palette for iGPT)")),
}


def build_target(
    name: str,
    encoder: VisionTransformer,
    fitted: nn.Module | None = None,
    *,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> Target:
    """Build the row `name` of TARGETS for the images and patches of `encoder`.

    fitted: for pca a PatchPCA, for tokens a Tokenizer, as the stage `tokenizer` fits them. mean, std: of the
    images' normalisation. Raises ValueError for an unknown name, or if `fitted` does not fit.
    """
    if name not in TARGETS:
        raise ValueError(f"target {not_one_of(name, TARGETS)}")
    embedding = encoder.patch_embed
    sizes = tuple(embedding.patch_size), tuple(embedding.grid_size)
    inputs = TargetInputs(*sizes, encoder.in_chans, ColourBins(mean, std), fitted)
    try:
        return TARGETS[name](inputs)
    except ValueError as error:
        raise ValueError(f"target {name}: {error}") from None
