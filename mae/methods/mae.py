"""Masked autoencoder (He et al., arXiv 2111.06377)."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.models.decoder import Decoder
from mae.models.encoder import check_plain, encode, initialise
from mae.models.masking import Mask, mask_highest, num_masked_of
from mae.models.patches import take
from mae.models.targets import TARGETS


class MAE(nn.Module):
    """Encode the visible patches, predict the pixels of the masked ones. Defaults are the paper's.

    encoder: from `encoder.build` with pool "token" and no head. It is initialised as the paper does, over
    what it holds; load weights afterwards, or pass fresh=False to go on from the weights that it has.
    """

    views = 1

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mask_ratio: float = 0.75,
        norm_pix: bool = True,
        fresh: bool = True,
    ) -> None:
        super().__init__()
        check_plain(encoder)
        if not isinstance(encoder.head, nn.Identity) or isinstance(encoder.norm, nn.Identity):
            raise ValueError('MAE needs an encoder built with num_classes=0 and pool="token"')
        if fresh:
            initialise(encoder)
        embedding = encoder.patch_embed
        rows, columns = embedding.patch_size
        self.encoder = encoder
        self.decoder = Decoder(
            encoder.embed_dim,
            embedding.grid_size,
            rows * columns * encoder.in_chans,
            decoder_embed_dim=decoder_embed_dim,
            decoder_depth=decoder_depth,
            decoder_num_heads=decoder_num_heads,
        )
        self.norm_pix = norm_pix
        self.target = TARGETS["normalised_pixels" if norm_pix else "pixels"]
        self.noise_shape = (embedding.num_patches,)
        self.num_masked = num_masked_of(embedding.num_patches, mask_ratio)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """images (N, C, H, W) -> {"loss": mean squared error over masked patches}.

        noise (N, L) ranks the patches: the largest are masked; None draws it.
        The loss is float32 under autocast and for half-precision images, float64 for float64 images.
        """
        mask = self.mask(images, noise)
        latents = encode(self.encoder, images, mask.visible_ids)
        predicted = self.decoder(latents, mask.visible_ids, mask.masked_ids)
        wide = images if images.dtype == torch.float64 else images.float()
        target = take(self.target.of(wide, self.encoder.patch_embed.patch_size), mask.masked_ids)
        return {"loss": self.target.loss(predicted, target)}

    def mask(self, images: Tensor, noise: Tensor | None = None) -> Mask:
        """The mask for images (N, C, H, W); noise (N, L) fixes it, another shape raises ValueError."""
        shape = (len(images), *self.noise_shape)
        if noise is None:
            noise = torch.rand(shape, device=images.device)
        elif noise.shape != shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, these images need {shape}")
        return mask_highest(noise, self.num_masked)

    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Mask]:
        """Predictions (N, L, P*P*C) of all patches, in the loss's space (`targets.unnormalise`); the mask."""
        mask = self.mask(images, noise)
        latents = encode(self.encoder, images, mask.visible_ids)
        return self.decoder(latents, mask.visible_ids), mask

    def after_step(self, progress: float) -> None:
        """Nothing: MAE has no teacher."""
