"""Artifacts of a flow run for people who read Prefect's pages: the outcomes of its stages, and the report."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from pipelines.stage_outcome import Outcome

LONGEST = 300  # characters of a stage's message in the table
REPORT = "reports/report.md"


def stages_table(outcomes: Sequence[Outcome]) -> None:
    """Create the artifact `stages`: state, seconds, MLflow run and message of each stage."""
    rows = [
        f"| {outcome.stage} | {outcome.state} | {outcome.seconds:g} "
        f"| {f'[run]({outcome.mlflow_url})' if outcome.mlflow_url else ''} | {_cell(outcome.message)} |"
        for outcome in outcomes
    ]
    table = "\n".join(["| stage | state | seconds | MLflow | message |", "|---|---|---:|---|---|", *rows])
    create_markdown_artifact(table, key="stages", description="The outcome of each stage of dvc.yaml")


def report_pictures(root: Path) -> None:
    """Create the artifact `report`: reports/report.md with its pictures inside, if the file exists."""
    report = Path(root) / REPORT
    if report.is_file():
        text = re.sub(
            r"(!\[[^\]]*\])\(([^):]+\.png)\)", lambda link: _inlined(report, link), report.read_text()
        )
        create_markdown_artifact(text, key="report", description=REPORT)


def picture(file: Path, title: str = "") -> str:
    """Return a PNG as Markdown that holds the picture itself, because readers do not have the file."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()})"


def _inlined(report: Path, link: re.Match[str]) -> str:
    file = report.parent / link[2]
    return picture(file, link[1][2:-1]) if file.is_file() else link[0]


def _cell(text: str) -> str:
    """Make one short line that fits in a cell of the table."""
    short = text if len(text) <= LONGEST else text[:LONGEST] + " …"
    return " ".join(short.split()).replace("|", "\\|")
