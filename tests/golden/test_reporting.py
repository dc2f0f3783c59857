"""Goldens of the gate of `register`, the answers of served models, drift, and the text of the report."""

import json
import re
from typing import Any

import numpy as np
import torch
from golden import trees
from golden.bench import Bench, digest, sums
from golden.frame import Case, Values, golden_test
from golden.test_loading import planted
from golden.test_parts import SMALL, filled, vit

from mae.data.listing.drift import class_shift, compare
from mae.data.listing.image_statistics import STATISTICS, distances, measure
from mae.data.listing.listing_file import Listing
from mae.models.detection.detector import build_detector
from mae.models.segmentation.segmenter import build_segmenter
from mae.serving.answers import ANSWERS

GAIN = {"gain": 0.0625, "gain_low": -0.0125, "gain_high": 0.125}
TOP = {
    "top1": 0.75,
    "top1_low": 0.625,
    "top1_high": 0.875,
    "top5": 0.9375,
    "samples": 7,
    "labels_per_class": 2,
}
# What the stages before it leave, all of it fixed.
METRICS: dict[str, dict[str, Any]] = {
    "tokenizer": {
        "kind": "kmeans", "error": 0.25, "samples": 7, "split": "val", "steps": 6, "codes": 16,
        "codes_used": 15, "code_perplexity": 12.5, "pictures_note": "a note", "images_per_second": 100.0,
    },
    "pretrain": {
        "loss": 0.5, "first_loss": 1.5, "steps": 6, "samples": 20, "parameters": 57632,
        "images_per_second": 1234.5, "flops_per_image": 7030272.0, "peak_memory": 2**30, "attempts": 1,
        "pictures_note": "a note", "pictures_split": "val", "attention": "full", "patches": 16, "masked": 12,
        "knn_top1": 0.5, "layers_top1": [0.25, 0.5, 0.75, 0.5],
    },
    "knn": {**TOP, "random_top1": 0.5, **GAIN, "attention_centre": 0.3125, "random_attention_centre": 0.25},
    "linear": {**TOP, "random_top1": 0.25, **GAIN},
    "attentive": TOP,
    "partial": {**TOP, "blocks": 0.5, "epochs": 1},
    "finetune": {**TOP, "labels_per_class": None, "images_per_second": 99.0},
    "scratch": {**TOP, "top1": 0.5},
    "robustness": {
        "imagenet_c_mCE": 0.75, "imagenet_c_top1": 0.5, "imagenet_c_samples": 60, "imagenet_c_classes": 4,
        **{f"imagenet_a_{name}": value for name, value in TOP.items()}, "imagenet_a_classes": 2,
    },
    "detect": {
        "init": "pretrained", "samples": 4, "steps": 4, "box_AP_low": 0.125, "box_AP_high": 0.5, **GAIN,
        **{
            f"{init}{kind}_{name}": value
            for init, value in (("", 0.375), ("scratch_", 0.3125))
            for kind in ("box", "mask")
            for name in ("AP", "AP50", "AP75", "AR100")
        },
    },
    "segment": {
        "init": "scratch", "samples": 2, "steps": 4, "mIoU": 0.5, "mAcc": 0.625, "aAcc": 0.75,
        "mIoU_low": 0.375, "mIoU_high": 0.625,
    },
}  # fmt: skip
DECISION = {
    "encoder": {
        "reason": "gain +0.0100",
        "models": [{"name": "mae-encoder", "version": "2", "aliases": ["champion", "challenger"]}],
    },
    "detector": {"reason": "a tie", "models": [{"name": "mae-detector", "version": "1", "aliases": []}]},
}
RUN = {"run_id": "0" * 32, "commit": "abcdef123456", "device": "a processor", "seconds": 12.0}
PICTURES = {
    "partial": ["blocks"], "knn": ["attention", "projection"], "pretrain": ["curve", "reconstructions"],
    "tokenizer/pictures": ["curve", "rebuilt"], "detect": ["predictions", "pr", "curve"],
    "segment": ["predictions", "classes", "curve"],
}  # fmt: skip


def report(bench: Bench) -> Values:
    """The report of fixed figures: its text, its numbers, and that the page holds its pictures."""
    planted(bench, "folder", "coco", "ade20k")
    bench.set("pretrain.method=mae", "robustness.sets=[imagenet_c, imagenet_a]", "report.title=A report")
    reports = bench.folder / "reports"
    for stage, values in METRICS.items():
        trees.write(reports / stage / "metrics.json", values)
        trees.write(reports / stage / "run.json", RUN)
    for place, names in PICTURES.items():
        for name in names:
            trees.write(reports / place / f"{name}.png", trees.png(trees.pixels(len(name))))
    trees.write(reports / "register/decision.json", DECISION)
    trees.write(reports / "partial/blocks.csv", "blocks,epochs,top1,top1_low,top1_high\n0,1,0.5,0.25,0.75\n")
    trees.write(reports / "robustness/corruptions.csv", "corruption,CE,error_1,error_5\nfog,0.75,0.5,0.625\n")
    for stage, right in (("finetune", [1, 1, 0, 1, 1, 0, 1]), ("scratch", [1, 0, 0, 1, 0, 0, 1])):
        (bench.folder / f"models/{stage}").mkdir(parents=True)
        np.save(bench.folder / f"models/{stage}/correct.npy", np.array(right, dtype=bool))
    bench.run("report")
    text, page = (reports / "report.md").read_text(), (reports / "report.html").read_text()
    return {
        "numbers": [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)],
        "headings": [line for line in text.splitlines() if line.startswith("#")],
        "text": digest(text),
        "pictures": page.count("data:image/png;base64,"),
    }


def register(bench: Bench) -> Values:
    """Two classifiers go through the gate one after the other; figures of both decisions."""
    bench.begin_from("dense", "detect.inits=[pretrained]", "segment.inits=[pretrained]")
    bench.run("finetune", "register")
    found: Values = {"first": decided(bench)}
    bench.set("finetune={base_lr: 1.0, epochs: 3}")
    bench.run("finetune", "register")
    return found | {"second": decided(bench)}


def decided(bench: Bench) -> list[Any]:
    """The decision on the encoder: promoted or not, its figures, versions and aliases."""
    outcome = bench.json("reports/register/decision.json")["encoder"]
    figures = [outcome[name] for name in ("gain", "low", "high", "challenger", "champion")]
    models = [[one["name"], str(one["version"]), sorted(one["aliases"])] for one in outcome["models"]]
    return [
        int(outcome["promote"]),
        *(-9.0 if one is None else round(one, 6) for one in figures),
        json.dumps(models),
    ]


def answers(_: Bench) -> Values:
    """Return the answers of served models for two images."""
    about = {**SMALL, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    categories = [{"id": 7 * place, "name": name} for place, name in enumerate(("pagoda", "tree", "sky"), 1)]
    dense = {**about, "categories": categories, "image_size": 40, "short": 36}
    small = {"channels": 16, "box_dim": 16, "rois": 32, "detections": 4}
    detector = build_detector(
        SMALL, 3, image_size=40, window=2, global_blocks=(1, 3), score_threshold=0.0, **small
    )
    segmenter = build_segmenter(SMALL, 3, crop=32, taps=(0, 1, 2, 3), channels=16, auxiliary_channels=8)
    models: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
        "encoder": (vit(), about, {}),
        "encoder_token": (vit(), about, {"pool": "token"}),
        "classifier": (vit(pool="avg", num_classes=6), {**about, "classes": list("abcdef")}, {}),
        "detector": (filled(detector, 0.05).eval(), dense, {}),
        "segmenter": (filled(segmenter, 0.1).eval(), dense, {}),
    }
    pictures = [torch.from_numpy(trees.pixels(seed, 44, 60)).permute(2, 0, 1) for seed in (1, 2)]
    found: Values = {}
    for name, (model, config, settings) in models.items():
        served = ANSWERS[name.removesuffix("_token")](model, config, torch.device("cpu"), settings)
        with torch.inference_mode():
            rows = served.rows([served.scale(picture) for picture in pictures])
        found[f"{name}.columns"] = list(served.columns)
        if name.startswith("encoder"):
            found[name] = sums([value for row in rows for value in row["embedding"]])
        elif name == "classifier":
            found |= {
                "labels": [row["labels"] for row in rows],
                "scores": [s for row in rows for s in row["scores"]],
            }
        elif name == "detector":
            found |= {"boxes": sums([s for row in rows for box in row["boxes"] for s in box])}
            found |= {"objects": [len(row["scores"]) for row in rows]}
        else:
            found |= {"map": [[row["width"], row["height"]] for row in rows], "classes": rows[0]["classes"]}
    return found


def drift(bench: Bench) -> Values:
    """Two listings of a set that grew: what differs, classes and statistics of images."""
    trees.folder(bench.folder / "set")
    bench.begin("ingest={source: folder, root: set}", "shard.max_rejected=9")
    bench.run("ingest")
    (bench.folder / "data/ingest").rename(bench.folder / "before")
    for number in range(6):
        path = bench.folder / f"set/train/class_2/new {number}.png"
        trees.write(path, trees.png(trees.pixels(number, 20 + number, 40) // 2 + 100))
    (bench.folder / "set/train/class_0/train 0.png").unlink()
    bench.run("ingest")
    before, after = Listing(bench.folder / "before"), Listing(bench.folder / "data/ingest")
    after.manifest["root"] = str(bench.folder / "set")
    found = compare(before, after)
    old, new = (measure(after, rows, most=12, seed=1) for rows in (found.unchanged, found.new_or_changed))
    apart = distances(old, new)
    return {
        "rows": [found.new.tolist(), found.changed.tolist(), found.removed.tolist()],
        "by_class": found.by_class.tolist(),
        "shift": list(class_shift(*found.by_class, seed=0)),
        "looked_at": [len(old.values), old.bad, len(new.values), new.bad],
        **{name: sums(new.values[:, column]) for column, name in enumerate(STATISTICS)},
        "distances": [float(number) for name in STATISTICS for number in apart[name]],
        "blank": [old.blank, new.undecodable],
    }


CASES = [
    Case("report", ("report",), report),
    Case("register", ("register",), register),
    Case("answers", ("register",), answers, tuple(f"answer.{name}" for name in ANSWERS)),
    Case("drift", ("ingest",), drift),
]

test_it_gives_the_kept_values = golden_test("reporting", CASES)
