"""Methods that draw a mask: they predict part of an image's patches from what enters the encoder."""

from typing import ClassVar

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.methods.method import Method
from mae.models.masking import Mask, Masking, masking


class MaskedMethod(Method):
    """A method that hides patches of each image. A subclass says what it predicts of them.

    One that predicts a target of patches, such as pixels or classes, is a `MaskedImageModeling`; I-JEPA is
    not: it predicts latents. masking: from `models.masking.masking`; None: the paper's.
    """

    masked = True
    paper_mask: ClassVar[tuple[str, float]]  # mask and mask ratio, the constructor's defaults

    def __init__(
        self, encoder: VisionTransformer, *, masking: Masking | None = None, fresh: bool = True
    ) -> None:
        super().__init__(encoder, fresh=fresh)
        self.masking = masking or _build_masking(*self.paper_mask, encoder)
        self.noise_shape = self.masking.noise_shape

    def sample_mask(self, images: Tensor, noise: Tensor | None = None) -> Mask:
        """Draw the mask of images (N, C, H, W), fixed by noise (N, *noise_shape) where that is given.

        Raises ValueError for noise of another shape.
        """
        return self.masking.sample(images, noise)

    def predict(self, images: Tensor, mask: Mask) -> Tensor:
        """Predict from the visible patches what `forward` compares with its target."""
        raise NotImplementedError

    def describe(self) -> dict[str, int | str]:
        patches = self.encoder.patch_embed.num_patches
        return {**super().describe(), "patches": patches, "masked": self.masking.num_masked}

    @property
    def picture_note(self) -> str:
        return "grey patches are hidden; the method predicts no pixels, so nothing is reconstructed"


def _build_masking(name: str, mask_ratio: float, encoder: VisionTransformer) -> Masking:
    return masking(name, encoder.patch_embed.grid_size, mask_ratio)
