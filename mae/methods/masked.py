"""What methods that hide patches share: the mask, what is to be predicted where, and predictions to draw."""

from contextlib import nullcontext
from typing import ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.amp import is_autocast_available

from mae.methods.method import Method
from mae.models.masking import Mask, Masking, masking
from mae.models.targets import Target, build_target


class MaskedMethod(Method):
    """Hide patches, predict the target of the hidden ones. A subclass says how, in `predict`.

    masking, target: from `models.masking.masking` and `models.targets.build_target`; None: the paper's.
    """

    masked = True
    paper: ClassVar[tuple[str, float, str]]  # its mask, mask ratio and target, the constructor's defaults

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        masking: Masking | None = None,
        target: Target | None = None,
        fresh: bool = True,
    ) -> None:
        super().__init__(encoder, fresh=fresh)
        self.masking = masking or _paper_masking(self.paper, encoder)
        self.target = target or build_target(self.paper[2], encoder)
        self.noise_shape = self.masking.noise_shape

    def predict(self, images: Tensor, mask: Mask, wanted_ids: Tensor | None = None) -> Tensor:
        """Predictions (N, M, width) for the patches wanted_ids (N, M); (N, L, width) without them."""
        raise NotImplementedError

    def forward(self, images: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """images (N, C, H, W) -> {"loss": the target's, over masked patches}; noise fixes the mask."""
        mask = self.masking.drawn(images, noise)
        predicted = self.predict(images, mask, mask.masked_ids)
        return {"loss": self.target.loss(predicted, self.truth(images, mask.masked_ids))}

    def truth(self, images: Tensor, ids: Tensor | None = None) -> Tensor:
        """The target (N, M, ...) of the patches ids (N, M), of all without: float32 or wider, or classes."""
        device = images.device.type
        exact = torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext()
        with torch.no_grad(), exact:
            target = self.target(images if images.dtype == torch.float64 else images.float())
        return target if ids is None else target[torch.arange(len(ids), device=ids.device)[:, None], ids]

    @torch.no_grad()
    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Mask]:
        """Predictions (N, L, width) of all patches, in the target's space (`Target.as_pixels`); the mask."""
        mask = self.masking.drawn(images, noise)
        return self.predict(images, mask), mask


def _paper_masking(paper: tuple[str, float, str], encoder: VisionTransformer) -> Masking:
    name, ratio, _ = paper
    return masking(name, encoder.patch_embed.grid_size, ratio)
