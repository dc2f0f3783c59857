"""Ground truth and imperfect results to evaluate, real or drawn, and the figures of pycocotools."""

import contextlib
import copy
import io
import json
import warnings

import numpy as np
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mae.evaluation.detection.coco_ap import FIGURES, of_kind


@contextlib.contextmanager
def _quiet():
    """pycocotools prints, and hands NumPy 2 arrays of an older kind."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@_quiet()
def pycocotools_eval(truth, results, kind):
    """The official evaluator over the results as they are; its `stats` are the twelve figures."""
    official = COCO()
    official.dataset = copy.deepcopy(truth)
    official.createIndex()
    found = official.loadRes(copy.deepcopy(results))
    evaluator = COCOeval(official, found, kind)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def pycocotools_figures(truth, results, kind):
    stats = pycocotools_eval(truth, of_kind(results, kind), kind).stats
    return dict(zip(FIGURES, stats.tolist(), strict=True))


def read_instances(path):
    return {
        key: value
        for key, value in json.loads(path.read_text()).items()
        if key in ("images", "annotations", "categories")
    }


@_quiet()
def _mask(annotation, sizes):
    shape = annotation["segmentation"]
    height, width = sizes[annotation["image_id"]]
    if isinstance(shape, list):
        rle = masks.merge(masks.frPyObjects(shape, height, width))
    else:
        rle = masks.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
    return masks.decode(rle)


@_quiet()
def encode(mask):
    rle = masks.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def perfect(truth, seed=0):
    """Every object that is no crowd, found as it is, with a random score."""
    draw = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    return [
        {
            "image_id": each["image_id"],
            "category_id": each["category_id"],
            "bbox": list(each["bbox"]),
            "score": float(draw.random()),
            "segmentation": encode(_mask(each, sizes)),
        }
        for each in truth["annotations"]
        if not each["iscrowd"]
    ]


def imperfect(truth, seed=0):
    """Objects shifted, missed, found twice, called something else, crowds found, and some out of thin air.

    Scores have few values, so that many detections tie.
    """
    draw = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    categories = [each["id"] for each in truth["categories"]]
    results = []
    for each in truth["annotations"]:
        height, width = sizes[each["image_id"]]
        mask = _mask(each, sizes)
        for _ in range(draw.choice([0, 1, 1, 2])):
            reach = draw.choice([0, 0.05, 0.2]) * np.array(each["bbox"][2:])
            right, down = draw.uniform(-reach, reach)
            moved = np.roll(mask, (round(down), round(right)), (0, 1))
            x, y, w, h = each["bbox"]
            category = each["category_id"] if draw.random() < 0.9 else int(draw.choice(categories))
            results.append((each["image_id"], category, [x + right, y + down, w, h], moved))
    for _ in range(len(truth["annotations"]) // 5):
        image = truth["images"][draw.integers(len(truth["images"]))]
        height, width = sizes[image["id"]]
        mask = np.zeros((height, width), np.uint8)
        top, left = draw.integers(height), draw.integers(width)
        mask[top : top + 40, left : left + 30] = 1
        box = [float(left), float(top), 30.0, 40.0]
        results.append((image["id"], int(draw.choice(categories)), box, mask))
    return [
        {
            "image_id": image,
            "category_id": category,
            "bbox": [float(side) for side in box],
            "score": float(draw.integers(1, 60)) / 60,
            "segmentation": encode(mask),
        }
        for image, category, box, mask in results
    ]


def scene(images=12, side=48, categories=3, seed=0):
    """Draw ground truth: rectangles as polygons, one crowd, one image without objects; odd official ids."""
    draw = np.random.default_rng(seed)
    truth = {
        "images": [{"id": 1000 - 7 * n, "height": side, "width": side + n} for n in range(images)],
        "annotations": [],
        "categories": [{"id": 5 * n + 2, "name": f"kind {n}"} for n in range(categories)],
    }
    for number, image in enumerate(truth["images"][1:]):
        for _ in range(draw.integers(1, 5)):
            w, h = draw.integers(6, 30, 2).tolist()
            x, y = int(draw.integers(0, side - w)), int(draw.integers(0, side - h))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": int(draw.integers(categories)) * 5 + 2,
                    "bbox": [x, y, w, h],
                    "area": float(w * h),
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        if number == 3:
            crowd = truth["annotations"][-1]
            mask = _mask(crowd, {image["id"]: (image["height"], image["width"])})
            crowd |= {"iscrowd": 1, "segmentation": encode(mask)}
    return truth
