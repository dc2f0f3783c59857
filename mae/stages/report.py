"""The stage `report`: reports/report.md and report.html from the results of the other stages."""

from mae.config import Params
from mae.config.paths import REPORTS
from mae.report.render import write_report
from mae.stages.context.tracked_run import stage_folder, tracked


def report(params: Params) -> None:
    """Write the report in Markdown and HTML, and attach both to the run."""
    folder = stage_folder("report", params)
    with tracked("report", params, folder=folder) as run:
        write_report(params)
        for name in ("report.md", "report.html"):
            run.artifact(REPORTS / name)
