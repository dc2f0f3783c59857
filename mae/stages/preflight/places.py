"""Checks of the machine, of folders and of the tracking store. Nothing is created and no image is read."""

import importlib.util
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from mae.addresses import redact_address
from mae.config import Params, read_yaml
from mae.config.yaml_files import InvalidParams
from mae.data.listing.manifest import open_source
from mae.data.sources.base import SourceError
from mae.stage_table import STAGES
from mae.stages.context.tracked_run import tracking_uri
from mae.suggestions import not_one_of
from mae.tracking.server import SQLITE, resolve

MOST_WORKERS, WORKERS_PER_CORE = 32, 4
ANSWER_S = 3.0
RUNNERS = {"dask": "prefect_dask", "ray": "prefect_ray"}
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def work_folder(params: Params) -> Iterator[str]:
    folder = Path(params.runtime.work_dir)
    if reason := _not_writable(folder):
        yield f"runtime.work_dir {folder}: {reason}; name a folder that this user may write"


def device(params: Params) -> Iterator[str]:
    if params.runtime.device == "cuda" and not _cards():
        yield "runtime.device cuda: torch sees no GPU here; set it to auto or cpu, or install torch for a GPU"


def workers(params: Params) -> Iterator[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = max(MOST_WORKERS, WORKERS_PER_CORE * cores)
    if params.runtime.workers > most:
        yield (
            f"runtime.workers {params.runtime.workers}: this machine has {cores} cores, so more than {most} "
            f"processes only cost memory; set it to {cores} or so"
        )


def tracking_store(params: Params) -> Iterator[str]:
    """Check the address, and open a sqlite file: MLflow would try again for minutes in each stage."""
    uri, key = _tracking(params)
    try:
        absolute = resolve(uri)
        port = None if absolute.startswith("sqlite") else urlsplit(absolute).port
    except ValueError as error:
        yield f"{key} {redact_address(uri)}: {error}"
        return
    if absolute.startswith("sqlite"):
        file = Path(absolute.removeprefix(SQLITE))
        if not absolute.startswith(SQLITE) or uri.removeprefix(SQLITE) in ("", ":memory:"):
            yield f"{key} {uri}: names no file, so nothing would stay; such as sqlite:///mlflow.db"
        elif reason := _not_a_store(file):
            yield f"{key} {uri}: {file} {reason}; correct the path, or move what is there"
    elif absolute.startswith("http") and (port == 0 or not urlsplit(absolute).hostname):
        yield f"{key} {redact_address(uri)}: names no host and port, such as http://127.0.0.1:5000"


def tracking_server(params: Params) -> Iterator[str]:
    uri, key = _tracking(params)
    try:
        address = urlsplit(uri)
        host, port = address.hostname, address.port or PORTS.get(address.scheme.partition("+")[0], 0)
        if not host or not port:
            return
        socket.create_connection((host, port), ANSWER_S).close()
    except OSError as error:
        yield (
            f"{key} {redact_address(uri)}: does not answer ({error}); start it or correct the address. "
            "Without it metrics wait in files for `mae sync`, and the stage register fails"
        )
    except ValueError:  # the check of the store tells
        return


def flows(params: Params) -> Iterator[str]:
    """Check the stages, accelerators and packages that the flows need."""
    given = params.flows
    known = dict.fromkeys([*STAGES, *_stages_of_dvc()])
    for name in given.stages:
        if name not in known:
            yield f"flows.stages.{name}: {not_one_of(name, known)}"
    cards = _cards() if given.devices else 0
    for number in given.devices:
        if cards and number >= cards:
            yield f"flows.devices {given.devices}: {number} is no GPU here; they are 0 to {cards - 1}"
    package = RUNNERS.get(given.sharding)
    if package is not None and importlib.util.find_spec(package) is None:
        yield (
            f"flows.sharding {given.sharding}: the package {package.replace('_', '-')} is not installed; "
            "install it, or set it to processes"
        )


def _cards() -> int:
    import torch  # takes a second

    return torch.cuda.device_count()


def images(params: Params) -> Iterator[str]:
    yield from _source("ingest", params)


def detection_images(params: Params) -> Iterator[str]:
    yield from _source("ingest_detect", params)


def segmentation_images(params: Params) -> Iterator[str]:
    yield from _source("ingest_segment", params)


def robustness_sets(params: Params) -> Iterator[str]:
    if not params.robustness.sets:
        return
    from mae.stages.probing.evaluate_variants import root_of

    for name in params.robustness.sets:
        try:
            root_of(params, name)
        except (ValueError, OSError) as error:
            yield f"robustness.root {params.robustness.root}: {error}"


def _source(section: str, params: Params) -> Iterator[str]:
    given = getattr(params, section)
    root = Path(given.root)
    skip = f", or set {section}.source to none" if section != "ingest" else ""
    if given.source == "none":
        return
    if given.source == "demo":
        if reason := _not_writable(root):
            yield f"{section}.root {given.root}: {reason}; the demo is written there: name another folder"
        return
    try:
        found = root.is_dir()
        source = open_source(given.source, root, given.val_fraction)
        if found and given.source == "imagenet_tar":  # the sizes of four files; others list every image
            source.unchanged_key()
    except SourceError as error:
        yield f"{section}: {error}"
    except OSError as error:
        yield f"{section}.root {given.root}: cannot be read ({error.strerror}); correct it"
    else:
        if not found:
            what = "is a file" if root.exists() else "no such folder"
            yield f"{section}.root {given.root}: {what}; name the folder of the images ({given.source}){skip}"


def _tracking(params: Params) -> tuple[str, str]:
    set_ = os.environ.get("MLFLOW_TRACKING_URI")
    return tracking_uri(params), "MLFLOW_TRACKING_URI" if set_ else "runtime.tracking_uri"


def _not_writable(folder: Path) -> str | None:
    """Tell why no folder can be made or written there; None where one can."""
    try:
        for place in (folder, *folder.absolute().parents):
            if place.is_dir():
                return None if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written"
            if place.exists():
                return f"{place} is a file"
    except OSError as error:
        return f"cannot be a folder ({error.strerror})"
    return None


def _not_a_store(file: Path) -> str | None:
    try:
        if file.is_dir():
            return "is a folder"
        if not file.exists():
            return _not_writable(file.parent)
        if not os.access(file, os.W_OK):
            return "cannot be written"
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        return f"cannot be opened ({error})"
    return None


def _stages_of_dvc() -> list[str]:
    """Return the stages of the project's own dvc.yaml, which may have more than ours; [] without one."""
    try:
        stages = read_yaml(Path("dvc.yaml")).get("stages")
    except InvalidParams:
        return []
    return list(map(str, stages)) if isinstance(stages, dict) else []
