"""The detector: Mask R-CNN on a plain ViT in ViTDet's form (arXiv 2203.16527)."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mae.models import vit as encoders
from mae.models.detection.feature_pyramid import SCALES, SimpleFeaturePyramid
from mae.models.detection.mask_rcnn import MaskRCNN
from mae.models.detection.windowed_vit import WindowedViT
from mae.models.pretrained import load_encoder_state
from mae.randomness import seed_process

PARTS = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")

WHOLE = ("num_classes", "image_size", "channels", "box_dim", "rois", "proposals", "detections")


class Detector(nn.Module):
    """An encoder, a pyramid over its last map, and Mask R-CNN's heads; see `build_detector`.

    settings: the arguments that make the same detector again, without weights; plain values that JSON holds.
    A state dict has timm's names under `vit.encoder.`, the rest under `vit.relative.`, `pyramid.`, `heads.`.
    """

    def __init__(
        self, vit: WindowedViT, pyramid: SimpleFeaturePyramid, heads: MaskRCNN, settings: dict[str, Any]
    ) -> None:
        super().__init__()
        self.vit = vit
        self.pyramid = pyramid
        self.heads = heads
        self.settings = settings

    def forward(self, images: Tensor, targets: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Compute {"loss": the sum, and its five parts}, float32, of normalised images (N, C, H, W).

        targets, for each image: boxes (n, 4) float, x1 y1 x2 y2 in pixels; labels (n,) int64 from 0; masks
        (n, H, W) uint8; n may be 0. Raises ValueError in evaluation mode or where images and targets differ.
        """
        if not self.training:
            raise ValueError("a detector has losses only in training mode: call train(), or use detect()")
        height, width = images.shape[-2:]
        if len(images) != len(targets):
            raise ValueError(f"{len(images)} images with {len(targets)} targets")
        for target in targets:
            shape = (len(target["boxes"]), height, width)
            if tuple(target["masks"].shape) != shape or len(target["labels"]) != shape[0]:
                raise ValueError(
                    f"a target has {len(target['boxes'])} boxes, {len(target['labels'])} labels and masks "
                    f"{tuple(target['masks'].shape)}: give each box a label and a mask of {shape}"
                )
        losses = self.heads.losses(self._maps(images), targets, (height, width))
        return {"loss": torch.stack([losses[part] for part in PARTS]).sum(), **losses}

    @torch.no_grad()
    def detect(self, images: Tensor, shapes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Detect the objects in normalised images (N, C, S, S), for each image best first, on the CPU.

        shapes, one per image: "size" (H, W) of the original image, "inner" (h, w) of the resized one in the
        top left corner of the padded square. Gives boxes (n, 4) float32, x1 y1 x2 y2 in pixels of the
        original; labels (n,) int64 from 0; scores (n,); masks: n COCO RLE of its size, "counts" a str.
        Raises ValueError in training mode.
        """
        if self.training:
            raise ValueError("detect() needs evaluation mode: call eval() first")
        inner = [(int(shape["inner"][0]), int(shape["inner"][1])) for shape in shapes]
        objects = self.heads.detect(self._maps(images), inner)
        return [_in_original(each, shape) for each, shape in zip(objects, shapes, strict=True)]

    def _maps(self, images: Tensor) -> Mapping[str, Tensor]:
        return self.pyramid(self.vit(images))

    def no_weight_decay(self) -> set[str]:
        """Name the positions, like ViTDet; relative positions are decayed."""
        return {"vit.encoder.pos_embed", "vit.encoder.cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group parameters for layer decay: embedding, each block with its relative positions, the rest."""
        return encoders.layer_groups(r"vit\.encoder\.", r"^vit\.relative\.(\d+)")


def build_detector(
    encoder: Mapping[str, Any],
    num_classes: int,
    *,
    image_size: int,
    encoder_state: Mapping[str, Tensor] | None = None,
    from_grid: tuple[int, int] | None = None,
    patch_size: int | None = None,
    window: int = 14,
    global_blocks: Sequence[int] = (2, 5, 8, 11),
    drop_path: float = 0.1,
    channels: int = 256,
    seed: int = 0,
    **heads: Any,
) -> Detector:
    """Build a detector to train; the defaults are ViTDet's with ViT-B (arXiv 2203.16527).

    encoder: the arguments of `vit.build`, with the img_size of the encoder's own positions: they are
    resampled to each image's grid. encoder_state: pretrained weights with timm's names, any head left out;
    None starts from MAE's random initialisation. from_grid: the grid of their positions where not square.
    image_size: side in pixels of the square that images are padded to. patch_size: resample the patches to
    this side first, as ViTDet does with ViT-H's (14 to 16). channels: of the pyramid. heads: more settings of
    `MaskRCNN` (box_convs, box_dim, mask_convs, anchor_scale, rois, proposals, detections, score_threshold).

    Raises ValueError for settings or weights that do not fit, naming them.
    """
    counts = {"num_classes": num_classes, "image_size": image_size, "channels": channels, **heads}
    for name, count in counts.items():
        if name in WHOLE and not (type(count) is int and count > 0):
            raise ValueError(f"{name} must be a whole number above 0, not {count!r}")
    seed_process(seed)
    vit, described = _encoder(dict(encoder), encoder_state, from_grid, patch_size, drop_path)
    patch = vit.patch_embed.patch_size
    if patch[0] != patch[1]:
        raise ValueError(f"detection needs square patches: the pyramid's strides follow them, not {patch}")
    grid = -(-image_size // patch[0])
    settings = {
        "encoder": described,
        "num_classes": num_classes,
        "image_size": image_size,
        "window": window,
        "global_blocks": list(global_blocks),
        "drop_path": drop_path,
        "channels": channels,
        "seed": seed,
        **heads,
    }
    return Detector(
        WindowedViT(vit, grid=(grid, grid), window=window, global_blocks=global_blocks),
        SimpleFeaturePyramid(vit.embed_dim, channels),
        MaskRCNN(num_classes, channels=channels, strides=[scale * patch[0] for scale in SCALES], **heads),
        settings,
    )


def _encoder(
    described: dict[str, Any],
    state: Mapping[str, Tensor] | None,
    from_grid: tuple[int, int] | None,
    patch_size: int | None,
    drop_path: float,
) -> tuple[VisionTransformer, dict[str, Any]]:
    """Build the encoder, without a norm after its blocks and with trainable positions; also its arguments."""
    vit = encoders.build(**described, pool="avg", drop_path=drop_path)
    if patch_size is not None and vit.patch_embed.patch_size != (patch_size, patch_size):
        grid = vit.patch_embed.grid_size
        described |= {"patch_size": patch_size, "img_size": [side * patch_size for side in grid]}
        vit = encoders.build(**described, pool="avg", drop_path=drop_path)
        if state is not None:
            state = _resize_patches(state, patch_size)
    if state is None:
        encoders.initialise(vit)
    else:
        load_encoder_state(vit, state, from_grid)
    vit.fc_norm = nn.Identity()  # pool "avg" moved the final norm here: the pyramid has its own norms
    cast(nn.Parameter, vit.pos_embed).requires_grad_(True)
    return vit, described


def _resize_patches(state: Mapping[str, Tensor], side: int) -> dict[str, Tensor]:
    """Resample `patch_embed.proj.weight` (D, C, P, P) bicubically to patches of `side`."""
    weight = state["patch_embed.proj.weight"]
    resized = F.interpolate(weight.float(), size=(side, side), mode="bicubic", align_corners=False)
    return {**state, "patch_embed.proj.weight": resized.to(weight.dtype)}


def _in_original(objects: Mapping[str, Tensor], shape: Mapping[str, Any]) -> dict[str, Any]:
    """Convert objects of the resized image to pixels of the original one; draw and encode their masks."""
    (height, width), inner = shape["size"], shape["inner"]
    boxes = objects["boxes"].float().cpu()
    boxes = boxes * torch.tensor([width / inner[1], height / inner[0]] * 2)
    boxes = boxes.clamp(boxes.new_zeros(4), boxes.new_tensor([width, height] * 2))
    masks = objects["masks"].float().cpu()
    return {
        "boxes": boxes,
        "labels": objects["labels"].cpu(),
        "scores": objects["scores"].float().cpu(),
        "masks": [
            _encoded(mask, box, height, width) for mask, box in zip(masks, boxes.tolist(), strict=True)
        ],
    }


def _encoded(mask: Tensor, box: Sequence[float], height: int, width: int) -> dict[str, Any]:
    """Encode the mask (M, M) of probabilities over `box` as the RLE of an image (height, width), cut at 0.5.

    Only pixels with their centre in the box are computed, one mask at a time: a 6000-pixel image with a
    hundred objects needs a hundred encodings, not a hundred full-size float images.
    """
    x1, y1, x2, y2 = box
    rows, down = _bilinear(y1, y2, height, mask.shape[0])
    columns, across = _bilinear(x1, x2, width, mask.shape[1])
    drawn = np.zeros((height, width), dtype=np.uint8, order="F")
    drawn[rows, columns] = (down @ mask @ across.T >= 0.5).numpy()
    encoded = rle.encode(drawn)
    return {"size": [height, width], "counts": encoded["counts"].decode()}


def _bilinear(start: float, end: float, extent: int, cells: int) -> tuple[slice, Tensor]:
    """Give the pixels of [0, extent) with their centre in [start, end), and their weights (pixels, cells)."""
    first = max(0, int(np.ceil(start - 0.5)))
    last = max(first, min(extent, int(np.ceil(end - 0.5))))
    centres = torch.arange(first, last, dtype=torch.float32) + 0.5
    place = (centres - start) / max(end - start, 1e-6) * cells - 0.5
    distance = place.clamp(0, cells - 1)[:, None] - torch.arange(cells)
    return slice(first, last), (1 - distance.abs()).clamp(min=0)
