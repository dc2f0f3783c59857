"""What a flow run leaves in Prefect for a person to read: what came of each stage, the report's pictures."""

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
    """The artifact `stages`: state, seconds, MLflow run and message of each."""
    rows = [
        f"| {outcome.stage} | {outcome.state} | {outcome.seconds:g} "
        f"| {f'[run]({outcome.mlflow_url})' if outcome.mlflow_url else ''} | {_cell(outcome.message)} |"
        for outcome in outcomes
    ]
    table = "\n".join(["| stage | state | seconds | MLflow | message |", "|---|---|---:|---|---|", *rows])
    create_markdown_artifact(table, key="stages", description="What came of each stage of dvc.yaml")


def report_pictures(root: Path) -> None:
    """The artifact `report`: reports/report.md with its pictures inside, if there is one."""
    report = Path(root) / REPORT
    if report.is_file():
        text = re.sub(
            r"(!\[[^\]]*\])\(([^):]+\.png)\)", lambda found: _inlined(report, found), report.read_text()
        )
        create_markdown_artifact(text, key="report", description=REPORT)


def picture(file: Path, title: str = "") -> str:
    """A PNG as Markdown that carries the picture itself: the page is read where the file is not."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()})"


def _inlined(report: Path, found: re.Match[str]) -> str:
    file = report.parent / found[2]
    return picture(file, found[1][2:-1]) if file.is_file() else found[0]


def _cell(text: str) -> str:
    """One line that does not end the table's cell."""
    short = text if len(text) <= LONGEST else text[:LONGEST] + " …"
    return " ".join(short.split()).replace("|", "\\|")
