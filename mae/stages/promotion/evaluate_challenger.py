"""The evaluations behind the gate of `register`: each challenger and its champion on the same samples.

folder: receives a champion that has to be downloaded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mae import registry
from mae.config import Params
from mae.config.paths import CLASSIFIER, DETECTION, DETECTOR, IMAGES, SEGMENTATION, SEGMENTER, DataSet
from mae.data.shards.index import Index
from mae.serving.model_file import load_model
from mae.stages.context.rejection import rejection_limit

# Torch and the models are imported where a model is evaluated: mostly, nothing has changed.


def classification(params: Params, uri: str, folder: Path) -> registry.Decision:
    """Compare the classifiers, and with them the encoders, by top-1."""
    given, index = params.registry, Index.open(IMAGES.shards)
    champion = registry.champion_files(uri, given.classifier, folder)
    if not CLASSIFIER.is_file():
        return registry.decide_without_labels(first=registry.champion_version(uri, given.encoder) is None)
    return registry.decide(
        _correct(params, index, CLASSIFIER),
        None if champion is None else _correct(params, index, champion),
        min_gain=given.min_gain,
        confidence=given.confidence,
        seed=params.seed,
    )


def detection(params: Params, uri: str, folder: Path) -> registry.Decision:
    """Compare the detectors by box AP."""
    from mae.data.loading.annotations import Objects, ground_truth
    from mae.data.transforms.detection import detection_evaluation
    from mae.evaluation.confidence import paired_statistic_gain
    from mae.evaluation.detection.ap_records import MatchRecords, ResampledAP, paired_ap
    from mae.evaluation.detection.coco_ap import evaluate_detections
    from mae.stages.detect import RECORDS, RESAMPLES, detect_function, results_of

    challenger_records = MatchRecords.load(DETECTOR.parent / RECORDS)
    found = registry.champion_files(uri, params.registry.detector, folder)
    champion_records = None
    if found is not None:
        index = Index.open(DETECTION.shards)
        categories = index.about["categories"]
        model, about, normalize, device = _opened(params, found)
        transform = detection_evaluation(about["image_size"])
        batches = _val(params, DETECTION, index, transform, target=Objects(categories), batch_size=8)
        results = results_of(batches, detect_function(model, normalize, device, "fp32"), about["categories"])
        known = {one["id"] for one in categories}
        annotations = ground_truth(index.split("val"), categories)
        champion_records = evaluate_detections(
            annotations, [one for one in results if one["category_id"] in known], "bbox"
        ).records
    gain = champion_records and paired_statistic_gain(
        paired_ap(challenger_records, champion_records),
        len(challenger_records.image_ids),
        confidence=params.registry.confidence,
        resamples=RESAMPLES,
        seed=params.seed,
    )
    champion = None if champion_records is None else ResampledAP(champion_records)()
    return _decided(
        params, ResampledAP(challenger_records)(), champion, gain, len(challenger_records.image_ids), "box AP"
    )


def segmentation(params: Params, uri: str, folder: Path) -> registry.Decision:
    """Compare the segmenters by mIoU."""
    from mae.evaluation.confidence import paired_statistic_gain
    from mae.evaluation.segmentation.iou import iou_figures, paired_miou
    from mae.stages.segment import RECORDS, RESAMPLES

    challenger_records = np.load(SEGMENTER.parent / RECORDS)["counts"]
    found = registry.champion_files(uri, params.registry.segmenter, folder)
    champion_records = None if found is None else _counts(params, found)
    gain = None
    if champion_records is not None:
        gain = paired_statistic_gain(
            paired_miou(challenger_records, champion_records),
            len(challenger_records),
            confidence=params.registry.confidence,
            resamples=RESAMPLES,
            seed=params.seed,
        )
    champion = None if champion_records is None else iou_figures(champion_records)["mIoU"]
    return _decided(
        params, iou_figures(challenger_records)["mIoU"], champion, gain, len(challenger_records), "mIoU"
    )


def _decided(
    params: Params, challenger: float, champion: float | None, gain: Any, samples: int, figure: str
) -> registry.Decision:
    given = params.registry
    return registry.decide_gain(
        challenger,
        champion,
        gain,
        samples=samples,
        min_gain=given.min_gain,
        confidence=given.confidence,
        figure=figure,
    )


def _counts(params: Params, file: Path) -> np.ndarray:
    """Count pixels (n, 3, K) of a segmenter over val; it may know other categories than the data."""
    from mae.data.loading.annotations import LabelMap
    from mae.data.transforms.segmentation import segmentation_evaluation
    from mae.evaluation.segmentation.iou import pixel_counts
    from mae.stages.segment import segment_function

    index = Index.open(SEGMENTATION.shards)
    categories = index.about["categories"]
    model, about, normalize, device = _opened(params, file)
    places = {one["id"]: place for place, one in enumerate(categories)}
    unknown = len(categories)  # a class of its own, which is never right
    translated = np.array([places.get(one["id"], unknown) for one in about["categories"]])
    draw = segment_function(model, normalize, device, "fp32")
    transform, target = segmentation_evaluation(about["short"]), LabelMap(categories, index.about["ignore"])
    counts = []
    for batch in _val(params, SEGMENTATION, index, transform, target=target, batch_size=1):
        (predicted,) = draw(batch)
        labels = batch["targets"][0]["labels"]
        found = pixel_counts(translated[predicted.numpy()], labels, len(categories) + 1)
        counts.append(found[:, : len(categories)])
    return np.stack(counts)


def _correct(params: Params, index: Index, classifier: Path) -> np.ndarray:
    """Say for each sample of val, in row order, if the classifier names the right class: (N,) bool.

    Classes are compared by name, so that a champion of fewer classes is evaluated on the same samples.
    """
    import torch

    from mae.data.transforms.image import evaluation

    model, about, normalize, device = _opened(params, classifier)
    known, right = np.array(about["classes"]), []
    transform = evaluation(about["img_size"], crop_pct=about.get("crop_pct"))
    with torch.inference_mode():
        for batch in _val(params, IMAGES, index, transform, batch_size=256):
            best = model(normalize(batch["images"].to(device))).argmax(1).cpu().numpy()
            right.append(known[best] == np.array(index.classes)[batch["labels"].numpy()])
    return np.concatenate(right)


def _opened(params: Params, file: Path) -> tuple[Any, dict[str, Any], Any, Any]:
    """Open a model: (model in evaluation mode, its config, normalize, device)."""
    import torch

    from mae.data.transforms.image import Normalize

    on_gpu = torch.cuda.is_available() and params.runtime.device != "cpu"
    device = torch.device("cuda" if on_gpu else "cpu")
    model, about = load_model(file)
    return model.to(device).eval(), about, Normalize(about["mean"], about["std"]).to(device), device


def _val(
    params: Params, files: DataSet, index: Index, transform: Any, **options: Any
) -> Iterator[dict[str, Any]]:
    from mae.data.loading.batches import evaluation_batches

    return evaluation_batches(
        index.split("val"),
        transform,
        workers=params.runtime.workers,
        max_skipped=rejection_limit(params, files),
        **options,
    )
