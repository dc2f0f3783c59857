"""Goldens of the evaluations by classification: kNN, the probes, partial and full fine-tuning, scratch."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from golden.bench import Bench, digest
from golden.frame import Case, Values, golden_test
from PIL import Image

from mae.evaluation.classification.imagenet_variants import ALEXNET_ERRORS, SEVERITIES
from mae.models.vit import build

AUGMENTED = (
    "{rand_augment: rand-m9-mstd0.5-inc1, random_erasing: 0.25, mixup: 0.8, cutmix: 1.0, smoothing: 0.1, "
    "drop_path: 0.2, layer_decay: 0.65, ema: 0.9, flip: true, clip_grad: 1.0, accumulate: 2, batch_size: 20}"
)
# Case: (stage, settings, protocol).
RUNS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "linear_token": ("linear", ("linear={pool: token, flip: true}",), "linear"),
    "linear_mean": ("linear", ("linear={pool: avg, labels_per_class: null, base_lr: 1.0}",), "linear_mean"),
    "attentive": ("attentive", ("attentive={weight_decay: 1.0e-3, flip: true}",), "attentive"),
    "partial": ("partial", ("partial={blocks: [0, 0.5, 2], epochs: [1, 2], drop_path: 0.1}",), "partial"),
    "finetune": ("finetune", (), "finetune"),
    "finetune_augmented": ("finetune", (f"finetune={AUGMENTED}",), "finetune"),
    "scratch": ("scratch", ("scratch={smoothing: 0.0, warmup_epochs: 1, min_lr: 1.0e-4}",), "scratch"),
}


def trained(stage: str, settings: tuple[str, ...], bench: Bench) -> Values:
    """Figures on val, and the curve."""
    bench.begin_from("pretrained", *settings)
    bench.run(stage)
    curve = f"reports/{stage}/curve.csv"
    columns = {name: bench.column(curve, name) for name in ("loss", "lr", "grad_norm")}
    found: Values = {**bench.metrics(stage), **{f"curve.{k}": v for k, v in columns.items() if v}}
    if stage == "partial":
        table = "reports/partial/blocks.csv"
        found |= {f"blocks.{name}": bench.column(table, name) for name in ("blocks", "epochs", "top1")}
    if stage == "finetune":
        found |= bench.lengths("models/finetune/classifier.safetensors")
    return found


def neighbours(pool: str, bench: Bench) -> Values:
    """Top-1 by nearest neighbours, pretrained and at random; attention on the middle of images."""
    bench.begin_from("pretrained", f"knn={{pool: {pool}, k: 5}}")
    bench.run("knn")
    return bench.metrics("knn")


def picture(path: Path, seed: int, size: int) -> None:
    """A JPEG of nine coloured squares, a PNG in truth: the same pixels with every decoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((size, size)).save(path, "PNG")


def other_sets(bench: Bench) -> Values:
    """A classifier whose answers depend on the image, on small trees of other versions of ImageNet."""
    classes = [f"n0000000{label}" for label in range(4)]
    some = classes[::3]
    bench.begin_from(
        "sharded", "robustness={sets: [imagenet_c, imagenet_a, imagenet_r, imagenet_sketch], batch_size: 3}"
    )
    root = bench.folder / "data/robustness"
    for label, name in enumerate(classes):
        for number in range(3):
            picture(root / f"sketch/{name}/sketch_{number}.png", 500 + 10 * label + number, 48)
            if name in some:
                picture(root / f"imagenet-a/{name}/{number}.png", 730 - 10 * label + number, 70)
                picture(root / f"imagenet-r/{name}/{number}.png", 930 - 10 * label + number, 40)
        for number, corruption in enumerate(ALEXNET_ERRORS):
            for severity in SEVERITIES:
                file = root / f"imagenet-c/{corruption}/{severity}/{name}/1.png"
                picture(file, 10_000 + 100 * number + 10 * severity + label, 32)
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    about = {"name": "vit_tiny_patch16_224", **size}
    model = build(**about, num_classes=len(classes), pool="avg")
    torch.nn.init.zeros_(model.pos_embed)
    for layer in (model.patch_embed.proj, model.head):
        torch.nn.init.normal_(layer.weight)
    (bench.folder / "models/finetune").mkdir(parents=True)
    about |= {"mean": [0.5, 0.4, 0.6], "std": [0.25, 0.2, 0.3], "classes": classes, "pool": "avg"}
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    file = bench.folder / "models/finetune/classifier.safetensors"
    safetensors.torch.save_file(state, file, {"config": json.dumps(about)})
    bench.run("robustness")
    table = "reports/robustness/corruptions.csv"
    columns = {f"corrupted.{name}": bench.column(table, name) for name in ("CE", "error_1", "error_5")}
    return {**bench.metrics("robustness"), **columns}


def without_labels(bench: Bench) -> Values:
    """Shards without labels: the evaluations leave files that say so."""
    bench.begin("ingest={source: flat, root: images, val_fraction: 0.3}", "pretrain.batch_size=5")
    for number in range(12):
        picture(bench.folder / f"images/{number}.png", number, 40)
    bench.run("ingest", "shard", "pretrain", "linear")
    return {
        "metrics": sorted(bench.json("reports/linear/metrics.json")),
        "pretrain": sorted(bench.metrics("pretrain")),
        "curve": digest((bench.folder / "reports/linear/curve.csv").read_text()),
    }


CASES = [
    *(Case(f"knn_{pool}", ("knn",), partial(neighbours, pool)) for pool in ("avg", "token")),
    *(
        Case(name, (stage,), partial(trained, stage, settings), (f"protocol.{protocol}",))
        for name, (stage, settings, protocol) in RUNS.items()
    ),
    Case(
        "robustness",
        ("robustness",),
        other_sets,
        ("set.imagenet_c", "set.imagenet_a", "set.imagenet_r", "set.imagenet_sketch"),
    ),
    Case("without_labels", ("linear", "pretrain"), without_labels),
]

test_it_gives_the_kept_values = golden_test("classification", CASES)
