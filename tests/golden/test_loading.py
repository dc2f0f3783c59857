"""Goldens of the loader: the order of samples, the augmentations, the noise of masks, the targets."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from golden import trees
from golden.bench import Bench, digest, sums
from golden.frame import Case, Values, golden_test
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mae.data.loading.annotations import LabelMap, Objects, ground_truth
from mae.data.loading.batches import evaluation_batches, training_batches
from mae.data.loading.epoch_order import EpochOrder
from mae.data.loading.token_cache import CachedTokens, cache_tokens
from mae.data.run_lengths import mask_crop
from mae.data.shards.index import Index
from mae.data.transforms.detection import detection_evaluation, large_scale_jitter
from mae.data.transforms.image import Normalize, byol_crop, evaluation, finetuning, pretraining
from mae.data.transforms.mask_resize import visible_mask
from mae.data.transforms.pretraining import augmentation
from mae.data.transforms.segmentation import distort, segmentation_evaluation, segmentation_training

TRAININGS = ("tokenizer", "pretrain", "linear", "attentive", "partial", "finetune", "scratch")
EVALUATIONS = ("knn", "linear", "attentive", "partial", "finetune", "scratch", "robustness")
# Transform: of an image, at other sizes and strengths than the stages' goldens have.
TRANSFORMS: dict[str, Callable[[], Any]] = {
    "none": lambda: augmentation("none", 24, scale=(0.2, 1.0), flip=True)[0],
    "fixed_crop": lambda: augmentation("fixed_crop", 24, flip=True)[0],
    "crop": lambda: augmentation("crop", (24, 32), flip=True)[0],
    "crop_jitter": lambda: augmentation("crop_jitter", 24, scale=(0.5, 1.0))[0],
    "two_views": lambda: augmentation("two_views", 48, views=2)[0],
    "pretraining": lambda: pretraining(24),
    "byol": lambda: byol_crop(24),
    "finetuning": lambda: finetuning(24, mean=IMAGENET_DEFAULT_MEAN),
    "finetuning_plain": lambda: finetuning(24, rand_augment=None, flip=False, mean=IMAGENET_DEFAULT_MEAN),
    "evaluation": lambda: evaluation(24),
    "evaluation_large": lambda: evaluation(232),
}


def planted(bench: Bench, *kinds: str) -> dict[str, Index]:
    """Shards of small trees, by kind of source."""
    suffixes = {"folder": "", "coco": "_detect", "ade20k": "_segment"}
    places = {"folder": "data/shards", "coco": "data/detect/shards", "ade20k": "data/segment/shards"}
    settings = []
    for kind in kinds:
        getattr(trees, kind)(bench.folder / kind)
        settings.append(f"ingest{suffixes[kind]}={{source: {kind}, root: {kind}}}")
        settings.append(f"shard{suffixes[kind]}={{max_count: 3, max_rejected: 20}}")
    bench.begin(*settings)
    bench.run(*(f"{stage}{suffixes[kind]}" for kind in kinds for stage in ("ingest", "shard")))
    return {kind: Index.open(bench.folder / places[kind]) for kind in kinds}


def taken(batches: Any) -> Values:
    """Rows, labels, pixels and noise of batches."""
    every = list(batches)
    views = [batch["images"] if isinstance(batch["images"], list) else [batch["images"]] for batch in every]
    found: Values = {
        "rows": [row for batch in every for row in batch["rows"].tolist()],
        "labels": [label for batch in every for label in batch["labels"].tolist()],
    }
    for number in range(len(views[0])):
        found[f"pixels_{number}"] = sums(torch.cat([view[number].flatten() for view in views]))
    if "noise" in every[0]:
        found["noise"] = sums(torch.cat([batch["noise"] for batch in every]))
    return found


def orders(_: Bench) -> Values:
    """The order of epochs: across their ends, of another seed, over few and many shards at a time."""
    shards = np.repeat(np.arange(11), 4)[:43]
    found: Values = {}
    for name, plan in (
        ("plain", EpochOrder(shards, seed=0)),
        ("seeded", EpochOrder(shards, seed=7)),
        ("narrow", EpochOrder(shards, seed=0, shuffle_window=2)),
    ):
        found[name] = plan.rows_at(30, 60).tolist()
        found[f"{name}.epoch_3"] = digest(plan.order(3))
        found[f"{name}.steps"] = [plan.steps(2, 8), plan.steps(0.5, 8), plan.steps(3, 43)]
    return found


def training(bench: Bench) -> Values:
    """Two epochs for two ranks, accumulated, with noise; another attempt draws anew."""
    split = planted(bench, "folder")["folder"].split("train")
    common: dict[str, Any] = {"global_batch": 8, "start": 1, "stop": 4, "seed": 5}
    crop = pretraining(24)
    found: Values = {}
    for name, options in {
        "plain": {},
        "rank_1": {"rank": 1, "world": 2, "accumulate": 2},
        "again": {"attempt": 1, "noise_shape": (6,)},
        "views": {"views": 2, "rows": np.arange(0, 20, 2)},
    }.items():
        values = taken(training_batches(split, crop, **common, **options))
        found |= {f"{name}.{key}": value for key, value in values.items()}
    return found


def evaluating(bench: Bench) -> Values:
    """Every sample once, over three ranks."""
    split = planted(bench, "folder")["folder"].split("train")
    found: Values = {}
    for rank in range(3):
        values = taken(evaluation_batches(split, evaluation(24), batch_size=4, rank=rank, world=3))
        found |= {f"rank_{rank}.{key}": value for key, value in values.items()}
    return found


def transformed(name: str, _: Bench) -> Values:
    """Apply a transform to three images."""
    transform = TRANSFORMS[name]()
    found: Values = {}
    for seed in range(3):
        image = torch.from_numpy(trees.pixels(seed, 40 + 9 * seed, 64)).permute(2, 0, 1)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        views = transform(image)
        for number, view in enumerate(views if isinstance(views, tuple) else (views,)):
            found[f"{seed}.{number}"] = [float(view.shape[-2]), *sums(view)]
    return found


def normalised(_: Bench) -> Values:
    """Bytes to floats as the encoder takes them, and back."""
    images = torch.from_numpy(trees.pixels(1)).permute(2, 0, 1)[None]
    found: Values = {}
    statistics = {
        "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        "own": ((0.2, 0.4, 0.6), (0.3, 0.2, 0.1)),
    }
    for name, given in statistics.items():
        normalize = Normalize(*given)
        floats = normalize(images)
        found |= {name: sums(floats), f"{name}.back": digest(normalize.undo(floats))}
    return found


def boxes_of(targets: Sequence[dict[str, Any]]) -> Values:
    """Objects of a batch as numbers."""
    masks = torch.cat([one["masks"].flatten().float() for one in targets])
    return {
        "labels": [label for one in targets for label in one["labels"].tolist()],
        "boxes": [float(side) for one in targets for side in one["boxes"].flatten().tolist()],
        "masks": sums(masks),
    }


def detection(bench: Bench) -> Values:
    """Jittered images with boxes and masks, the same for evaluation, and the ground truth."""
    index = planted(bench, "coco")["coco"]
    read, split = Objects(index.categories), index.split("train")
    found: Values = {}
    for name, options in {
        "defaults": {},
        "narrow": {"scale": (0.8, 1.3), "flip": False, "max_objects": 1, "fill": (1, 2, 3)},
    }.items():
        jitter = large_scale_jitter(48, **options)
        batches = list(training_batches(split, jitter, global_batch=3, start=0, stop=4, seed=0, target=read))
        pixels = torch.cat([batch["images"].flatten() for batch in batches])
        targets = boxes_of([target for batch in batches for target in batch["targets"]])
        found |= {f"{name}.pixels": sums(pixels), **{f"{name}.{key}": one for key, one in targets.items()}}
    (batch,) = evaluation_batches(split, detection_evaluation(48), batch_size=8, target=read)
    found["evaluated"] = sums(batch["images"])
    found["inner"] = [list(one["inner"]) for one in batch["targets"]]
    truth = ground_truth(split, index.categories)
    found["truth"] = digest([truth["images"], truth["categories"]])
    found["areas"] = [float(one["area"]) for one in truth["annotations"]]
    return found


def segmentation(bench: Bench) -> Values:
    """Crops with label maps, the same for evaluation, and colours distorted."""
    index = planted(bench, "ade20k")["ade20k"]
    read, split = LabelMap(index.categories, index.ignore), index.split("train")
    found: Values = {}
    for name, options in {
        "defaults": {},
        "narrow": {"short": 40, "ratio": (0.7, 1.4), "max_class_share": 0.5, "flip": False, "jitter": False},
    }.items():
        transform = segmentation_training((24, 28), **options)
        batches = list(
            training_batches(split, transform, global_batch=3, start=0, stop=4, seed=0, target=read)
        )
        labels = torch.cat([one["labels"].flatten() for batch in batches for one in batch["targets"]])
        found |= {
            f"{name}.pixels": sums(torch.cat([batch["images"].flatten() for batch in batches])),
            f"{name}.labels": sums(labels),
        }
    (batch,) = evaluation_batches(split, segmentation_evaluation(24), batch_size=8, target=read)
    found["evaluated"] = sums(batch["images"])
    found["maps"] = digest(torch.stack([one["labels"] for one in batch["targets"]]))
    for seed in range(6):
        torch.manual_seed(seed)
        image = torch.from_numpy(trees.pixels(seed)).permute(2, 0, 1)
        found[f"distorted_{seed}"] = sums(distort(image))
    return found


def masks(_: Bench) -> Values:
    """Run lengths: the box that a mask fills, and what a window of it shows at another size."""
    stated = {"size": [32, 40], "counts": [100, 20, 12, 20, 12, 20, 1096]}
    part, top, left = mask_crop(stated)
    found: Values = {"part": [top, left, *part.shape, int(part.sum())]}
    for name, resized in (("smaller", (20, 25)), ("larger", (64, 80))):
        seen = visible_mask(stated, resized, ((0, resized[0]), (0, resized[1])))
        assert seen is not None
        mask, top, left = seen
        found[name] = [top, left, *mask.shape, int(mask.sum())]
    return found


def kept_tokens(bench: Bench) -> Values:
    """Tokens that were kept for a split, read by row."""
    split = planted(bench, "folder")["folder"].split("train")
    rows = np.arange(len(split))
    codes = np.random.default_rng(0).integers(0, 9, (len(rows), 4))
    names = list(cache_tokens(bench.folder / "tokens", split, [(rows[:7], codes[:7]), (rows[7:], codes[7:])]))
    read = CachedTokens(bench.folder / "tokens", split).of(np.array([5, 0, 13, 6]))
    return {
        "shards": len(names),
        "read": digest(read),
        "same": bool((read == codes[[5, 0, 13, 6]]).all()) * 1,
    }


CASES = [
    Case("orders", TRAININGS, orders),
    Case("training", TRAININGS, training),
    Case("evaluating", EVALUATIONS, evaluating),
    *(
        Case(f"transform_{name}", (*TRAININGS, *EVALUATIONS), partial(transformed, name))
        for name in TRANSFORMS
    ),
    Case("normalised", (*TRAININGS, *EVALUATIONS), normalised, tolerance=1e-5),
    # Bytes are resized here: processors differ by a step of 1.
    Case("detection", ("detect",), detection, tolerance=5e-3),
    Case("segmentation", ("segment",), segmentation, tolerance=5e-3),
    Case("masks", ("detect", "shard_detect"), masks),
    Case("kept_tokens", ("tokenizer", "pretrain"), kept_tokens),
]

test_it_gives_the_kept_values = golden_test("loading", CASES)
