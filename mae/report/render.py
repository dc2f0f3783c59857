"""Render the report: the templates filled with what each part reads out of the stages' results."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mae.config import Params
from mae.config.paths import REPORTS, read_result
from mae.files import write_text
from mae.report.filters import FILTERS
from mae.report.parts.attention import attention
from mae.report.parts.classification import PROTOCOLS, classification
from mae.report.parts.cost import cost
from mae.report.parts.data import data
from mae.report.parts.dense_tasks import detection, segmentation
from mae.report.parts.partial_finetuning import partial_finetuning
from mae.report.parts.pretraining import pretraining
from mae.report.parts.registry import registry
from mae.report.parts.robustness import robustness
from mae.report.parts.tokenizer import tokenizer

STAGES = ("tokenizer", "pretrain", *PROTOCOLS, "robustness", "detect", "segment")
# The template knows each part by the name of its function.
PARTS: tuple[Callable[[dict[str, Any], Params], dict[str, Any] | None], ...] = (
    pretraining,
    classification,
    partial_finetuning,
    attention,
    robustness,
    detection,
    segmentation,
    tokenizer,
    data,
    registry,
    cost,
)


def write_report(params: Params) -> None:
    """Write reports/report.md (pictures linked) and reports/report.html (pictures inside)."""
    results = {stage: read_result(REPORTS / stage / "metrics.json") for stage in STAGES}
    text = markdown(results, params)
    write_text(REPORTS / "report.md", text)
    write_text(REPORTS / "report.html", html_page(params.report.title, text, REPORTS))


def markdown(results: dict[str, Any], params: Params) -> str:
    """Render the report of these results, stage -> its metrics.json, as Markdown."""
    parts = {part.__name__: part(results, params) for part in PARTS}
    skipped = {stage: result["skipped"] for stage, result in results.items() if "skipped" in result}
    text = _template("report.md.j2").render(title=params.report.title, skipped=skipped, **parts)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def html_page(title: str, text: str, folder: Path) -> str:
    """Render Markdown as one HTML file; its PNG pictures, named from `folder`, are inside it."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r'src="([^"]+\.png)"', lambda found: f'src="{_inline(folder / found[1])}"', body)
    return _template("page.html.j2").render(title=title, body=body)


def _inline(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


def _template(name: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("mae.report"),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(name)
