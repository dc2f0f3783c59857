"""Average precision is the official one."""

import copy

import numpy as np
import pytest
import torch
from evaluation.detection.detections import (
    imperfect,
    perfect,
    pycocotools_eval,
    pycocotools_figures,
    read_instances,
    scene,
)

from mae.evaluation.detection.coco_ap import FIGURES, as_results, evaluate_detections, of_kind

KINDS = ("bbox", "segm")


@pytest.fixture(scope="module")
def real(shared_data):
    return read_instances(shared_data / "coco-mini" / "annotations" / "instances_val2017.json")


@pytest.mark.parametrize("kind", KINDS)
def test_real_ground_truth_with_scores_is_perfect(real, kind):
    figures = evaluate_detections(real, perfect(real), kind).figures
    assert [figures[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")] == [1.0] * 7
    assert figures == pytest.approx(pycocotools_figures(real, perfect(real), kind), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_imperfect_results_on_real_images_get_pycocotools_figures(real, kind):
    results = imperfect(real)
    figures = evaluate_detections(real, results, kind).figures
    assert 0.2 < figures["AP"] < 0.8
    assert figures == pytest.approx(pycocotools_figures(real, results, kind), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_imperfect_results_on_drawn_images_get_pycocotools_figures(kind, seed):
    truth = scene(seed=seed)
    results = imperfect(truth, seed)
    assert evaluate_detections(truth, results, kind).figures == pytest.approx(
        pycocotools_figures(truth, results, kind), abs=1e-6
    )


def test_curves_and_categories_are_pycocotools():
    truth = scene()
    results = imperfect(truth)
    found = evaluate_detections(truth, results, "segm")
    official = pycocotools_eval(truth, of_kind(results, "segm"), "segm").eval["precision"][:, :, :, 0, -1]
    rows = np.array([list(row.values()) for row in found.curve])
    assert list(found.curve[0]) == ["recall", "precision_50", "precision_75", "precision"]
    np.testing.assert_allclose(rows[:, 0], np.linspace(0, 1, 101))
    np.testing.assert_allclose(rows[:, 1:3], official[[0, 5]].mean(axis=2).T, atol=1e-9)
    assert rows[:, 3].mean() == pytest.approx(found.figures["AP"])
    for row, category, values in zip(
        found.categories, truth["categories"], np.moveaxis(official, 2, 0), strict=True
    ):
        owned = [
            each
            for each in truth["annotations"]
            if each["category_id"] == category["id"] and not each["iscrowd"]
        ]
        assert (row["category"], row["objects"]) == (category["name"], len(owned))
        assert row["AP"] == pytest.approx(values.mean())
        assert (row["AP50"], row["AP75"]) == pytest.approx((values[0].mean(), values[5].mean()))
    assert np.mean([row["AR100"] for row in found.categories]) == pytest.approx(found.figures["AR100"])


def test_results_stay_as_they_were_and_so_does_the_ground_truth():
    truth = scene()
    results = imperfect(truth)
    before = copy.deepcopy((truth, results))
    evaluate_detections(truth, results, "segm")
    assert (truth, results) == before


@pytest.mark.parametrize("kind", KINDS)
def test_images_dealt_out_over_ranks_get_the_figures_of_one_process(kind):
    truth = scene(seed=1)
    results = imperfect(truth, seed=1)  # many tie
    order = {image["id"]: place for place, image in enumerate(truth["images"])}
    dealt = sorted(results, key=lambda entry: order[entry["image_id"]] % 3)
    assert dealt != results
    assert (
        evaluate_detections(truth, dealt, kind).figures == evaluate_detections(truth, results, kind).figures
    )


def test_ids_may_be_names_or_start_at_zero():
    truth = scene()
    results = imperfect(truth)
    wanted = evaluate_detections(truth, results, "bbox").figures
    for number, annotation in enumerate(truth["annotations"]):
        annotation["id"] = number  # the official code would take 0 for "found by nothing"
    assert evaluate_detections(truth, results, "bbox").figures == wanted
    for entry in truth["annotations"] + results:
        entry["image_id"] = f"street/{entry['image_id']:05}"
    for image in truth["images"]:
        image["id"] = f"street/{image['id']:05}"
    assert evaluate_detections(truth, results, "bbox").figures == wanted


def test_nothing_found_is_zero_and_a_size_without_objects_is_minus_one():
    truth = scene()
    figures = evaluate_detections(truth, [], "bbox").figures
    assert (figures["AP"], figures["AR100"], figures["APl"]) == (0, 0, -1)
    truth["annotations"] = []
    found = evaluate_detections(truth, imperfect(scene()), "segm")
    assert list(found.figures.values()) == [-1] * len(FIGURES)
    assert found.curve == found.categories == []


def test_detections_become_official_results():
    truth = scene()
    wanted = perfect(truth)
    detections = []
    ids = [image["id"] for image in truth["images"]]
    categories = [each["id"] for each in truth["categories"]]
    for image in ids:
        own = [entry for entry in wanted if entry["image_id"] == image]
        boxes = torch.tensor([entry["bbox"] for entry in own], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        detections.append(
            {
                "boxes": boxes,
                "labels": torch.tensor([categories.index(entry["category_id"]) for entry in own]),
                "scores": torch.tensor([entry["score"] for entry in own], dtype=torch.float64),
                "masks": [entry["segmentation"] for entry in own],
            }
        )
    results = as_results(detections, ids, categories)
    assert results == sorted(wanted, key=lambda entry: ids.index(entry["image_id"]))
    without = [{key: each[key] for key in each if key != "masks"} for each in detections]
    assert evaluate_detections(truth, as_results(without, ids, categories), "bbox").figures["AP"] == 1
    with pytest.raises(ValueError, match="no 'segmentation'"):
        evaluate_detections(truth, as_results(without, ids, categories), "segm")


def test_entries_that_cannot_be_evaluated_are_named():
    truth = scene()
    results = perfect(truth)

    def with_first(**values):
        return [results[0] | values, *results[1:]]

    with pytest.raises(ValueError, match="result 0 has image_id 4"):
        evaluate_detections(truth, with_first(image_id=4), "bbox")
    with pytest.raises(ValueError, match="result 0 has category_id 1,"):
        evaluate_detections(truth, with_first(category_id=1), "bbox")
    with pytest.raises(ValueError, match="a mask of"):
        evaluate_detections(
            truth, with_first(segmentation=results[0]["segmentation"] | {"size": [9, 9]}), "segm"
        )
    with pytest.raises(ValueError, match="kind is one of"):
        evaluate_detections(truth, results, "mask")
    del truth["annotations"][0]["segmentation"]
    with pytest.raises(ValueError, match="annotation 1 of image"):
        evaluate_detections(truth, results, "segm")
    assert evaluate_detections(truth, results, "bbox").figures["AP"] == 1
    with pytest.raises(ValueError, match="no images"):
        evaluate_detections(truth | {"images": []}, [], "bbox")
    found = {"boxes": torch.ones(1, 4), "labels": torch.tensor([3]), "scores": torch.ones(1)}
    with pytest.raises(ValueError, match="image 8: label 3"):
        as_results([found], [8], [1, 2, 3])
    with pytest.raises(ValueError, match="score is nan"):
        as_results([found | {"scores": torch.tensor([torch.nan])}], [8], [1, 2, 3, 4])
