"""Mask R-CNN's proposals and heads over a pyramid of any strides, on torchvision's parts.

The matching, sampling, losses and suppression are torchvision's, the numbers ViTDet's (arXiv 2203.16527).
Three parts are our own. Strides are given, not guessed as powers of two, so that patches of 14 or 4 pixels
work. Regions are aligned to half a pixel, in features and in mask targets: torchvision's training shifts
masks by half a pixel, which on small objects is most of their border. Boxes stay float32 under autocast.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from mae.models.detection.feature_pyramid import channel_norm

ASPECTS = (0.5, 1.0, 2.0)  # an anchor's height over its width
BOX_SIDE, MASK_SIDE = 7, 14  # places to which a region is pooled
CANONICAL = 14  # a box of this many strides of a level is pooled from it: 224 pixels at stride 16


class Anchors(AnchorGenerator):
    """Three anchors per place of each level, of the area of a square of `scale` strides."""

    def __init__(self, strides: Sequence[float], scale: float) -> None:
        super().__init__(tuple((scale * stride,) for stride in strides), (ASPECTS,) * len(strides))
        self.strides = tuple(strides)

    def generate_anchors(self, scales: Any, aspect_ratios: Any, *dtype_and_device: Any) -> Tensor:
        """Compute corners (3, 4) around 0 in pixels; the base class rounds them to whole pixels."""
        side, root = torch.tensor(scales, dtype=torch.float32), torch.tensor(aspect_ratios).sqrt()
        return torch.stack([-side / root, -side * root, side / root, side * root], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Make float32 anchors (n, 4) as x1, y1, x2, y2 for each image, level by level."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        strides = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        levels = self.grid_anchors([list(level.shape[-2:]) for level in feature_maps], strides)
        return [torch.cat(levels)] * len(image_list.image_sizes)


class ProposalHead(RPNHead):
    """torchvision's head, its outputs in float32 at least: bfloat16 boxes are off by pixels."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict logits (N, 3, h, w) and box deltas (N, 12, h, w) for each map (N, C, h, w)."""
        logits, deltas = super().forward(x)
        return [_full(level) for level in logits], [_full(level) for level in deltas]


def _full(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def pool_regions(
    maps: Sequence[Tensor], boxes: Sequence[Tensor], strides: Sequence[float], side: int
) -> Tensor:
    """Pool boxes (n, 4) in pixels per image, each from the level of its area: (regions, C, side, side).

    maps: (N, C, h, w) with their strides in pixels, each twice the one before. Level: arXiv 1612.03144, eq.
    1. Regions come image by image, in the order of their boxes.
    """
    index = torch.cat([torch.full_like(of[:, :1], number) for number, of in enumerate(boxes)])
    regions = torch.cat([index, torch.cat(list(boxes))], dim=1)
    levels = LevelMapper(0, len(maps) - 1, canonical_scale=CANONICAL * strides[0], canonical_level=0)(
        list(boxes)
    )
    chosen = [torch.where(levels == number)[0] for number in range(len(maps))]
    parts = [
        roi_align(level.to(regions.dtype), regions[rows], side, 1 / stride, 2, aligned=True)
        for level, rows, stride in zip(maps, chosen, strides, strict=True)
    ]
    return torch.cat(parts)[torch.cat(chosen).argsort()]


class MaskRCNN(nn.Module):
    """Proposals, boxes and masks from a pyramid's levels.

    strides: of the levels in pixels, the last for proposals only; rois: regions per image that the box head
    learns from, a quarter of them on objects; proposals: regions kept after suppression; detections: most
    objects reported per image; box_convs, box_dim, mask_convs: as in ViTDet (arXiv 2203.16527).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int,
        strides: Sequence[float],
        anchor_scale: float = 8,
        box_convs: int = 4,
        box_dim: int = 1024,
        mask_convs: int = 4,
        rois: int = 512,
        proposals: int = 1000,
        detections: int = 100,
        score_threshold: float = 0.05,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        head = ProposalHead(channels, len(ASPECTS), conv_depth=2)
        before = {"training": 2 * proposals, "testing": proposals}  # per level, before suppression
        after = {"training": proposals, "testing": proposals}
        self.rpn = RegionProposalNetwork(
            Anchors(strides, anchor_scale), head, 0.7, 0.3, 256, 0.5, before, after, nms_thresh=0.7
        )
        box_head = FastRCNNConvFCHead(
            (channels, BOX_SIDE, BOX_SIDE), [channels] * box_convs, [box_dim], norm_layer=channel_norm
        )
        box_predictor = FastRCNNPredictor(box_dim, num_classes + 1)  # torchvision's class 0 is no object
        self.roi = RoIHeads(
            None, box_head, box_predictor, 0.5, 0.5, rois, 0.25, None, score_threshold, 0.5, detections
        )
        self.mask_head = MaskRCNNHeads(channels, [channels] * mask_convs, 1, norm_layer=channel_norm)
        self.mask_predictor = MaskRCNNPredictor(channels, channels, num_classes + 1)
        self._initialise()

    def _initialise(self) -> None:
        """Detectron's first fully connected layer and mask logits; the rest as in torchvision.

        torchvision's mask logits start at a spread of several units where there are few classes. Detectron's
        fixed .01 and .001 for the box predictor would make narrow heads wait a hundred steps to learn.
        """
        for layer in self.roi.box_head:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.mask_predictor.mask_fcn_logits.weight, std=0.001)

    def losses(
        self, maps: Mapping[str, Tensor], targets: Sequence[Mapping[str, Tensor]], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Compute five losses of images of `size` (H, W) with boxes (n, 4), labels (n,), masks (n, H, W)."""
        wanted = [{"boxes": each["boxes"], "labels": each["labels"] + 1} for each in targets]
        images = ImageList(next(iter(maps.values())), [size] * len(targets))
        proposals, losses = self.rpn(images, maps, wanted)
        proposals, matched, labels, deltas = self.roi.select_training_samples(proposals, wanted)
        logits, box_deltas = self._boxes(maps, proposals)
        losses["loss_classifier"], losses["loss_box_reg"] = fastrcnn_loss(logits, box_deltas, labels, deltas)
        on_object = [torch.where(each > 0)[0] for each in labels]
        boxes = [each[chosen] for each, chosen in zip(proposals, on_object, strict=True)]
        matched = [each[chosen] for each, chosen in zip(matched, on_object, strict=True)]
        classes = torch.cat([each[chosen] for each, chosen in zip(labels, on_object, strict=True)])
        masks = [each["masks"] for each in targets]
        losses["loss_mask"] = mask_loss(self._masks(maps, boxes, classes), masks, boxes, matched)
        return losses

    def detect(self, maps: Mapping[str, Tensor], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Detect in images of `sizes` (H, W), best first: boxes (n, 4), labels, scores, masks (n, 28, 28).

        Masks are probabilities over the box. Needs evaluation mode.
        """
        proposals, _ = self.rpn(ImageList(next(iter(maps.values())), list(sizes)), maps)
        logits, deltas = self._boxes(maps, proposals)
        boxes, scores, labels = self.roi.postprocess_detections(logits, deltas, proposals, list(sizes))
        masks = self._masks(maps, boxes, torch.cat(labels)).sigmoid().split([len(each) for each in boxes])
        return [
            {"boxes": box, "labels": label - 1, "scores": score, "masks": mask}
            for box, label, score, mask in zip(boxes, labels, scores, masks, strict=True)
        ]

    def _pool(self, maps: Mapping[str, Tensor], boxes: Sequence[Tensor], side: int) -> Tensor:
        return pool_regions(list(maps.values())[:-1], boxes, self.strides[:-1], side)

    def _boxes(self, maps: Mapping[str, Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits, deltas = self.roi.box_predictor(self.roi.box_head(self._pool(maps, proposals, BOX_SIDE)))
        return _full(logits), _full(deltas)

    def _masks(self, maps: Mapping[str, Tensor], boxes: Sequence[Tensor], classes: Tensor) -> Tensor:
        """Select logits (regions, 28, 28) of each region's own class (1-based: 0 is no object)."""
        logits = self.mask_predictor(self.mask_head(self._pool(maps, boxes, MASK_SIDE)))
        own = logits[torch.arange(len(classes), device=classes.device), classes]
        return _full(own)  # after the choice: float32 logits of all 80 classes would need 80 times the memory


def mask_loss(
    logits: Tensor, masks: Sequence[Tensor], boxes: Sequence[Tensor], matched: Sequence[Tensor]
) -> Tensor:
    """Compute the cross-entropy of logits (regions, 28, 28) and each region's crop of its object's mask."""
    if not len(logits):
        return logits.sum() * 0.0  # no object: the head's gradients are zero, not missing
    side = logits.shape[-1]
    cuts = []
    for mask, box, object_of in zip(masks, boxes, matched, strict=True):
        regions = torch.cat([object_of[:, None].to(box.dtype), box], dim=1)
        cuts.append(roi_align(mask[:, None].to(box.dtype), regions, side, aligned=True)[:, 0])
    return F.binary_cross_entropy_with_logits(logits, (torch.cat(cuts) >= 0.5).to(logits.dtype))
