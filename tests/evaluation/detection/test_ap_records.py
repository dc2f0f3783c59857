"""AP out of match records is the official AP, on all images and on any resample of them."""

import copy

import numpy as np
import pytest
from evaluation.detection.detections import (
    imperfect,
    pycocotools_eval,
    pycocotools_figures,
    read_instances,
    scene,
)

from mae.evaluation.confidence import paired_statistic_gain, statistic_interval
from mae.evaluation.detection.ap_records import MatchRecords, ResampledAP, match, paired_ap, resampled_ap
from mae.evaluation.detection.coco_ap import evaluate_detections, of_kind

KINDS = ("bbox", "segm")


@pytest.mark.parametrize("kind", KINDS)
def test_all_images_once_give_the_official_ap_on_real_annotations(shared_data, kind):
    truth = read_instances(shared_data / "coco-mini" / "annotations" / "instances_val2017.json")
    found = evaluate_detections(truth, imperfect(truth, seed=4), kind)
    assert ResampledAP(found.records)() == pytest.approx(found.figures["AP"], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_threshold_and_category_is_the_official_one(kind):
    truth = scene(images=20, seed=8)
    results = imperfect(truth, seed=8)
    table = ResampledAP(evaluate_detections(truth, results, kind).records).table()
    official = pycocotools_eval(truth, of_kind(results, kind), kind).eval["precision"][:, :, :, 0, -1]
    np.testing.assert_allclose(table, official.mean(axis=1), atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_has_the_ap_of_that_many_copies_of_each_image(seed):
    truth = scene(images=15, seed=seed)
    results = imperfect(truth, seed)
    # No two scores tie: where they do, the official order is that of the images, copies side by side.
    for place, entry in enumerate(results):
        entry["score"] += place * 1e-6
    drawn = np.random.default_rng(seed).integers(0, len(truth["images"]), len(truth["images"]))
    copies = {"images": [], "annotations": [], "categories": truth["categories"]}
    copied = []
    ordered = sorted(truth["images"], key=lambda image: image["id"])
    for new, old in enumerate(ordered[number] for number in drawn):
        copies["images"].append(old | {"id": new + 1})
        for entry in truth["annotations"]:
            if entry["image_id"] == old["id"]:
                copies["annotations"].append(
                    copy.deepcopy(entry) | {"id": len(copies["annotations"]) + 1, "image_id": new + 1}
                )
        copied += [entry | {"image_id": new + 1} for entry in results if entry["image_id"] == old["id"]]
    wanted = pycocotools_figures(copies, copied, "segm")["AP"]
    assert resampled_ap(evaluate_detections(truth, results, "segm").records)(drawn) == pytest.approx(
        wanted, abs=1e-9
    )


def test_a_resample_without_objects_has_no_ap():
    records = evaluate_detections(scene(), imperfect(scene()), "bbox").records
    weights = np.zeros(len(records.image_ids))
    weights[records.image_ids == "1000"] = 3  # the one image without objects
    assert np.isnan(ResampledAP(records)(weights))
    with pytest.raises(ValueError, match="weights for 12 images"):
        ResampledAP(records)(weights[1:])


def test_nothing_found_has_ap_zero():
    truth = scene()
    assert ResampledAP(evaluate_detections(truth, [], "bbox").records)() == 0


def test_records_survive_a_file_and_another_file_is_refused(tmp_path):
    records = evaluate_detections(scene(), imperfect(scene()), "segm").records
    records.save(tmp_path / "match_segm.npz")
    again = MatchRecords.load(tmp_path / "match_segm.npz")
    assert ResampledAP(again)() == ResampledAP(records)()
    assert again.names.tolist() == ["kind 0", "kind 1", "kind 2"]
    np.savez(tmp_path / "other.npz", values=np.ones(3))
    with pytest.raises(ValueError, match=r"other\.npz: not a file of match records"):
        MatchRecords.load(tmp_path / "other.npz")


def test_the_better_of_two_gains_surely_and_a_tie_does_not():
    truth = scene(images=40, seed=3)
    good, bad = imperfect(truth, seed=3), imperfect(truth, seed=3)
    for place, entry in enumerate(bad):
        if place % 2:
            entry["bbox"][0] += 12.0
    ours, theirs = evaluate_detections(truth, good, "bbox"), evaluate_detections(truth, bad, "bbox")
    gain, low, high = paired_statistic_gain(paired_ap(ours.records, theirs.records), 40, resamples=200)
    assert gain == pytest.approx(ours.figures["AP"] - theirs.figures["AP"], abs=1e-9)
    assert 0 < low < gain < high
    assert paired_statistic_gain(paired_ap(ours.records, ours.records), 40, resamples=20) == (0, 0, 0)
    below, above = statistic_interval(resampled_ap(ours.records), 40, resamples=200)
    assert below < ours.figures["AP"] < above
    assert high - low < above - below


def test_two_evaluations_of_different_images_are_not_compared():
    first, second = (
        evaluate_detections(scene(images), imperfect(scene(images)), "bbox").records for images in (12, 13)
    )
    with pytest.raises(ValueError, match="same images"):
        paired_ap(first, second)
    other = evaluate_detections(scene(seed=5), imperfect(scene(seed=5)), "bbox").records
    with pytest.raises(ValueError, match="same objects"):
        paired_ap(first, other)


def test_a_detection_prefers_a_free_object_to_a_crowd_and_the_later_of_equals():
    crowd = np.array([True, False, False])
    ious = np.array([[1.0, 0.6, 0.6], [0.9, 0.6, 0.55], [0.9, 0.6, 0.6]])
    matched, ignored = match(ious, crowd)
    # thresholds .50 .55 .60: both objects are taken (the second by .60 alone), then crowds count, to .90
    assert [f"{bits:010b}"[::-1] for bits in matched] == ["1111111111", "1111111110", "1111111110"]
    assert [f"{bits:010b}"[::-1] for bits in ignored] == ["0001111111", "0001111110", "1111111110"]
