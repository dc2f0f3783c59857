"""The report is the template filled with each stage's results; what it lacks, it does not hide."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jinja2
import pytest
from report.fixed_results import METRICS, RUN, TOP, index, rendered, section, write, write_results

from mae import config
from mae.files import sha256_of
from mae.report import filters
from mae.report.render import html_page, markdown, write_report

SKIPPED = {"skipped": "no labels"}
HEADINGS = [
    "Results", "Partial fine-tuning", "Attention and patch embeddings",
    "Detection and instance segmentation (Mask R-CNN)", "Semantic segmentation", "Tokenizer", "Pretraining",
    "Data", "Registry", "Cost and runs",
]  # fmt: skip


@pytest.fixture
def params(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return config.load(project / "params.yaml")


def headings(report):
    return [line.removeprefix("## ") for line in report.splitlines() if line.startswith("## ")]


def test_each_stage_that_ran_has_its_section_and_one_that_was_skipped_has_none(params):
    assert headings(rendered(params)) == HEADINGS
    skipped = rendered(params, tokenizer=SKIPPED, detect=SKIPPED, segment=SKIPPED)
    assert headings(skipped) == [HEADINGS[place] for place in (0, 1, 2, 6, 7, 8, 9)]


def test_without_labels_the_report_gives_the_reason_and_no_results(params):
    report = rendered(params, **dict.fromkeys(("knn", "linear", "attentive", "finetune"), SKIPPED))
    assert "no labels" in report.partition("## ")[0]
    assert "Results" not in headings(report)
    assert "Attention on the middle quarter" not in report


def test_an_encoder_without_a_random_twin_has_its_attention_reported_alone(params):
    report = rendered(params, knn={**TOP, "attention_centre": 0.3125})
    assert "middle quarter of the image: 31.2 %; uniform attention gives 25.0 %" in report


def test_a_figure_that_a_stage_did_not_leave_stops_the_report(params):
    without = {name: value for name, value in METRICS["pretrain"].items() if name != "loss"}
    with pytest.raises(jinja2.UndefinedError, match="loss"):
        rendered(params, pretrain=without)


def test_colours_that_were_measured_from_these_shards_are_told(params):
    assert "Colours measured" not in rendered(params)
    colours = {"images": 4096, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    write("data/shards/colours.json", colours | {"index": "of other shards"})
    assert "Colours measured" not in rendered(params)
    write("data/shards/colours.json", colours | {"index": sha256_of(Path("data/shards/index.json"))})
    told = section(rendered(params), "Data")
    assert (
        "from 4,096 images of train (`input: auto`): mean 0.1, 0.2, 0.3; standard deviation 0.4, 0.5, 0.6."
        in told
    )


def test_boxes_that_stand_for_masks_are_counted(params):
    results = write_results()
    index("data/detect/shards", "coco", boxes_only=1234)
    assert "1,234 objects have a box and no mask" in section(markdown(results, params), HEADINGS[3])


def test_corruptions_have_a_column_for_each_severity(params):
    found = {f"imagenet_c_{name}": value for name, value in (TOP | {"mCE": 0.75, "classes": 4}).items()}
    rows = section(rendered(params, robustness=found), "Other versions of ImageNet").splitlines()
    assert "| ImageNet-C | 7 | 4 | mCE (lower is better) | 75.0 | 62.5 to 87.5 |  |" in rows
    assert "| frost fog | 75.0 | 50.0 | 62.5 |" in rows


def test_a_table_keeps_its_columns_whatever_the_cells_hold(params):
    results = write_results()
    write("reports/pretrain/run.json", RUN | {"device": "a | b", "dirty": True})
    row = next(line for line in markdown(results, params).splitlines() if line.startswith("| pretrain |"))
    assert row == rf"| pretrain | 12 | 1,234 | a \| b | `abcdef123456` (changed files) | `{'0' * 32}` |"
    with pytest.raises(ValueError, match="2 cells in a table of 3 columns"):
        filters.cells(["a", "b"], 3)


def test_the_page_holds_its_pictures_and_shows_text_as_text(params):
    write_results()
    for stage, metrics in METRICS.items():
        write(f"reports/{stage}/metrics.json", metrics)
    write("data/ingest/manifest.json", {"kind": "<script>alert(1)</script>"})
    write_report(params)
    html = Path("reports/report.html").read_text()
    assert html.count("data:image/png;base64,") == 13
    assert 'src="http' not in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_title_is_escaped_in_the_page(tmp_path):
    assert "<title>A &amp; &lt;b&gt;</title>" in html_page("A & <b>", "text\n", tmp_path)


def test_the_templates_are_in_the_wheel(project, tmp_path):
    """As `uv build` makes it, by the build backend itself."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(project / name, source)
    for name in ("mae", "pipelines"):
        shutil.copytree(project / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    program = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=source, check=True, capture_output=True, text=True
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {"mae/report/templates/report.md.j2", "mae/report/templates/page.html.j2"} <= names
