"""Run an ablation as DVC experiments, and report it as a table and a figure: `make sweep AXIS=mask_ratio`.

    python -m pipelines.sweep AXIS [--seeds N] [--jobs N] [--recipe FILE] [--set KEY=VALUE]

sweeps.yaml holds the axes. The same command runs experiments that are not finished yet; where all are, it
writes the report again. Experiments run in copies of the working copy, with its uncommitted changes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mae import config
from mae.__main__ import EXIT_BAD_PARAMS, EXIT_INTERRUPTED
from mae.config import recipe
from pipelines.devices import Devices
from pipelines.sweeping import axes, sweep_report
from pipelines.sweeping.experiments import Experiments, NotQueued
from pipelines.working_copy import locks
from pipelines.working_copy.params_override import PARAMS, Settings

SQLITE = "sqlite:///"


def main(argv: list[str] | None = None) -> int:
    """Run one sweep to its report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pipelines.sweep", description="Run an ablation of sweeps.yaml.")
    parser.add_argument("axis", nargs="?", help="an axis of sweeps.yaml to vary; without one, list them")
    parser.add_argument(
        "--seeds",
        type=count,
        default=1,
        help="the number of seeds of each value, from that of params.yaml on",
    )
    parser.add_argument(
        "--jobs", type=count, help="at most so many at a time (default: one for each of flows.devices)"
    )
    parser.add_argument("--recipe", help="a recipe to apply before the sweep's settings; params.yaml stays")
    parser.add_argument("--set", action=Settings, metavar="KEY=VALUE", help="a setting to apply with it")
    arguments = parser.parse_args(argv)
    root = Path.cwd()
    try:
        if not arguments.axis:
            for name, axis in axes.load(root).axes.items():
                print(f"{name:20} {axis.title}")
            return 0
        return sweep(
            root,
            arguments.axis,
            recipe_file=arguments.recipe,
            settings=arguments.set,
            seeds=arguments.seeds,
            jobs=arguments.jobs,
        )
    except config.InvalidParams as error:
        print(f"sweep: {error}", file=sys.stderr)
        return EXIT_BAD_PARAMS
    except (locks.Busy, NotQueued) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sweep: interrupted; the same command continues", file=sys.stderr)
        return EXIT_INTERRUPTED


def sweep(
    root: Path,
    axis: str,
    *,
    recipe_file: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seeds: int = 1,
    jobs: int | None = None,
) -> int:
    """Run the unfinished experiments of the axis, write reports/sweep/<axis>.*; 0 where all are finished."""
    values = config.read_yaml(root / PARAMS)
    here = ("flows", "runtime")  # the sections that say how the sweep itself runs
    recipe.merge(values, None, {k: v for k, v in (settings or {}).items() if k.partition(".")[0] in here})
    params = config.parse(values, PARAMS)
    planned = axes.plan(root, axis, recipe_file=recipe_file, settings=settings, seeds=seeds)
    # The copy of a killed experiment is gone, but the next one of its name finds its checkpoints here.
    work = (root / params.runtime.work_dir / "sweep").resolve()
    tracked = {"MLFLOW_TRACKING_URI": _tracking_uri(root, params)}
    experiments = Experiments(root, params.flows, work, tracked)
    with locks.exclusive(root, grace=params.flows.grace):
        devices = Devices(params.flows.devices, shown=False)
        for wave in axes.waves(planned):
            experiments.queue(
                replace(one, settings=one.settings | _work_dir(work / one.name)) for one in wave
            )
            left = {one.name for one in wave} - set(experiments.finished())
            if left:
                experiments.run_queue(left, devices, min(jobs or len(devices), len(devices), len(left)))
        finished = experiments.finished()
    rows = [sweep_report.row(one, finished.get(one.name), experiments.read) for one in planned]
    for file in sweep_report.write(root, axis, axes.load(root).axis(axis), rows):
        print(file.relative_to(root))
    missing = [one.name for one in planned if one.name not in finished]
    if missing:
        print(f"sweep: not finished: {', '.join(missing)}; the same command tries again", file=sys.stderr)
    return 1 if missing else 0


def count(text: str) -> int:
    """Parse a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least 1")
    return number


def _work_dir(folder: Path) -> dict[str, str]:
    return {"runtime.work_dir": str(folder)}


def _tracking_uri(root: Path, params: config.Params) -> str:
    """Return an address where the experiments' runs outlive their copies of this folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or params.runtime.tracking_uri
    return SQLITE + str(root / uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else uri


if __name__ == "__main__":
    sys.exit(main())
