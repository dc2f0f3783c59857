"""The stage `report`: reports/report.md and report.html from what the other stages wrote. Never by hand."""

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mae.confidence import paired_gain
from mae.config import Params
from mae.stages.files import (
    FINETUNED,
    INDEX,
    MANIFEST,
    REPORTS,
    SCRATCH,
    read_json,
    write_text,
)
from mae.stages.plots import read_csv
from mae.stages.tracked import stage_folder, tracked

JUDGED = ("knn", "linear", "attentive", "partial", "finetune", "scratch")
NAMES = {
    "knn": "kNN",
    "linear": "linear probe",
    "attentive": "attentive probe",
    "partial": "partial fine-tuning",
    "finetune": "fine-tuning",
    "scratch": "from scratch",
}
# Top-1 in % on ImageNet-1k, He et al. 2021 (arXiv 2111.06377), tables 3 and 10, section 4.3 and figure 9.
PAPER = {
    "vit_base_patch16_224": {"linear": 68.0, "finetune": 83.6, "scratch": 82.3},
    "vit_large_patch16_224": {"linear": 75.8, "finetune": 85.9, "scratch": 82.6},
    "vit_huge_patch14_224": {"linear": 76.6, "finetune": 86.9, "scratch": 83.1},
}


SECTIONS = {"report": ("report", "encoder", "pretrain", "mae", "finetune", "scratch")}


def report(params: Params) -> None:
    """Write the report in Markdown (pictures linked) and HTML (pictures inside: one file to send around)."""
    folder = stage_folder("report", params, SECTIONS["report"])
    with tracked("report", params, SECTIONS["report"], folder=folder) as run:
        _write(params)
        for name in ("report.md", "report.html"):
            run.artifact(REPORTS / name)


def _write(params: Params) -> None:
    results = {name: read_json(REPORTS / name / "metrics.json") for name in ("pretrain", *JUDGED)}
    if "skipped" not in results["finetune"]:
        results["finetune"] |= _gain_over_scratch(params)
    sections = [
        f"# {params.report.title}",
        *_summary(params, results),
        *_results(params, results),
        *_partial(results["partial"]),
        *_pretraining(params, results["pretrain"]),
        *_data(),
        *_registry(),
        *_cost(results),
    ]
    text = "\n\n".join(sections) + "\n"
    write_text(REPORTS / "report.md", text)
    write_text(REPORTS / "report.html", _page(params.report.title, text))


def _summary(params: Params, results: dict[str, Any]) -> Iterator[str]:
    method = params.pretrain.method.upper()
    p = results["pretrain"]
    yield (
        f"{method} pretraining of `{params.encoder.name}` ({p['parameters'] / 1e6:.2f} M parameters in the "
        f"encoder) on {p['samples']:,} images for {params.pretrain.epochs} epochs, mask ratio "
        f"{params.pretrain.mask_ratio:g}."
    )
    if "skipped" in results["knn"]:
        yield f"**Not judged**: {results['knn']['skipped']}"
        return
    lines = []
    for name in ("knn", "linear", "attentive"):
        r = results[name]
        against = ""
        if "gain" in r:
            against = f" against {_percent(r['random_top1'])} for the same encoder at random initialisation"
            against += f" ({_gain(r)})"
        lines.append(f"* {NAMES[name]} on frozen features: **{_percent(r['top1'])}**{against}.")
    finetuned, scratch = results["finetune"], results["scratch"]
    lines.append(
        f"* {NAMES['finetune']} with {_labels(finetuned)}: **{_percent(finetuned['top1'])}** against "
        f"{_percent(scratch['top1'])} from scratch with {_labels(scratch)} ({_gain(finetuned)})."
    )
    yield "\n".join(lines)


def _results(params: Params, results: dict[str, Any]) -> Iterator[str]:
    if "skipped" in results["knn"]:
        return
    yield "## Results"
    paper = _paper(params)
    rows = [["protocol", "labels", "top-1 %", "95 % interval", "random init %", "gain", "paper %"]]
    for name in JUDGED:
        r = results[name]
        rows.append(
            [
                NAMES[name],
                _labels(r),
                f"{100 * r['top1']:.1f}",
                f"{100 * r['top1_low']:.1f} to {100 * r['top1_high']:.1f}",
                f"{100 * r['random_top1']:.1f}" if "random_top1" in r else "",
                _gain(r) if "gain" in r else "",
                f"{paper[name]:.1f}" if name in paper else "",
            ]
        )
    yield _table(rows)
    yield (
        f"Top-1 over all {results['finetune']['samples']:,} validation images; intervals and gains by "
        "bootstrap over them (gains: paired, against random initialisation or, for fine-tuning, against "
        "scratch). Partial fine-tuning is its best number of blocks. The paper's column stands only beside "
        "its own encoders on ImageNet-1k."
    )


def _partial(result: dict[str, Any]) -> Iterator[str]:
    if "skipped" in result:
        return
    yield "## Partial fine-tuning"
    rows = [["blocks", "top-1 %", "95 % interval"]]
    for row in read_csv(REPORTS / "partial" / "blocks.csv"):
        interval = f"{100 * row['top1_low']:.1f} to {100 * row['top1_high']:.1f}"
        rows.append([f"{row['blocks']:g}", f"{100 * row['top1']:.1f}", interval])
    yield _table(rows)
    yield "![Top-1 over fine-tuned blocks](partial/blocks.png)"


def _pretraining(params: Params, result: dict[str, Any]) -> Iterator[str]:
    yield "## Pretraining"
    yield "![Pretraining curve](pretrain/curve.png)"
    yield f"Loss from {result['first_loss']:.4f} to {result['loss']:.4f} in {result['steps']:,} steps."
    yield "![Original, masked, reconstruction](pretrain/reconstructions.png)"
    yield f"Reconstructions of images that were not trained on: {result['pictures_note']}"


def _data() -> Iterator[str]:
    manifest, index = read_json(MANIFEST), read_json(INDEX)
    yield "## Data"
    rows = [["split", "images", "shards", "bytes"]]
    for name, split in index["splits"].items():
        rows.append([name, f"{split['count']:,}", f"{len(split['shards'])}", f"{split['bytes']:,}"])
    yield _table(rows)
    yield (
        f"Source: {manifest['kind']}, {len(index['classes'])} classes; fingerprint of its content "
        f"`{index['fingerprint'][:16]}`; {index['rejected']['count']} unreadable image(s) left out."
    )


def _registry() -> Iterator[str]:
    decision = read_json(REPORTS / "register" / "decision.json")
    yield "## Registry"
    rows = [["model", "version", "aliases"]]
    rows += [[m["name"], str(m["version"]), ", ".join(m["aliases"])] for m in decision["models"]]
    yield _table(rows)
    yield decision["reason"]


def _cost(results: dict[str, Any]) -> Iterator[str]:
    yield "## Cost and runs"
    rows = [["stage", "seconds", "images/s", "device", "git commit", "MLflow run"]]
    for name, result in results.items():
        run = read_json(REPORTS / name / "run.json")
        rate = result.get("images_per_second")
        rows.append(
            [
                name,
                f"{run['seconds']:.0f}",
                f"{rate:,.0f}" if rate else "",
                run["device"],
                f"`{run['commit']}`",
                f"`{run['run_id']}`",
            ]
        )
    yield _table(rows)
    yield "Seconds from the stage's start to its end, a resumed stage's last part only."


def _gain_over_scratch(params: Params) -> dict[str, float]:
    """Fine-tuning against scratch on the same validation images: gain, gain_low, gain_high."""
    finetuned, scratch = (np.load(folder / "correct.npy") for folder in (FINETUNED, SCRATCH))
    values = paired_gain(finetuned, scratch, seed=params.seed)
    return dict(zip(("gain", "gain_low", "gain_high"), values, strict=True))


def _paper(params: Params) -> dict[str, float]:
    index = read_json(INDEX)
    same = not params.encoder.overrides and len(index["classes"]) == 1000
    return PAPER.get(params.encoder.name, {}) if same else {}


def _labels(result: dict[str, Any]) -> str:
    count = result.get("labels_per_class")
    return f"{count} labels per class" if count else "all labels"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _gain(r: dict[str, float]) -> str:
    return f"{100 * r['gain']:+.1f} points, 95 % {100 * r['gain_low']:+.1f} to {100 * r['gain_high']:+.1f}"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #24292f }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { border: 1px solid #d0d7de; padding: .3rem .7rem; text-align: left }
img { max-width: 100% }
"""


def _page(title: str, text: str) -> str:
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)
    body = re.sub(r'src="([^"]+\.png)"', lambda found: f'src="{_inline(REPORTS / found[1])}"', body)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'


def _inline(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
