"""I-JEPA (Assran et al., arXiv 2301.08243): predict the latents of target blocks from a context block."""

from typing import Self

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mae.methods.masked import MaskedMethod
from mae.methods.method import without_autocast
from mae.methods.teacher import Teacher
from mae.models.masking import Mask, Masking, TargetBlocks
from mae.models.patches import Pair, sincos_positions, take
from mae.models.vit import encode, layer_norm, xavier


class IJEPA(MaskedMethod):
    """Encode the context, predict the teacher's latents of each target block. Defaults: the paper's, ViT-B.

    The teacher, the paper's target encoder, sees the whole image; it is the encoder's moving average, its
    momentum goes linearly from `momentum` to 1. The predictor is a narrow ViT (section A.1). Targets are
    normalised per patch and compared by the smooth L1 loss, as in the release (github.com/facebookresearch/
    ijepa); the paper's equation 1 has the squared distance. A mask without target blocks, such as "random",
    has all masked patches for one target.

    Different from the paper: the encoder has a class token, which the predictor does not see; initialisation
    is MAE's; weight decay is constant (the paper raises it from .04 to .4); the encoder is exported, where
    the paper evaluates the teacher. `MultiBlockMasking` says how its blocks differ.
    """

    paper_mask = ("multiblock", 0.75)

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        predictor_embed_dim: int = 384,
        predictor_depth: int = 6,
        predictor_num_heads: int = 12,
        momentum: float = 0.996,
        masking: Masking | None = None,
        fresh: bool = True,
    ) -> None:
        super().__init__(encoder, masking=masking, fresh=fresh)
        self.predictor = Predictor(
            encoder.embed_dim,
            encoder.patch_embed.grid_size,
            width=predictor_embed_dim,
            depth=predictor_depth,
            num_heads=predictor_num_heads,
        )
        self.momentum = momentum
        self.teacher = Teacher(self._student)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """images (N, C, H, W) -> {"loss": mean smooth L1 over target patches}; noise fixes the mask."""
        mask = self.sample_mask(images, noise)
        predicted, target = self.predict(images, mask), self.target_of(images, mask)
        with without_autocast(images):
            return {"loss": F.smooth_l1_loss(predicted.to(target.dtype), target)}

    def predict(self, images: Tensor, mask: Mask) -> Tensor:
        """Predict the latents (N, B, S, D) of the target blocks, each from the visible patches alone."""
        context = encode(self.encoder, images, mask.visible_ids)[:, 1:]
        return self.predictor(context, mask.visible_ids, _block_ids(mask))

    @torch.no_grad()
    def target_of(self, images: Tensor, mask: Mask) -> Tensor:
        """Compute the teacher's latents (N, B, S, D) of the target blocks, each of mean 0 and variance 1."""
        latents = encode(self.teacher["encoder"], images)[:, 1:]  # type: ignore[arg-type]
        ids = _block_ids(mask)
        blocks = take(latents, ids.flatten(1)).unflatten(1, ids.shape[1:])
        with without_autocast(images):
            wide = blocks.to(torch.float64 if images.dtype == torch.float64 else torch.float32)
            return F.layer_norm(wide, wide.shape[-1:])

    def train(self, mode: bool = True) -> Self:
        """Switch the mode of all parts but the teacher: its targets are without stochastic depth."""
        super().train(mode)
        self.teacher.eval()
        return self

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the encoder."""
        self.teacher.follow(self._student, (1 - self.momentum) * (1 - progress))

    def describe(self) -> dict[str, int | str]:
        blocks = {"target_blocks": self.masking.blocks, "target_block_patches": self.masking.block_size}
        return {**super().describe(), **blocks}

    @property
    def picture_note(self) -> str:
        about = self.describe()
        blocks = f"{about['target_blocks']} blocks of {about['target_block_patches']} masked patches each"
        return (
            "grey patches under `masked` are hidden from the encoder; the method predicts the latents of "
            f"{blocks}, and no pixels: nothing is reconstructed"
        )

    @property
    def _student(self) -> dict[str, nn.Module]:
        """The part that the teacher follows."""
        return {"encoder": self.encoder}


class Predictor(nn.Module):
    """A narrow ViT over context latents and mask tokens (section A.1). Each target block is predicted alone.

    embed_dim: the encoder's width; grid: its patches (rows, columns). Raises ValueError where width does not
    divide by 4 or by num_heads.
    """

    def __init__(self, embed_dim: int, grid: Pair, *, width: int, depth: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"predictor_embed_dim {width} must be divisible by predictor_num_heads {num_heads}"
            )
        self.embed = nn.Linear(embed_dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(width, grid), requires_grad=False)
        self.blocks = nn.Sequential(
            *[Block(width, num_heads, 4.0, qkv_bias=True, norm_layer=layer_norm) for _ in range(depth)]
        )
        self.norm = layer_norm(width)
        self.pred = nn.Linear(width, embed_dim)
        self.apply(xavier)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, context: Tensor, context_ids: Tensor, block_ids: Tensor) -> Tensor:
        """context (N, V, D) of patches context_ids (N, V) -> latents (N, B, S, D) of block_ids (N, B, S)."""
        tokens = self.embed(context)
        tokens = tokens + self.pos_embed[context_ids].to(tokens.dtype)
        queries = (self.mask_token + self.pos_embed[block_ids.flatten(0, 1)]).to(tokens.dtype)
        blocks, size = block_ids.shape[1:]
        both = torch.cat([tokens.repeat_interleave(blocks, 0), queries], dim=1)
        return self.pred(self.norm(self.blocks(both)[:, -size:])).unflatten(0, (-1, blocks))


def _block_ids(mask: Mask) -> Tensor:
    return mask.block_ids if isinstance(mask, TargetBlocks) else mask.masked_ids[:, None]
