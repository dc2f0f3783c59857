"""The pipeline as DVC reads it from dvc.yaml. There is no second list of dependencies."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mae.suggestions import not_one_of
from pipelines.working_copy.dvc_files import opened


def upstreams(root: Path, targets: Iterable[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Map each stage to the stages that it depends on directly, in an order in which they can run.

    Args:
        root: the working copy (with .dvc and dvc.yaml).
        targets: only these stages and all that they depend on; None for all.

    Raises ValueError for a target that is no stage, and DVC's own errors for a dvc.yaml that it cannot read.
    """
    import networkx

    with opened(root) as repo:
        graph = repo.index.graph.copy()
        # `dvc repro` runs a frozen stage without the stages that it depends on.
        graph.remove_edges_from([edge for edge in graph.edges if edge[0].frozen])
        names = {stage: _address(stage) for stage in graph}
        unknown = sorted(set(targets or ()) - set(names.values()))
        if unknown:
            raise ValueError(f"stage of dvc.yaml: {not_one_of(unknown[0], sorted(names.values()))}")
        wanted = set(names) if targets is None else set()
        for stage in set(names) - wanted:
            if names[stage] in set(targets or ()):
                wanted |= {stage} | networkx.descendants(graph, stage)
        return {
            names[stage]: tuple(names[up] for up in graph.successors(stage))
            for stage in networkx.dfs_postorder_nodes(graph)
            if stage in wanted
        }


def downstreams(root: Path, stages: Iterable[str]) -> list[str]:
    """Return these stages and all that depend on them, in an order in which they can run."""
    reached: set[str] = set(stages)
    order = upstreams(root)
    for stage, ups in order.items():
        if reached.intersection(ups):
            reached.add(stage)
    return [stage for stage in order if stage in reached]


def recorded_results(root: Path, stage: str) -> Any:
    """Return what DVC remembers of the stage's last result, and the identity of its output files.

    Two answers are equal where DVC has neither run nor restored the stage. None where it is unknown.
    """
    from dvc.exceptions import DvcException

    file, _, name = stage.rpartition(":")
    if stage.endswith(".dvc"):
        file, name = stage, ""
    path = str(Path(root).absolute() / (file or "dvc.yaml"))
    try:
        with opened(root) as repo:
            known = repo.stage.load_one(path=path, name=name or None)
            digests = [(str(one), one.hash_info) for one in (*known.deps, *known.outs)]
            return digests, [_identity(out.fs_path) for out in known.outs]
    except DvcException:
        return None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns


def _address(stage: Any) -> str:
    """Return the name that `dvc repro` takes at the root, whatever folder this process is in."""
    if not hasattr(stage, "name"):
        return str(stage.path_in_repo)  # a .dvc file
    file = stage.path_in_repo
    return str(stage.name if file == "dvc.yaml" else f"{file}:{stage.name}")
