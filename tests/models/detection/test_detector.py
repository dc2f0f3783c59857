"""A detector is built from any plain encoder, learns, and reports objects in the original image's pixels."""

import json

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle
from torch.testing import assert_close
from torchvision.ops import box_iou, roi_align

from mae.engine.optim import adamw
from mae.models import vit as encoders
from mae.models.detection import mask_rcnn
from mae.models.detection.detector import build_detector
from mae.models.detection.mask_rcnn import mask_loss

TINY = {
    "name": "vit_tiny_patch16_224",
    "img_size": 24,
    "patch_size": 4,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
}
HEADS = {"channels": 16, "box_dim": 32, "box_convs": 1, "mask_convs": 1, "rois": 16, "proposals": 50}


def tiny(**settings):
    settings = {"image_size": 48, "window": 3, "global_blocks": (2,)} | HEADS | settings
    return build_detector(settings.pop("encoder", TINY), settings.pop("num_classes", 3), **settings)


def square(x, y, side, label, size=48):
    masks = torch.zeros(1, size, size, dtype=torch.uint8)
    masks[:, y : y + side, x : x + side] = 1
    boxes = torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)
    return {"image_id": 7, "boxes": boxes, "labels": torch.tensor([label]), "masks": masks}


def nothing(size=48):
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, size, size, dtype=torch.uint8),
    }


@pytest.fixture(scope="module")
def pretrained():
    torch.manual_seed(0)
    vit = encoders.build(**TINY)
    encoders.initialise(vit)
    return {name: value + 0.01 * torch.randn_like(value) for name, value in vit.state_dict().items()}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("targets", ["objects", "some", "none"])
def test_losses_are_finite_float32_and_reach_every_trainable_part(targets, bf16):
    model = tiny()
    first = nothing() if targets == "none" else square(5, 8, 20, 2)
    second = square(0, 0, 48, 0) if targets == "objects" else nothing()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = model(torch.randn(2, 3, 48, 48), [first, second])
    assert set(losses) == {
        "loss",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
        "loss_objectness",
        "loss_rpn_box_reg",
    }
    assert {(value.dtype, value.shape) for value in losses.values()} == {(torch.float32, ())}
    parts = sum(value for name, value in losses.items() if name != "loss")
    assert_close(losses["loss"], parts)
    losses["loss"].backward()
    for name, value in model.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name


def test_masks_of_other_classes_are_not_widened_to_float32(monkeypatch):
    widened = []
    monkeypatch.setattr(mask_rcnn, "_full", lambda values: widened.append(values.shape) or values.float())
    with torch.autocast("cpu", torch.bfloat16):
        tiny()(torch.randn(1, 3, 48, 48), [square(5, 8, 20, 2)])
    masks = [shape for shape in widened if shape[-2:] == (28, 28)]
    assert [len(shape) for shape in masks] == [3], "regions, each with a mask of its own class"


def test_the_same_seed_gives_the_same_detector_and_loss():
    images, targets = torch.randn(1, 3, 48, 48), [square(4, 4, 16, 1)]
    losses = []
    for seed in (3, 3, 4):
        model = tiny(seed=seed)
        torch.manual_seed(0)
        losses.append(model(images, targets)["loss"].item())
    assert losses[0] == losses[1] != losses[2]


def test_json_of_the_settings_and_the_weights_give_the_detector_back(pretrained):
    model = tiny(encoder_state=pretrained, patch_size=6, anchor_scale=4, score_threshold=0.01).eval()
    again = build_detector(**json.loads(json.dumps(model.settings))).eval()
    assert again.settings == model.settings
    again.load_state_dict(model.state_dict())
    images, shapes = torch.randn(1, 3, 48, 48), [{"size": (48, 48), "inner": (48, 48)}]
    found, wanted = again.detect(images, shapes)[0], model.detect(images, shapes)[0]
    assert_close(found["boxes"], wanted["boxes"], atol=0, rtol=0)
    assert found["masks"] == wanted["masks"]


def test_layers_learn_at_vitdets_rates():
    model = tiny()
    optimizer = adamw(model, lr=1e-4, weight_decay=0.1, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert groups["vit.encoder.pos_embed"] == (0.5**4, 0)
    assert groups["vit.encoder.patch_embed.proj.weight"] == (0.5**4, 0.1)
    for block in range(3):
        scale = 0.5 ** (3 - block)
        assert groups[f"vit.encoder.blocks.{block}.attn.qkv.weight"] == (scale, 0.1)
        assert groups[f"vit.encoder.blocks.{block}.norm1.weight"] == (scale, 0)
        assert groups[f"vit.relative.{block}.rows"] == (scale, 0.1)
    rest = {value[0] for name, value in groups.items() if not name.startswith("vit.")}
    assert rest == {1.0}
    assert "vit.encoder.cls_token" not in groups
    assert len(groups) == sum(parameter.requires_grad for parameter in model.parameters())


def test_drop_path_grows_to_the_given_rate_and_the_heads_are_vitdets():
    with torch.device("meta"):
        vit_b = {"name": "vit_base_patch16_224", "img_size": 224}
        # Only shapes are asked for; drawing a hundred million weights would take a while.
        model = build_detector(vit_b, 80, image_size=1024)
    assert model.vit.encoder.blocks[11].drop_path1.drop_prob == pytest.approx(0.1)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert shapes["vit.relative.0.rows"] == (27, 64)
    assert shapes["vit.relative.2.rows"] == (127, 64)
    assert shapes["heads.roi.box_head.5.weight"] == (1024, 256 * 7 * 7)
    assert shapes["heads.roi.box_predictor.cls_score.weight"] == (81, 1024)
    convolutions = [name for name, shape in shapes.items() if shape == (256, 256, 3, 3)]
    by_part = [sum(part in name for name in convolutions) for part in ("rpn", "box_head", "mask_head")]
    assert by_part == [2, 4, 4]
    assert not any(
        name.startswith(("vit.encoder.norm", "vit.encoder.fc_norm", "vit.encoder.head")) for name in shapes
    )


def test_the_encoder_starts_from_the_pretrained_weights(pretrained):
    state = tiny(encoder_state=pretrained).vit.encoder.state_dict()
    assert set(pretrained) - set(state) == {"norm.weight", "norm.bias"}
    for name, value in state.items():
        assert_close(value, pretrained[name])
    scratch = tiny().vit.encoder
    assert scratch.pos_embed.requires_grad
    assert not torch.equal(scratch.blocks[0].attn.qkv.weight, pretrained["blocks.0.attn.qkv.weight"])


def test_patches_are_resampled_to_another_size_and_the_grid_stays(pretrained):
    model = tiny(encoder_state=pretrained, patch_size=6)
    vit = model.vit.encoder
    assert vit.patch_embed.proj.weight.shape == (32, 3, 6, 6)
    assert_close(vit.pos_embed, pretrained["pos_embed"])
    assert model.heads.strides == (1.5, 3, 6, 12, 24)
    assert model.settings["encoder"]["patch_size"] == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a whole number above 0"),
        ({"image_size": 48.0}, "image_size must be a whole number"),
        ({"rois": 0}, "rois must be a whole number"),
        ({"global_blocks": (5,)}, "global_blocks"),
        ({"encoder": TINY | {"patch_size": (4, 2)}}, "square patches"),
        ({"encoder": TINY | {"depth": 4}, "encoder_state": True}, r"blocks\.3"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings, message, pretrained):
    if "encoder_state" in settings:
        settings = settings | {"encoder_state": pretrained}
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


def test_training_and_evaluation_mode_are_not_mixed_up_and_targets_must_fit():
    model = tiny()
    images = torch.zeros(1, 3, 48, 48)
    with pytest.raises(ValueError, match="call eval"):
        model.detect(images, [{"size": (48, 48), "inner": (48, 48)}])
    with pytest.raises(ValueError, match="1 images with 2 targets"):
        model(images, [nothing(), nothing()])
    with pytest.raises(ValueError, match=r"masks \(1, 24, 24\).*label and a mask of \(1, 48, 48\)"):
        model(images, [square(2, 2, 9, 0, size=24)])
    with pytest.raises(ValueError, match="call train"):
        model.eval()(images, [nothing()])


def test_objects_come_in_pixels_of_the_original_image_with_their_masks(monkeypatch):
    model = tiny().eval()
    left_half = torch.zeros(2, 28, 28)
    left_half[:, :, :14] = 1
    found = {
        "boxes": torch.tensor([[2.0, 4, 10, 12], [0, 0, 24, 48]]),
        "labels": torch.tensor([2, 0]),
        "scores": torch.tensor([0.9, 0.8]),
        "masks": left_half,
    }
    monkeypatch.setattr(model.heads, "detect", lambda maps, sizes: [found])
    result = model.detect(torch.zeros(1, 3, 48, 48), [{"size": (96, 72), "inner": (48, 24)}])[0]
    assert_close(result["boxes"], torch.tensor([[6.0, 8, 30, 24], [0, 0, 72, 96]]))
    assert result["labels"].tolist() == [2, 0]
    drawn = rle.decode(result["masks"][0])
    wanted = np.zeros((96, 72), dtype=np.uint8)
    wanted[8:24, 6:18] = 1
    np.testing.assert_array_equal(drawn, wanted)
    assert isinstance(json.dumps(result["masks"]), str)


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (6000, 4000), (37, 53)])
def test_an_image_of_any_size_gives_boxes_and_masks_of_that_size(size):
    model = tiny(score_threshold=0.0, detections=3).eval()
    inner = tuple(max(1, round(side * 48 / max(size))) for side in size)
    (found,) = model.detect(torch.randn(1, 3, 48, 48), [{"size": size, "inner": inner}])
    assert len(found["boxes"]) == len(found["masks"]) == 3
    assert (found["boxes"] >= 0).all()
    assert (found["boxes"] <= torch.tensor([size[1], size[0]] * 2)).all()
    assert all(rle.decode(mask).shape == size for mask in found["masks"])
    assert (found["scores"].diff() <= 0).all()


def test_a_mask_cut_for_training_and_drawn_again_stays_where_it_was(monkeypatch):
    """A shift of half a pixel would cost this disc of 18 pixels 6 % of its IoU."""
    places = torch.arange(48) + 0.5
    disc = ((places - 20.3) ** 2 + (places[:, None] - 24.6) ** 2 < 9**2).to(torch.uint8)[None]
    box = torch.tensor([[11.0, 15, 30, 34]])
    cut = roi_align(disc[:, None].float(), [box], 28, aligned=True)[:, 0]
    logits = (cut - 0.5) * 50
    assert mask_loss(logits, [disc], [box], [torch.tensor([0])]) < 0.05
    found = {"boxes": box, "labels": torch.tensor([0]), "scores": torch.ones(1), "masks": logits.sigmoid()}
    model = tiny().eval()
    monkeypatch.setattr(model.heads, "detect", lambda maps, sizes: [found])
    (result,) = model.detect(torch.zeros(1, 3, 48, 48), [{"size": (48, 48), "inner": (48, 48)}])
    drawn = torch.from_numpy(rle.decode(result["masks"][0]))
    assert (drawn & disc[0]).sum() / (drawn | disc[0]).sum() > 0.98


def scene(generator):
    """A noisy image with one bright square (class 0) or dark disc (class 1), 8 to 20 pixels wide."""
    side, label = (int(torch.randint(*limits, (), generator=generator)) for limits in ((8, 21), (0, 2)))
    x, y = torch.randint(0, 49 - side, (2,), generator=generator).tolist()
    target = square(x, y, side, label)
    if label:
        places = torch.arange(side) + 0.5 - side / 2
        disc = places**2 + places[:, None] ** 2 < side**2 / 4
        target["masks"][0, y : y + side, x : x + side] = disc
    image = 0.3 * torch.randn(3, 48, 48, generator=generator) + (2 - 4 * label) * target["masks"]
    return image, target


@pytest.mark.slow
def test_a_tiny_detector_learns_to_find_bright_squares_and_dark_discs():
    model = tiny(num_classes=2, window=6, global_blocks=(0, 2), drop_path=0.0)
    optimizer = adamw(model, lr=2e-3, betas=(0.9, 0.999), weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    steps = 120
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20) * (1 if step < 0.8 * steps else 0.1)
        images, targets = zip(*(scene(generator) for _ in range(4)), strict=True)
        loss = model(torch.stack(images), targets)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    images, targets = zip(*(scene(generator) for _ in range(32)), strict=True)
    found = model.detect(torch.stack(images), [{"size": (48, 48), "inner": (48, 48)}] * 32)
    labels, boxes, masks = [], [], []
    for objects, target in zip(found, targets, strict=True):
        drawn = torch.from_numpy(rle.decode(objects["masks"][0]))
        labels.append(int(objects["labels"][0]) == int(target["labels"][0]))
        boxes.append(box_iou(objects["boxes"][:1], target["boxes"]).item())
        masks.append(((drawn & target["masks"][0]).sum() / (drawn | target["masks"][0]).sum()).item())
    assert np.mean(labels) > 0.8
    assert np.mean(boxes) > 0.6
    assert np.mean(masks) > 0.6
