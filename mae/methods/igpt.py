"""Generative pretraining from pixels, iGPT (Chen et al., ICML 2020): the next colour from those before."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.methods.masked_image_modeling import compute_target
from mae.methods.method import Method
from mae.models.targets import Target, build_target


class IGPT(Method):
    """Each token sees only those before it, row by row, and predicts the class of the next patch.

    target: classes (N, L), a colour for each patch: "tokens" of a `palette`, or "mean_colour", a lattice of
    512. With 32 pixel images and 1 pixel patches this is the paper's sequence of 1024 colours; a larger
    patch counts as one colour, its mean. The class token begins the sequence.
    The encoder is a stock ViT: it embeds pixels linearly, where the paper has a table of embedded colours.

    The protocols evaluate its encoder with full attention; `pretrain.probe.layers` probes it as trained.
    """

    predicts = causal = True

    def __init__(
        self, encoder: VisionTransformer, *, target: Target | None = None, fresh: bool = True
    ) -> None:
        super().__init__(encoder, fresh=fresh)
        self.target = target or build_target("mean_colour", encoder)
        if self.target.classes is None:
            raise ValueError("iGPT predicts classes: its target is mean_colour, or tokens of a palette")
        self.head = nn.Linear(encoder.embed_dim, self.target.width)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, cached: Tensor | None = None) -> dict[str, Tensor]:
        """images (N, C, H, W) -> {"loss": cross-entropy of each patch's class, given the patches before}."""
        classes = compute_target(self.target, images) if cached is None else cached
        return {"loss": self.target.loss(self.predict(images), classes)}

    def predict(self, images: Tensor) -> Tensor:
        """Predict the logits (N, L, width) of every patch from the class token and the patches before it."""
        tokens: Any = self.encoder.forward_features(images, is_causal=True)
        return self.head(tokens[:, :-1])
