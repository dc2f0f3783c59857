"""What a run still has to tell the tracking server, kept in files, so that no server is needed to go on.

One directory per run holds `metrics.jsonl` (one line per logged step, complete whatever the server does;
reports read it) and `tracking.json` (who the run is, and what was not delivered yet); `rewound.jsonl` has
the lines that a resumed run logs again. Nothing here imports MLflow or opens a connection.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
STATE = "tracking.json"
REWOUND = "rewound.jsonl"
COPIES = "undelivered"
COPY_LIMIT = 64 << 20  # a larger artifact is not copied for later delivery, only named


class Spool:
    """The files of one run. `state` is the JSON document; `save` writes it whole."""

    def __init__(self, directory: Path, state: dict[str, Any]) -> None:
        self.directory = directory
        self.state = state
        self._times: dict[tuple[Any, ...], float] = {}  # of lines that are logged again

    @classmethod
    def new(cls, directory: Path, **identity: Any) -> Spool:
        """Begin a run in `directory`, in place of whatever run was there before."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, REWOUND):
            (directory / name).unlink(missing_ok=True)
        shutil.rmtree(directory / COPIES, ignore_errors=True)
        state = {"key": uuid.uuid4().hex, "run_id": None, "experiment_id": None, "started": now_ms()}
        state |= {"status": "RUNNING", "ended": None, "closed": False, "sent": 0, "pending": []} | identity
        spool = cls(directory, state)
        spool.save()
        return spool

    @classmethod
    def open(cls, directory: Path) -> Spool | None:
        """The run that `directory` holds, or None where there is none or its state cannot be read."""
        try:
            state = json.loads((directory / STATE).read_text())
            return cls(directory, state) if isinstance(state, dict) and "key" in state else None
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    @property
    def metrics(self) -> Path:
        return self.directory / METRICS

    @property
    def id(self) -> str:
        """MLflow's run id, or a local one while no server has been reached."""
        return self.state["run_id"] or f"offline-{self.state['key']}"

    def known_as(self, run_id: str) -> bool:
        return run_id in (self.state["run_id"], f"offline-{self.state['key']}")

    def save(self) -> None:
        write_json(self.directory / STATE, self.state)

    # -- metrics --

    def append(self, step: int, values: dict[str, float]) -> None:
        """Add one line. It reaches the file at once: a killed process loses none of its lines."""
        line: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
        line |= {key: _number(value) for key, value in values.items()}
        line["time"] = self._times.get(_place(line), line["time"])
        with self.metrics.open("ab") as file:
            file.write((json.dumps(line, allow_nan=False) + "\n").encode())

    def rewind(self, step: int) -> None:
        """Drop the lines beyond `step`, which are logged again, and a half-written last one.

        A line that is logged again takes the time of the dropped one. The server knows a value by its step
        and time: it has each once, however often it is sent, and whether or not it said that it had it.
        """
        kept, dropped, sent = bytearray(), bytearray(), 0
        for end, line in self._lines(self.metrics):
            raw = (json.dumps(line) + "\n").encode()
            if line["step"] > step:
                dropped += raw
                continue
            kept += raw
            sent = len(kept) if end <= self.state["sent"] else sent
        rewound = self.directory / REWOUND
        if dropped:
            before = rewound.read_bytes() if rewound.exists() else b""
            _write_whole(rewound, before + bytes(dropped))
        self._times = {_place(line): line["time"] for _, line in self._lines(rewound)}
        # The state before the lines: killed in between, some lines are sent twice, but none is lost.
        self.state["sent"] = sent
        self.save()
        _write_whole(self.metrics, bytes(kept))

    def unsent(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(offset after the line, line) of every line that the server has not said it has."""
        return self._lines(self.metrics, self.state["sent"])

    @staticmethod
    def _lines(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        if not path.exists():
            return
        end = start
        with path.open("rb") as file:
            file.seek(start)
            for raw in file:
                end += len(raw)
                if not raw.endswith(b"\n"):
                    return
                with contextlib.suppress(json.JSONDecodeError):
                    yield end, json.loads(raw)

    # -- everything else --

    def push(self, **op: Any) -> None:
        """Queue one thing to tell the server; delivered in the order of the calls."""
        self.state["pending"].append(op)
        self.save()

    def keep_copies(self) -> None:
        """Copy queued artifacts that lie elsewhere: the caller may overwrite them before they are sent."""
        for number, op in enumerate(self.state["pending"]):
            if op["op"] != "artifact" or op.get("copied"):
                continue
            source = Path(op["path"])
            if not source.exists() or _size(source) > COPY_LIMIT:
                continue
            copy = Path(COPIES) / f"{now_ms()}-{number}" / source.name
            target = self.directory / copy
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
            op.update(path=str(copy), copied=True)  # relative: the directory may be moved
        self.save()

    def has_backlog(self) -> bool:
        unfinished = self.state["status"] != "RUNNING" and not self.state["closed"]
        return bool(
            self.state["run_id"] is None
            or self.state["pending"]
            or unfinished
            or next(iter(self.unsent()), None)
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Yields whether this process alone works on the run. Forked loader workers do not inherit it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "tracking.lock").open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


class Outbox:
    """Names of the run directories that may hold something undelivered; one file each, so no lock."""

    def __init__(self, parent: Path) -> None:
        self.directory = parent.with_suffix(".d") / "outbox"

    def add(self, directory: Path) -> None:
        write_json(self._entry(directory), {"directory": str(directory.absolute())})

    def remove(self, directory: Path) -> None:
        self._entry(directory).unlink(missing_ok=True)

    def directories(self) -> list[Path]:
        found = []
        for entry in sorted(self.directory.glob("*.json")):
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
                found.append(Path(json.loads(entry.read_text())["directory"]))
        return found

    def _entry(self, directory: Path) -> Path:
        return self.directory / f"{sha1(str(directory.absolute()).encode()).hexdigest()[:16]}.json"


def now_ms() -> int:
    return int(time.time() * 1000)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, json.dumps(value, indent=1).encode())


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _place(line: dict[str, Any]) -> tuple[Any, ...]:
    """Which line of a run it is: its step and what was measured."""
    return (line["step"], *sorted(key for key in line if key not in ("step", "time")))


def _number(value: Any) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)  # JSON has no NaN; float("nan") reads it back


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
