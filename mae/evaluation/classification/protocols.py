"""The protocols that evaluate an encoder by classification, one row each, and the numbers of a training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mae.data.transforms import image as transforms
from mae.engine.optim import adamw, lars, sgd
from mae.evaluation.classification.heads import AttentiveHead, linear_head, probe_head


@dataclass(frozen=True)
class Protocol:
    """A row of the table: the tokens, the head, the parameters that train, and how they train.

    tokens: "patches" (mean of the patch tokens, then a fresh fc_norm), "class" (the class token after the
    final norm), "mean" (mean of the patch tokens after it) or "all" (every token after it). trains:
    "everything", "blocks" (fc_norm, head and the last N blocks) or "head". augmentation: a key of
    AUGMENTATIONS. mixes: random erasing, mixup, cutmix and label smoothing apply. pretrained: the encoder
    starts from given weights.
    """

    tokens: str
    head: Callable[[int, int, int], nn.Module]
    trains: str
    optimizer: str
    augmentation: str
    mixes: bool
    pretrained: bool = True

    @property
    def pool(self) -> str:
        """The encoder's `pool`."""
        return "avg" if self.tokens == "patches" else "token"


PROTOCOLS = {
    "finetune": Protocol("patches", linear_head, "everything", "adamw", "finetune", mixes=True),
    "partial": Protocol("patches", linear_head, "blocks", "adamw", "finetune", mixes=True),
    "linear": Protocol("class", probe_head, "head", "lars", "byol", mixes=False),
    # For small models: their pretraining hardly trains the class token.
    "linear_mean": Protocol("mean", probe_head, "head", "lars", "byol", mixes=False),
    "attentive": Protocol("all", AttentiveHead, "head", "sgd", "crop", mixes=False),
    "scratch": Protocol(
        "patches", linear_head, "everything", "adamw", "finetune", mixes=True, pretrained=False
    ),
}


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training; the defaults are MAE's fine-tuning of ViT-B (arXiv 2111.06377).

    Rates are per 256 images (`base_lr`) or absolute (`min_lr`). `betas` and `layer_decay` concern AdamW,
    `momentum` LARS and SGD; `random_erasing`, `mixup`, `cutmix` and `smoothing` the protocols that mix;
    `crop_scale` (shares of the image's area) and `rand_augment` the augmentation "finetune".
    """

    base_lr: float = 5e-4
    min_lr: float = 1e-6
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float | None = 0.65
    momentum: float = 0.9
    random_erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"


Augmentation = Callable[[transforms.Size, Recipe, Sequence[float]], transforms.Transform]


def _finetune(size: transforms.Size, recipe: Recipe, mean: Sequence[float]) -> transforms.Transform:
    return transforms.finetuning(
        size, scale=recipe.crop_scale, flip=recipe.flip, rand_augment=recipe.rand_augment, mean=mean
    )


def _byol(size: transforms.Size, recipe: Recipe, mean: Sequence[float]) -> transforms.Transform:
    return transforms.byol_crop(size, flip=recipe.flip)


def _crop(size: transforms.Size, recipe: Recipe, mean: Sequence[float]) -> transforms.Transform:
    return transforms.pretraining(size, scale=(0.08, 1.0), flip=recipe.flip)


AUGMENTATIONS: dict[str, Augmentation] = {
    "finetune": _finetune,  # random resized crop, flip, RandAugment
    "byol": _byol,  # the crop of linear probing, and flip
    "crop": _crop,  # random resized crop and flip
}


def make_augmentation(
    protocol: Protocol, size: transforms.Size, recipe: Recipe, mean: Sequence[float]
) -> transforms.Transform:
    """Build the training augmentation of a protocol; mean: colour (0 to 1) that fills moved images."""
    return AUGMENTATIONS[protocol.augmentation](size, recipe, mean)


def make_optimizer(kind: str, model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """Build a protocol's optimizer over the trainable parameters of `model`; lr is the peak rate."""
    if kind == "adamw":
        return adamw(
            model, lr=lr, betas=recipe.betas, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay
        )
    if kind == "lars":
        if recipe.weight_decay:
            raise ValueError(
                f"the linear probe's LARS takes no weight_decay: set it to 0, not {recipe.weight_decay}"
            )
        return lars(model, lr=lr, momentum=recipe.momentum)
    return sgd(model, lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def freeze(vit: VisionTransformer, trains: str, blocks: float | None) -> list[nn.Module]:
    """Set which parameters of `vit` train; return the modules that must stay in evaluation mode.

    blocks: for "blocks", how many of the last ones train, in halves: 0.5 is the MLP half (norm2 and mlp) of
    the last block (MAE, section 4.3). Raises ValueError for a number that the encoder does not have.
    """
    if trains == "everything":
        vit.requires_grad_(True)  # positions too, which are fixed in pretraining
        return []
    vit.requires_grad_(False)
    if trains == "head":
        return [vit]
    depth = len(vit.blocks)
    if blocks is None or not 0 <= blocks <= depth or blocks * 2 != int(blocks * 2):
        raise ValueError(f"blocks {blocks}: choose 0, 0.5, 1, ... up to the encoder's depth {depth}")
    vit.fc_norm.requires_grad_(True)
    first = depth - int(blocks)  # blocks from here on train as a whole
    frozen = [vit.patch_embed, vit.pos_drop, *vit.blocks[:first]]
    for block in vit.blocks[first:]:
        block.requires_grad_(True)
    if blocks != int(blocks):
        half = vit.blocks[first - 1]
        for part in (half.norm2, half.mlp, half.ls2):  # ls2 scales the MLP, where there is LayerScale
            part.requires_grad_(True)
        frozen[-1:] = [half.norm1, half.attn, half.ls1, half.drop_path1]
    return frozen
