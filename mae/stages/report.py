"""The stage `report`: reports/report.md and report.html from what the other stages wrote. Never by hand."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mae.config import Params
from mae.config.paths import FINETUNED, IMAGES, REPORTS, SCRATCH, read_json, require
from mae.evaluation.confidence import paired_gain
from mae.files import write_text
from mae.report.dense_tasks import DENSE, dense_section, dense_summary
from mae.report.paper_figures import paper_figures, paper_source
from mae.report.plots import read_csv
from mae.report.pretraining import ONLY_BEFORE, pretraining_section, pretraining_summary
from mae.report.robustness import robustness_section
from mae.report.text import gain, page, percent, table
from mae.report.tokenizer import tokenizer_section
from mae.stages.context.tracked_run import stage_folder, tracked

JUDGED = ("knn", "linear", "attentive", "partial", "finetune", "scratch")
NAMES = {
    "knn": "kNN",
    "linear": "linear probe",
    "attentive": "attentive probe",
    "partial": "partial fine-tuning",
    "finetune": "fine-tuning",
    "scratch": "from scratch",
}

SECTIONS = {"report": ("report", "encoder", "pretrain", "finetune", "scratch")}


def report(params: Params) -> None:
    """Write the report in Markdown (pictures linked) and HTML (pictures inside: one file to send around)."""
    folder = stage_folder("report", params, SECTIONS["report"])
    with tracked("report", params, SECTIONS["report"], folder=folder) as run:
        _write(params)
        for name in ("report.md", "report.html"):
            run.artifact(REPORTS / name)


def _write(params: Params) -> None:
    stages = ("tokenizer", "pretrain", *JUDGED, "robustness", *DENSE)
    results = {name: read_json(REPORTS / name / "metrics.json") for name in stages}
    if "skipped" not in results["finetune"]:
        results["finetune"] |= _gain_over_scratch(params)
    sections = [
        f"# {params.report.title}",
        *_summary(params, results),
        *_results(params, results),
        *_partial(results["partial"]),
        *_looks(results["knn"]),
        *robustness_section(results["robustness"], params),
        *(part for stage in DENSE for part in dense_section(stage, results[stage], params)),
        *tokenizer_section(results["tokenizer"]),
        *pretraining_section(results["pretrain"]),
        *_data(),
        *_registry(),
        *_cost(results),
    ]
    text = "\n\n".join(sections) + "\n"
    write_text(REPORTS / "report.md", text)
    write_text(REPORTS / "report.html", page(params.report.title, text, REPORTS))


def _summary(params: Params, results: dict[str, Any]) -> Iterator[str]:
    yield pretraining_summary(params, results["pretrain"])
    if "skipped" in results["knn"]:
        yield f"**Not judged by classification**: {results['knn']['skipped']}"
    lines = [] if "skipped" in results["knn"] else list(_classified(results))
    lines += filter(None, (dense_summary(stage, results[stage]) for stage in DENSE))
    if lines:
        yield "\n".join(lines)


def _classified(results: dict[str, Any]) -> Iterator[str]:
    for name in ("knn", "linear", "attentive"):
        r = results[name]
        against = ""
        if "gain" in r:
            against = f" against {percent(r['random_top1'])} for the same encoder at random initialisation"
            against += f" ({gain(r)})"
        yield f"* {NAMES[name]} on frozen features: **{percent(r['top1'])}**{against}."
    finetuned, scratch = results["finetune"], results["scratch"]
    yield (
        f"* {NAMES['finetune']} with {_labels(finetuned)}: **{percent(finetuned['top1'])}** against "
        f"{percent(scratch['top1'])} from scratch with {_labels(scratch)} ({gain(finetuned)})."
    )


def _results(params: Params, results: dict[str, Any]) -> Iterator[str]:
    if "skipped" in results["knn"]:
        return
    yield "## Results"
    paper = paper_figures(params)
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
                gain(r) if "gain" in r else "",
                f"{paper[name]:.1f}" if name in paper else "",
            ]
        )
    yield table(rows)
    yield (
        f"Top-1 over all {results['finetune']['samples']:,} validation images; intervals and gains by "
        "bootstrap over them (gains: paired, against random initialisation or, for fine-tuning, against "
        "scratch). Partial fine-tuning is its best number of blocks. The paper's column stands only beside "
        f"its own method and encoders on the sets that it names.{paper_source(params, paper)}"
    )
    if results["pretrain"]["attention"] == "causal":
        yield ONLY_BEFORE


def _partial(result: dict[str, Any]) -> Iterator[str]:
    if "skipped" in result:
        return
    yield "## Partial fine-tuning"
    rows = [["blocks", "top-1 %", "95 % interval"]]
    for row in read_csv(REPORTS / "partial" / "blocks.csv"):
        interval = f"{100 * row['top1_low']:.1f} to {100 * row['top1_high']:.1f}"
        rows.append([f"{row['blocks']:g}", f"{100 * row['top1']:.1f}", interval])
    yield table(rows)
    yield "![Top-1 over fine-tuned blocks](partial/blocks.png)"


def _looks(result: dict[str, Any]) -> Iterator[str]:
    yield "## What the encoder looks at"
    yield "![Attention of the last block](knn/attention.png)"
    if "attention_centre" in result:
        beside = f", {percent(result['random_attention_centre'])} at random initialisation"
        yield (
            f"Attention on the middle quarter of the image: {percent(result['attention_centre'])}"
            f"{beside if 'random_attention_centre' in result else ''}; 25.0 % would be everywhere alike."
        )
    yield "![Patch embeddings in two dimensions](knn/projection.png)"


def _data() -> Iterator[str]:
    manifest, index = read_json(IMAGES.manifest), read_json(IMAGES.index)
    yield "## Data"
    rows = [["split", "images", "shards", "bytes"]]
    for name, split in index["splits"].items():
        rows.append([name, f"{split['count']:,}", f"{len(split['shards'])}", f"{split['bytes']:,}"])
    yield table(rows)
    yield (
        f"Source: {manifest['kind']}, {len(index['classes'])} classes; fingerprint of its content "
        f"`{index['fingerprint'][:16]}`; {index['rejected']['count']} unreadable image(s) left out."
    )


def _registry() -> Iterator[str]:
    decision = read_json(REPORTS / "register" / "decision.json")
    yield "## Registry"
    rows = [["model", "version", "aliases"]]
    for outcome in decision.values():
        rows += [[m["name"], str(m["version"]), ", ".join(m["aliases"])] for m in outcome["models"]]
    yield table(rows)
    yield "\n".join(f"* {kind}: {outcome['reason']}" for kind, outcome in decision.items())


def _cost(results: dict[str, Any]) -> Iterator[str]:
    yield "## Cost and runs"
    rows = [["stage", "seconds", "images/s", "device", "git commit", "MLflow run"]]
    for name, result in results.items():
        run = read_json(REPORTS / name / "run.json")
        if "skipped" in run:
            continue
        rate = result.get("images_per_second")
        rows.append(
            [
                name,
                f"{run['seconds']:.0f}",
                f"{rate:,.0f}" if rate else "",
                run["device"],
                f"`{run['commit'][:12]}`" + (" (changed files)" if run.get("dirty") else ""),
                f"`{run['run_id']}`",
            ]
        )
    yield table(rows)
    yield "Seconds from the stage's start to its end, a resumed stage's last part only."


def _gain_over_scratch(params: Params) -> dict[str, float]:
    """Fine-tuning against scratch on the same validation images: gain, gain_low, gain_high."""
    finetuned, scratch = (np.load(require(folder / "correct.npy")) for folder in (FINETUNED, SCRATCH))
    values = paired_gain(finetuned, scratch, seed=params.seed)
    return dict(zip(("gain", "gain_low", "gain_high"), values, strict=True))


def _labels(result: dict[str, Any]) -> str:
    count = result.get("labels_per_class")
    return f"{count} labels per class" if count else "all labels"
