"""The report of a sweep."""

import csv

import pytest

from pipelines.sweeping import sweep_report
from pipelines.sweeping.axes import Axis, Experiment

AXIS = Axis.model_validate(
    {
        "title": "Depth",
        "label": "blocks",
        "key": "mae.decoder_depth",
        "source": "ViT-L",
        "note": "Depth costs.",
        "values": [{"at": 1, "paper": {"linear": 65.5}}, 8],
    }
)
FILES = {
    "reports/linear/metrics.json": {"top1": 0.5, "top1_low": 0.4, "top1_high": 0.55},
    "reports/detect/metrics.json": {"box_AP": 0.25, "mask_AP": 0.2},
    "reports/pretrain/metrics.json": {"flops_per_image": 2e9, "loss": 1.0},
}


def _experiment(at, seed, stages=("linear", "detect")):
    return Experiment(f"depth-{at}-s{seed}", at, seed, {}, stages)


def test_a_row_holds_main_numbers_their_intervals_and_the_cost():
    row = sweep_report.row(_experiment(1, 0), "abc", lambda commit, path: FILES.get(path))
    assert row == {
        "at": 1,
        "seed": 0,
        "experiment": "depth-1-s0",
        "linear": 0.5,
        "linear_low": 0.4,
        "linear_high": 0.55,
        "detect": 0.25,
        "flops_per_image": 2e9,
    }


def test_an_unfinished_experiment_is_a_row_without_numbers_and_is_named():
    row = sweep_report.row(_experiment(8, 0), None, lambda *_: pytest.fail("nothing to read"))
    assert set(row) == {"at", "seed", "experiment"}
    done = {"at": 1, "seed": 0, "experiment": "x", "linear": 0.5}
    assert "Not finished: depth-8-s0." in sweep_report.text("depth", AXIS, [done, row])


def test_seeds_become_a_mean_with_its_spread_beside_the_papers_number():
    rows = [{"at": 1, "seed": s, "experiment": "", "linear": v} for s, v in enumerate((0.5, 0.6, 0.7))]
    text = sweep_report.text("depth", AXIS, rows)
    assert "| 1 | 60.0 ± 10.0 | 65.5 |" in text
    assert "3 seeds" in text
    assert text.rstrip().endswith("The paper's column: ViT-L. Depth costs.")


def test_one_seed_claims_no_spread():
    text = sweep_report.text("depth", AXIS, [{"at": 8, "seed": 0, "experiment": "", "linear": 0.5}])
    assert "| 8 | 50.0 |  |" in text
    assert "no spread is known" in text


@pytest.mark.parametrize("places", [(1, 8), ("random", "block")])
def test_three_files_appear_for_numbers_and_for_names(tmp_path, places):
    rows = [
        {"at": at, "seed": s, "experiment": "e", "linear": 0.5 + s / 10, "finetune": 0.7}
        for at in places
        for s in (0, 1)
    ]
    files = sweep_report.write(tmp_path, "depth", AXIS, rows)
    assert [file.name for file in files] == ["depth.csv", "depth.md", "depth.png"]
    with files[0].open(newline="") as file:
        assert [row["linear"] for row in csv.DictReader(file)] == ["0.5", "0.6", "0.5", "0.6"]
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in files[0].parent.iterdir()) == sorted(file.name for file in files)


def test_nothing_finished_is_said_in_files_that_open(tmp_path):
    row = sweep_report.row(_experiment(8, 0), None, lambda *_: None)
    assert all(file.stat().st_size for file in sweep_report.write(tmp_path, "depth", AXIS, [row]))
