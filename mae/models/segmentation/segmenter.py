"""The segmenter: UperNet or DPT on a plain ViT, its losses, its label maps of images of any size."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mae import distributed
from mae.models import vit as encoders
from mae.models.patches import Pair, grid_of, pair
from mae.models.pretrained import load_encoder_state
from mae.models.segmentation import IGNORE
from mae.models.segmentation.dpt import DPTHead
from mae.models.segmentation.intermediate_features import (
    check_out_indices,
    encode_intermediate,
    pad_to_multiple,
)
from mae.models.segmentation.sliding_window import most_likely, slide
from mae.models.segmentation.upernet import FCNHead, UPerNet, resized
from mae.randomness import seed_process
from mae.suggestions import not_one_of

HEADS: dict[str, type[UPerNet] | type[DPTHead]] = {"upernet": UPerNet, "dpt": DPTHead}


class Segmenter(nn.Module):
    """An encoder, the maps after four of its blocks, and a head on them; see `build_segmenter`.

    settings: `build_segmenter(**settings)` builds it again, weights apart; plain JSON.
    A state dict has timm's names under `encoder.`, the rest under `head.` and `auxiliary.`.
    """

    def __init__(self, encoder: VisionTransformer, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = dict(settings)
        self.num_classes: int = settings["num_classes"]
        self.crop, self.stride = pair(settings["crop"]), pair(settings["stride"])
        self.out_indices = check_out_indices(settings["taps"], len(encoder.blocks))
        self.encoder = encoder
        kind, patch = HEADS[settings["head"]], encoder.patch_embed.patch_size
        width, channels, dropout = encoder.embed_dim, settings["channels"], settings["dropout"]
        self._multiple = kind.multiple(patch)
        self.head = kind(width, patch, self.num_classes, channels, dropout)
        self._share: float = settings["auxiliary"]
        self.auxiliary: FCNHead | None = None
        if self._share:
            self.auxiliary = FCNHead(width, self.num_classes, settings["auxiliary_channels"], dropout)

    def logits(self, images: Tensor) -> Tensor:
        """Compute float32 logits (N, classes, H, W) of normalised images (N, C, H, W) of any size."""
        return self._at_pixels(self.head(*self._intermediate(images)), images)

    def forward(self, images: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Compute float32 losses of normalised images (N, C, H, W) and N targets {"labels": (H, W)}.

        Label 255 is ignored. "loss" = "loss_decode" + auxiliary * "loss_auxiliary", both cross-entropies
        averaged over the labelled pixels of the batch, 0 where it has none; "accuracy": the share of these
        pixels that the head gets right.
        Raises ValueError for labels that do not fit the images, and for a single image in training:
        UPerNet's batch norm would see one value.
        """
        labels = torch.stack([target["labels"] for target in targets]).to(images.device).long()
        if labels.shape != (len(images), *images.shape[-2:]):
            raise ValueError(
                f"labels {tuple(labels.shape)} do not fit images {tuple(images.shape)}: "
                "each image needs one map of its own size"
            )
        if self.training and len(images) == 1 and isinstance(self.head, UPerNet) and not self._synchronised():
            raise ValueError(
                "UPerNet trains on at least 2 images per process and micro-batch, not 1: "
                "raise segment.batch_size or lower segment.accumulate"
            )
        maps, class_tokens = self._intermediate(images)
        logits = self._at_pixels(self.head(maps, class_tokens), images)
        decode, auxiliary = _cross_entropy(logits, labels), logits.new_zeros(())
        if self.auxiliary is not None:
            auxiliary = _cross_entropy(self._at_pixels(self.auxiliary(maps[2]), images), labels)
        return {
            "loss": decode + self._share * auxiliary,
            "loss_decode": decode,
            "loss_auxiliary": auxiliary,
            "accuracy": _accuracy(logits.detach(), labels),
        }

    @torch.no_grad()
    def segment(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """Predict class indices (H, W) int64 of a normalised image (1, C, h, w); size: the original (H, W).

        Windows of `crop` pixels slide by `stride` (see `slide`); the averaged logits are resized.
        Raises RuntimeError in training mode, ValueError for more than one image.
        """
        if self.training:
            raise RuntimeError("segment needs evaluation mode: call .eval() first")
        if images.ndim != 4 or len(images) != 1:
            raise ValueError(f"segment takes one image (1, C, h, w), not {tuple(images.shape)}")
        averaged = slide(self.logits, images, window=self.crop, stride=self.stride, classes=self.num_classes)
        return most_likely(averaged, size)

    def _intermediate(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return encode_intermediate(self.encoder, pad_to_multiple(images, self._multiple), self.out_indices)

    def _at_pixels(self, coarse: Tensor, images: Tensor) -> Tensor:
        """Resize logits (N, classes, h, w) of padded images to float32 (N, classes, H, W) of the images."""
        (height, width), (rows, columns) = images.shape[-2:], self._multiple
        padded = (height + -height % rows, width + -width % columns)
        return resized(coarse.float(), padded)[..., :height, :width]

    def _synchronised(self) -> bool:
        return any(isinstance(module, nn.SyncBatchNorm) for module in self.head.modules())

    def no_weight_decay(self) -> set[str]:
        """Name the class token and the positions, like timm."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group parameters for layer decay: embedding, then block by block; the rest last, at scale 1."""
        return encoders.layer_groups(r"encoder\.")


def build_segmenter(
    encoder: Mapping[str, Any],
    num_classes: int,
    *,
    crop: int | Sequence[int],
    encoder_state: Mapping[str, Tensor] | None = None,
    head: str = "upernet",
    taps: Sequence[int] = (3, 5, 7, 11),
    channels: int = 512,
    drop_path: float = 0.1,
    dropout: float = 0.1,
    auxiliary: float = 0.4,
    auxiliary_channels: int = 256,
    stride: int | Sequence[int] | None = None,
    seed: int = 0,
) -> Segmenter:
    """Build a segmenter to train; the defaults are ADE20K's with ViT-B (arXiv 2111.06377, A.4).

    encoder: the arguments of `vit.build`; its img_size is that of the pretraining, from which the positions
    are resampled. crop: training crop and test window in pixels, an int or (rows, columns). encoder_state:
    pretrained weights with timm's names; None starts from MAE's random initialisation. head: "upernet" or
    "dpt". taps: the four blocks whose output the head sees, 0-based. channels: width of the head. auxiliary:
    weight of the loss of an FCN on the third tap, auxiliary_channels wide; 0 for none. stride: step of the
    test window, None for two thirds of it. On GPUs under torchrun batch norms see the images of all
    processes.

    Raises ValueError for settings that do not go together, and for weights that do not fit, naming the key.
    """
    window = _pair(crop)
    steps = _pair(stride) if stride is not None else (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3))
    if steps[0] > window[0] or steps[1] > window[1]:
        raise ValueError(f"stride {list(steps)} exceeds the crop {list(window)}: windows would leave gaps")
    if head not in HEADS:
        raise ValueError(f"head {not_one_of(head, HEADS)}")
    if not 1 <= num_classes <= IGNORE:
        raise ValueError(f"num_classes must be 1 to {IGNORE} ({IGNORE} means ignore), not {num_classes}")
    settings = {
        "encoder": dict(encoder),
        "num_classes": num_classes,
        "crop": window,
        "head": head,
        "taps": list(taps),
        "channels": channels,
        "drop_path": drop_path,
        "dropout": dropout,
        "auxiliary": auxiliary,
        "auxiliary_channels": auxiliary_channels,
        "stride": steps,
        "seed": seed,
    }
    seed_process(seed)
    vit = _encoder(encoder, window, head, drop_path, encoder_state)
    return distributed.synchronise_norms(Segmenter(vit, json.loads(json.dumps(settings))))


def _pair(size: int | Sequence[int]) -> Pair:
    return pair(size if isinstance(size, int) else list(size))


def _encoder(
    encoder: Mapping[str, Any],
    crop: Pair,
    head: str,
    drop_path: float,
    state: Mapping[str, Tensor] | None,
) -> VisionTransformer:
    """Build the encoder with positions for the crop; no tap reads its final norm, so it has none."""
    with torch.device("meta"):
        patch = encoders.build(**encoder).patch_embed.patch_size
    rows, columns = HEADS[head].multiple(patch)
    padded = (crop[0] + -crop[0] % rows, crop[1] + -crop[1] % columns)
    vit = encoders.build(**{**encoder, "img_size": padded}, pool="avg", drop_path=drop_path)
    vit.fc_norm = nn.Identity()
    if state is None:
        encoders.initialise(vit)
    else:
        grid = grid_of(encoder["img_size"], patch)
        fits = "pos_embed" in state and state["pos_embed"].shape[1] == 1 + grid[0] * grid[1]
        load_encoder_state(vit, state, grid if fits else None)
    for parameter in vit.parameters():
        parameter.requires_grad_(True)  # positions too, which are fixed in pretraining
    return vit


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    labelled = labels != IGNORE
    right = ((logits.argmax(dim=1) == labels) & labelled).sum()
    return right / labelled.sum().clamp(min=1)
