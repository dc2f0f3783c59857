"""`make sweep AXIS=mask_ratio`: an ablation as DVC experiments, queued, worked off, drawn and tabled.

    python -m pipelines.sweep AXIS [--seeds N] [--jobs N] [--recipe FILE] [--set KEY=VALUE]

sweeps.yaml holds the axes. Run again, it runs what is not finished yet; with everything finished it writes
the report anew. Experiments run in copies of the working copy, as it is now, uncommitted changes included.
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
from mae.config import recipe
from pipelines.devices import Devices
from pipelines.sweeping import axes, sweep_report
from pipelines.sweeping.experiments import Experiments, NotQueued
from pipelines.working_copy import locks
from pipelines.working_copy.params_override import PARAMS, Settings

SQLITE = "sqlite:///"
EXIT_BAD_PARAMS = 2  # as mae's
EXIT_INTERRUPTED = 75


def main(argv: list[str] | None = None) -> int:
    """Run one sweep to its report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pipelines.sweep", description="Run an ablation of sweeps.yaml.")
    parser.add_argument("axis", nargs="?", help="what to vary; none: list what there is")
    parser.add_argument("--seeds", type=count, default=1, help="of each value; the first is params.yaml's")
    parser.add_argument("--jobs", type=count, help="at a time (default: one for each of flows.devices)")
    parser.add_argument("--recipe", help="laid under the sweep, not over params.yaml itself")
    parser.add_argument("--set", action=Settings, metavar="KEY=VALUE", help="laid under it, too")
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
        print("sweep: interrupted; the same command goes on from there", file=sys.stderr)
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
    """Run what is not finished of the axis, write reports/sweep/<axis>.*; 0 where all of it is there."""
    values = config.read_yaml(root / PARAMS)
    here = ("flows", "runtime")  # what says how the sweep itself runs
    recipe.merge(values, None, {k: v for k, v in (settings or {}).items() if k.partition(".")[0] in here})
    params = config.parse(values, PARAMS)
    planned = axes.plan(root, axis, recipe_file=recipe_file, settings=settings, seeds=seeds)
    # A killed experiment's copy is gone; its checkpoints, outside, are found by the next one of its name.
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
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least 1")
    return number


def _work_dir(folder: Path) -> dict[str, str]:
    return {"runtime.work_dir": str(folder)}


def _tracking_uri(root: Path, params: config.Params) -> str:
    """Where the runs of the experiments outlive their copies of this folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or params.runtime.tracking_uri
    return SQLITE + str(root / uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else uri


if __name__ == "__main__":
    sys.exit(main())
