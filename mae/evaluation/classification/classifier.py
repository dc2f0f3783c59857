"""A classifier by any protocol of the table: build it, train it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mae import distributed
from mae.engine.loop import FitOptions, Fitted, fit
from mae.engine.schedule import scaled_lr, warmup_cosine
from mae.evaluation.classification.mixing import Mixing
from mae.evaluation.classification.protocols import PROTOCOLS, Protocol, Recipe, freeze, make_optimizer
from mae.models import vit as encoders
from mae.models.pretrained import load_encoder_state
from mae.randomness import seed_process
from mae.suggestions import not_one_of

Batches = Callable[[int, int], Iterator[Mapping[str, Any]]]


class Classifier(nn.Module):
    """An encoder and a head that trains by a protocol.

    encoder: a timm ViT built with the protocol's `pool`; `blocks`: see `protocols.freeze`. Frozen parts stay
    in evaluation mode. A state dict has timm's names under `encoder.`, the rest under `head.`.
    """

    def __init__(
        self, protocol: Protocol, encoder: VisionTransformer, num_classes: int, blocks: float | None = None
    ) -> None:
        super().__init__()
        self.protocol = protocol
        self.encoder = encoder
        block: Any = encoder.blocks[0]
        self.head = protocol.head(encoder.embed_dim, num_classes, block.attn.num_heads)
        self.num_classes = num_classes
        self.smoothing = 0.0
        self._frozen = freeze(encoder, protocol.trains, blocks)
        self._learns_below_head = any(parameter.requires_grad for parameter in encoder.parameters())

    def logits(self, images: Tensor) -> Tensor:
        """Compute logits (N, classes) of normalised images (N, C, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._learns_below_head):
            tokens = encoders.encode(self.encoder, images)
            if self.protocol.tokens == "patches":
                tokens = self.encoder.forward_head(tokens, pre_logits=True)
            elif self.protocol.tokens == "class":
                tokens = tokens[:, 0]
            elif self.protocol.tokens == "mean":
                tokens = tokens[:, 1:].mean(dim=1)
        return self.head(tokens)

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute {"loss": cross-entropy in float32}; targets: classes (N,) or probabilities (N, classes)."""
        logits = self.logits(images)
        if logits.dtype != torch.float64:
            logits = logits.float()
        smoothing = self.smoothing if targets.ndim == 1 else 0.0
        return {"loss": F.cross_entropy(logits, targets, label_smoothing=smoothing)}

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode; frozen parts stay in evaluation mode: they drop no path and update no statistics."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def no_weight_decay(self) -> set[str]:
        """Name the class token and the positions, as timm and the official fine-tuning do."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group parameters for layer decay: embedding, then block by block; norms and head come last."""
        return encoders.layer_groups(r"encoder\.")


def build_classifier(
    protocol: str,
    encoder: Mapping[str, Any],
    num_classes: int,
    *,
    encoder_state: Mapping[str, Tensor] | None = None,
    from_grid: tuple[int, int] | None = None,
    blocks: float | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
) -> Classifier:
    """Build a classifier to train: `protocol` is a key of PROTOCOLS, `encoder` the arguments of `vit.build`.

    encoder_state: pretrained weights with timm's names; None starts from MAE's random initialisation (as
    "scratch" must). Its positions are resampled where the image size differs; from_grid (rows, columns) is
    their grid where it is not square. Raises ValueError for weights that do not fit, naming the key.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {not_one_of(protocol, PROTOCOLS)}")
    row = PROTOCOLS[protocol]
    if encoder_state is not None and not row.pretrained:
        raise ValueError(f"{protocol} starts from random weights: pass no encoder_state")
    seed_process(seed)
    vit = encoders.build(**encoder, pool=row.pool, drop_path=drop_path)
    if encoder_state is None:
        encoders.initialise(vit)
    else:
        load_encoder_state(vit, encoder_state, from_grid)
    return Classifier(row, vit, num_classes, blocks)


def train_classifier(
    classifier: Classifier,
    batches: Batches,
    *,
    recipe: Recipe,
    steps: int,
    warmup_steps: int,
    global_batch: int,
    normalize: Callable[[Tensor], Tensor],
    options: FitOptions,
) -> Fitted:
    """Train in place by the classifier's protocol; with `ema_decay` it ends with the averaged weights.

    batches(start_step, attempt): the loader's {"images": uint8 (n, C, H, W), "labels": (n,)}, `accumulate`
    per step, on any device. global_batch: images per step over all ranks, for the learning rate. normalize:
    uint8 images to float, on the device.
    """
    device, accumulate = torch.device(options.device), options.accumulate
    classifier.to(device)
    mixing = Mixing(normalize, recipe, classifier.num_classes, device, mixes=classifier.protocol.mixes)
    classifier.smoothing = mixing.smoothing
    peak = scaled_lr(recipe.base_lr, global_batch)

    def inputs(start: int, attempt: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(batches(start, attempt), start * accumulate):
            # The loader's draws depend on its number of workers; those of mixing must not.
            seed_process(
                options.seed, number // accumulate, attempt, distributed.rank(), number % accumulate, 1
            )
            images = batch["images"].to(device, non_blocking=True)
            yield mixing(images, batch["labels"].to(device, non_blocking=True))

    fitted = fit(
        classifier,
        inputs,
        make_optimizer(classifier.protocol.optimizer, classifier, recipe, peak),
        steps=steps,
        learning_rate=lambda step: warmup_cosine(
            step, peak=peak, floor=recipe.min_lr, warmup=warmup_steps, total=steps
        ),
        options=options,
    )
    if fitted.ema is not None:
        classifier.load_state_dict(fitted.ema.state_dict())
    return fitted
