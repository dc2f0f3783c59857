"""MoCo v3 (Chen et al., arXiv 2104.02057), with BYOL (2006.07733) and SimCLR (2002.05709) as settings.

All three put an MLP on the class token of two views of an image; its outputs must agree. They differ in what
an output is compared with, and in how collapse is prevented.
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mae import distributed
from mae.methods.method import Method, without_autocast
from mae.methods.teacher import Teacher
from mae.models.vit import encode, xavier
from mae.suggestions import not_one_of


class Recipe(NamedTuple):
    """A loss. negatives: outputs that must differ. teacher: outputs are compared with a slow copy's."""

    negatives: str  # keys (of the other images' other view) | both (their two views) | none
    teacher: bool


LOSSES = {"mocov3": Recipe("keys", True), "byol": Recipe("none", True), "simclr": Recipe("both", False)}


class MoCoV3(Method):
    """Two views of an image must agree on the class token. Defaults are MoCo v3's; views: "two_views".

    loss: a key of LOSSES. hidden_dim, out_dim: of the projector (3 layers) and the predictor (2). momentum:
    of the teacher at first; it goes to 1 along a cosine. freeze_patches: the patch projection stays random,
    without which large ViTs train unstably (section 4.2).

    Batch norms and negatives see the (micro-)batches of all ranks: features are gathered before the heads, so
    that any number of ranks computes the same loss. Batch norms keep no averages: no state but the teacher.
    """

    views = 2

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        loss: str = "mocov3",
        hidden_dim: int = 4096,
        out_dim: int = 256,
        temperature: float = 0.2,
        momentum: float = 0.99,
        freeze_patches: bool = True,
        fresh: bool = True,
    ) -> None:
        super().__init__(encoder, fresh=fresh)
        if loss not in LOSSES:
            raise ValueError(f"loss {not_one_of(loss, LOSSES)}")
        self.recipe, self.temperature, self.momentum = LOSSES[loss], temperature, momentum
        self.projector = mlp(encoder.embed_dim, hidden_dim, hidden_dim, out_dim)
        encoder.patch_embed.requires_grad_(not freeze_patches)
        self.predictor: nn.Module | None = None
        self.teacher: Teacher | None = None
        if self.recipe.teacher:
            self.predictor = mlp(out_dim, hidden_dim, out_dim)
            self.teacher = Teacher(self._student)

    def forward(self, *views: Tensor) -> dict[str, Tensor]:
        """Two views (N, C, H, W) of the same images -> {"loss": 0-dim}."""
        outputs = [self.projector(self._features(self.encoder, view)) for view in views]
        keys = outputs
        if self.teacher is not None and self.predictor is not None:
            outputs = [self.predictor(output) for output in outputs]
            with torch.no_grad():
                encoder, projector = self.teacher["encoder"], self.teacher["projector"]
                keys = [projector(self._features(encoder, view)) for view in views]
        # bfloat16 has two digits, too few for similarities over a temperature.
        with without_autocast(outputs[0]):
            first, second = (_unit(output, views[0].dtype) for output in outputs)
            key_first, key_second = (_unit(key, views[0].dtype) for key in keys)
            return {"loss": self._disagreement(first, key_second) + self._disagreement(second, key_first)}

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student."""
        if self.teacher is not None:
            share = (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2
            self.teacher.follow(self._student, share)

    def _features(self, encoder: Any, view: Tensor) -> Tensor:
        """Encode a view to class tokens (N of all ranks, D) after the final norm."""
        return distributed.gather_with_gradient(encode(encoder, view)[:, 0])

    def _disagreement(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Compare unit vectors (N, D) each with its own key, and with the negatives: 0-dim."""
        if self.recipe.negatives == "none":
            return 2 - 2 * (queries * keys).sum(1).mean()
        similar = queries @ keys.T / self.temperature
        own = torch.arange(len(queries), device=queries.device)
        if self.recipe.negatives == "both":
            among = queries @ queries.T / self.temperature
            similar = torch.cat([similar, among.fill_diagonal_(-math.inf)], dim=1)
            return F.cross_entropy(similar, own) / 2  # mean over the 2N images of both calls
        return F.cross_entropy(similar, own) * 2 * self.temperature

    @property
    def _student(self) -> dict[str, nn.Module]:
        """The parts that the teacher follows."""
        return {"encoder": self.encoder, "projector": self.projector}


def mlp(*widths: int) -> nn.Sequential:
    """Build linear layers without bias, each with a batch norm (the last without weights), ReLU between."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        last = number == len(widths) - 1
        norm = nn.BatchNorm1d(after, affine=not last, track_running_stats=False)
        layers += [nn.Linear(before, after, bias=False), norm, *([] if last else [nn.ReLU()])]
    return nn.Sequential(*layers).apply(xavier)


def _unit(vectors: Tensor, like: torch.dtype) -> Tensor:
    """Scale vectors to length 1, in float32, or float64 where `like` is."""
    return F.normalize(vectors.to(torch.float64 if like == torch.float64 else torch.float32), dim=1)
