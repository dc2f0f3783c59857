"""Supervised pretraining: the same encoder learns the labels, for comparison."""

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mae.methods.method import Method
from mae.models.vit import encode


class Supervised(Method):
    """Cross-entropy of a linear layer on the encoder's features (ViT, arXiv 2010.11929).

    pool: "token" (the class token) or "avg" (the mean of the patch tokens), after the final norm. This is
    pretraining by labels, on the augmentations of `pretrain`. MAE's baseline from scratch, with RandAugment,
    mixup, cutmix and the like (appendix A.2), is the stage `scratch`.
    """

    labels = True

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        num_classes: int = 1000,
        pool: str = "token",
        smoothing: float = 0.1,
        fresh: bool = True,
    ) -> None:
        super().__init__(encoder, fresh=fresh)
        if pool not in ("token", "avg"):
            raise ValueError(f"pool {pool!r}: choose one of token, avg")
        self.num_classes, self.pool, self.smoothing = num_classes, pool, smoothing
        self.head = nn.Linear(encoder.embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """images (N, C, H, W), labels (N,) below num_classes -> {"loss": 0-dim, "top1": share right}."""
        tokens = encode(self.encoder, images)
        logits = self.head(tokens[:, 0] if self.pool == "token" else tokens[:, 1:].mean(1))
        if logits.dtype.itemsize < 4:
            logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        return {"loss": loss, "top1": (logits.argmax(1) == labels).float().mean()}
