"""Goldens of `ingest*` and `shard*`: every kind of source, the demo, and how shards are cut and kept."""

import json
import os
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from golden import trees
from golden.bench import Bench, digest, sums
from golden.frame import ONE_PASS, Case, Values, golden_test
from PIL import Image

from mae.data.decode import decode
from mae.data.image_formats import as_png
from mae.data.label_png import label_values
from mae.data.shards.index import Index

# Source: (suffix of its stages, what writes the tree, share held out).
SOURCES: dict[str, tuple[str, Callable[[Path], None], float]] = {
    "folder": ("", trees.folder, 0.0),
    "flat": ("", trees.flat, 0.3),
    "imagenet_tar": ("", trees.imagenet_tars, 0.0),
    "inat2017": ("", partial(trees.inaturalist, year=2017), 0.0),
    "inat2018": ("", partial(trees.inaturalist, year=2018), 0.0),
    "inat2019": ("", partial(trees.inaturalist, year=2019), 0.0),
    "places205": ("", trees.places205, 0.0),
    "places365": ("", trees.places365, 0.0),
    "coco": ("_detect", trees.coco, 0.0),
    "ade20k": ("_segment", trees.ade20k, 0.0),
    "camvid": ("_segment", trees.camvid, 0.0),
    "label_maps": ("_segment", trees.label_maps, 0.0),
}
PLACES = {"": "data", "_detect": "data/detect", "_segment": "data/segment"}
# What a manifest or an index says of the place and of the words of reasons.
ASIDE = ("root", "unchanged_key")


def listed(kind: str, bench: Bench) -> Values:
    """Digests of listing, manifest and tars of a small tree, and what was left out."""
    suffix, plant, share = SOURCES[kind]
    plant(bench.folder / "set")
    bench.begin(
        f"ingest{suffix}={{source: {kind}, root: set, val_fraction: {share}}}",
        f"shard{suffix}={{max_count: 4, max_rejected: 20}}",
    )
    bench.run(f"ingest{suffix}", f"shard{suffix}")
    return {**ingested(bench, suffix), **sharded(bench, suffix)}


def ingested(bench: Bench, suffix: str) -> Values:
    """The listing, and the manifest without its path."""
    place = PLACES[suffix]
    manifest = bench.json(f"{place}/ingest/manifest.json")
    return {
        "listing": digest((bench.folder / place / "ingest/listing.tsv").read_bytes()),
        "manifest": digest({name: value for name, value in manifest.items() if name not in ASIDE}),
        "images": [split["count"] for split in manifest["splits"].values()],
        "ignored": manifest["ignored"],
    }


def sharded(bench: Bench, suffix: str) -> Values:
    """The bytes of the tars, the labels, and which files were left out."""
    folder = bench.folder / PLACES[suffix] / "shards"
    rejected = json.loads((folder / "rejected.json").read_text())["rejected"]
    found: Values = {"rejected": sorted(one["path"] for one in rejected)}
    index = Index.open(folder)
    for name in index.about["splits"]:
        split = index.split(name)
        tars = b"".join((folder / "tars" / shard).read_bytes() for shard in split.shards)
        found |= {f"{name}.tars": digest(tars), f"{name}.labels": split.labels.tolist()}
    return found


def demo(bench: Bench) -> Values:
    """The embedded demo: its pixels, boxes and label maps as numbers, its order by digest."""
    bench.begin()
    stages = [f"{stage}{suffix}" for suffix in PLACES for stage in ("ingest", "shard")]
    bench.run(*stages)
    found: Values = {}
    for suffix, place in PLACES.items():
        index = Index.open(bench.folder / place / "shards")
        for name in index.about["splits"]:
            split = index.split(name)
            about = [split.meta(row) for row in range(len(split))]
            images = [decode(split.read(row)) for row in range(len(split))]
            key = f"demo{suffix}.{name}"
            found[f"{key}.pixels"] = sums(np.stack([image.numpy() for image in images]))
            found[f"{key}.order"] = digest([(one["key"], one["path"], one.get("label")) for one in about])
            boxes = [one["bbox"] for each in about for one in each.get("annotations", ())]
            areas = [float(one["area"]) for each in about for one in each.get("annotations", ())]
            if boxes:
                found |= {f"{key}.boxes": sums(np.array(boxes)), f"{key}.areas": sums(np.array(areas))}
    segment = Index.open(bench.folder / "data/segment/shards").split("val")
    maps = [Image.open(BytesIO(segment.member(row, "labels.png"))) for row in range(len(segment))]
    return found | {"demo_segment.maps": sums(np.stack([np.asarray(one) for one in maps]))}


def order(index: Index, name: str) -> list[str]:
    """Keys of the samples of a split with the names of their files, shard by shard."""
    split = index.split(name)
    return [
        f"{one['shard']} {one['key']} {Path(one['path']).name}" for one in map(split.meta, range(len(split)))
    ]


def cut_by_bytes(bench: Bench) -> Values:
    """Shards bounded by bytes, of another seed; large images made smaller."""
    trees.folder(bench.folder / "set")
    bench.begin(
        "seed=3",
        "ingest={source: folder, root: set}",
        "shard={max_count: 100, max_bytes: 20000, max_side: 33, quality: 80, max_rejected: 1}",
    )
    bench.run("ingest", "shard")
    index = Index.open(bench.folder / "data/shards")
    split = index.split("train")
    images = [decode(split.read(row)) for row in range(len(split))]
    return {
        "order": digest(order(index, "train")),
        "shards": [shard["count"] for shard in index.about["splits"]["train"]["shards"]],
        "sizes": [list(image.shape[1:]) for image in images[:6]],
        "pixels": sums([float(image.double().mean()) for image in images]),
        "resized": index.about["resized"],
    }


def grown(bench: Bench) -> Values:
    """Images are added and one is changed: kept shards stay, the rest goes into new ones."""
    trees.folder(bench.folder / "set")
    bench.begin(
        "ingest={source: folder, root: set}", "shard={max_count: 5, max_rejected: 1}", "runtime.workers=1"
    )
    bench.run("ingest", "shard")
    before = order(Index.open(bench.folder / "data/shards"), "train")
    for number in range(4):
        trees.write(
            bench.folder / f"set/train/class_2/new {number}.png", trees.png(trees.pixels(70 + number))
        )
    changed = bench.folder / "set/train/class_0/train 3.png"
    trees.write(changed, trees.png(trees.pixels(99)))
    os.utime(changed, (trees.TIME + 9, trees.TIME + 9))
    bench.run("ingest", "shard")
    after = order(Index.open(bench.folder / "data/shards"), "train")
    return {"before": digest(before), "after": digest(after), "kept": len(set(before) & set(after))}


def subset(bench: Bench) -> Values:
    """Few labels of each class."""
    bench.begin_from("sharded")
    split = Index.open(bench.folder / "data/shards").split("train")
    return {"two": split.subset(2, 0).tolist(), "three": split.subset(3, 5).tolist()}


def with_listed_val(bench: Bench) -> Values:
    """Class folders whose val is one folder with a list."""
    trees.annotated_val(bench.folder / "set")
    bench.begin("ingest={source: folder, root: set}", "shard.max_rejected=1")
    bench.run("ingest", "shard")
    return {**ingested(bench, ""), **sharded(bench, "")}


def held_out_by_class(bench: Bench) -> Values:
    """Some of each class is held out, of a class too small for its share as well."""
    for label, count in enumerate((30, 12, 2, 1)):
        for number in range(count):
            picture = trees.png(trees.pixels(100 * label + number))
            trees.write(bench.folder / f"set/class_{label}/{number}.png", picture)
    bench.begin("ingest={source: folder, root: set, val_fraction: 0.1}")
    bench.run("ingest")
    return ingested(bench, "")


def images_of_all_kinds(bench: Bench) -> Values:
    """Formats, colours and orientations become the same RGB pixels."""
    found: Values = {}
    picture = Image.fromarray(trees.pixels(4, 24, 36))
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "jpeg": (picture, {"format": "JPEG", "quality": 90}),
        "cmyk": (picture.convert("CMYK"), {"format": "JPEG", "quality": 90}),
        "grey": (picture.convert("L"), {"format": "JPEG", "quality": 90}),
        "palette": (picture.quantize(16), {"format": "PNG"}),
        "alpha": (picture.convert("RGBA"), {"format": "PNG"}),
        "webp": (picture, {"format": "WEBP", "lossless": True}),
        "16_bits": (
            Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100),
            {"format": "PNG"},
        ),
    }
    for name, (image, options) in kinds.items():
        file = BytesIO()
        image.save(file, **options)
        found[name] = sums(decode(file.getvalue()))
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = BytesIO()
        picture.save(file, "PNG", exif=exif)
        image = decode(file.getvalue())
        found[f"orientation_{orientation}"] = digest(image.contiguous())
    for name, map_ in (("one_bit", picture.convert("1")), ("palette", picture.quantize(7))):
        file = BytesIO()
        map_.save(file, "PNG")
        found[f"map_{name}"] = label_values(file.getvalue()).flatten().tolist()[:80:3]
    for format in ("TIFF", "BMP"):
        file = BytesIO()
        picture.save(file, format)
        found[f"shard_{format.lower()}"] = sums(decode(as_png(file.getvalue())[0]))
    four_bits = trees.png(np.arange(6, dtype=np.uint8).reshape(3, 2) * 0x25, four_bits=True)
    found["map_four_bits"] = label_values(four_bits).flatten().tolist()
    return found


IMAGES = ("ingest", "shard")
CASES = [
    *(
        Case(kind, (f"ingest{suffix}", f"shard{suffix}"), partial(listed, kind), (f"source.{kind}",))
        for kind, (suffix, _, _) in SOURCES.items()
    ),
    Case("folder_with_listed_val", IMAGES, with_listed_val),
    Case("held_out_by_class", ("ingest",), held_out_by_class),
    Case("demo", tuple(f"{stage}{suffix}" for suffix in PLACES for stage in IMAGES), demo),
    Case("cut_by_bytes", IMAGES, cut_by_bytes),
    Case("grown", IMAGES, grown),
    Case("subset", ("linear", "attentive", "partial", "finetune", "scratch"), subset, tolerance=ONE_PASS),
    Case("images_of_all_kinds", ("shard", "pretrain"), images_of_all_kinds),
]

test_it_gives_the_kept_values = golden_test("data", CASES)
