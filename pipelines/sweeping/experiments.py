"""DVC experiments: queued under their names, worked off one for each device, their results read out of git.

The workers are those that `dvc queue start` would leave in the background; here each has a guard and a
device, so none outlives whoever asked for it. `dvc queue status`, `dvc queue logs`, `dvc exp show` see them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mae.config import Flows
from pipelines.devices import Closed, Devices
from pipelines.stage_process import end_all, run_guarded
from pipelines.sweeping.axes import Experiment
from pipelines.working_copy.params_override import as_settings

DONE, RUNNING, QUEUED, FAILED = "Success", "Running", "Queued", "Failed"
WORKERS = 20  # that take the place of one worker, at most
POLL_S = 10.0  # reading the queue takes time by the messages that there ever were
Log = Callable[[str], Any]


class NotQueued(RuntimeError):
    """DVC did not take an experiment; the message is its own."""


class Experiments:
    """Those of the working copy `root`. logs: where workers say what; env: laid over their environment."""

    def __init__(self, root: Path, settings: Flows, logs: Path, env: Mapping[str, str] | None = None) -> None:
        self._root, self._settings, self._logs = Path(root), settings, logs
        self._env = dict(env or {})
        self._waiting = False  # whether experiments were in the queue when it was last looked at

    def finished(self) -> dict[str, str]:
        """The name of every finished experiment, of any commit -> its own commit, the newest of a name."""
        form = "--format=%(refname) %(objectname)"
        lines = self._git("for-each-ref", "--sort=committerdate", form, "refs/exps").splitlines()
        refs = [line.split() for line in lines]
        # refs/exps/<two digits>/<the other 38 of the commit below it>/<name>; what else is there has no such
        return {ref.split("/")[4]: commit for ref, commit in refs if len(ref.split("/")) == 5}

    def read(self, commit: str, path: str) -> dict[str, Any] | None:
        """A JSON file as a finished experiment left it; None where it left none."""
        try:
            return dict(json.loads(self._git("show", f"{commit}:{path}")))
        except subprocess.CalledProcessError:
            return None

    def states(self) -> dict[str, str]:
        """What DVC's queue says of each name: Queued, Running, Failed or Success."""
        with self._queue() as queue:
            return {str(task["name"]): str(task["status"]) for task in queue.status()}

    def queue(self, wanted: Iterable[Experiment], log: Log = print) -> None:
        """Queue those that are not finished and not queued; one that failed or was killed is queued anew.

        DVC stashes the working copy's changes for a moment and brings them back. Raises NotQueued.
        """
        finished = self.finished()
        missing = [one for one in wanted if one.name not in finished]
        states = self.states() if missing else {}
        self._remove_dead([one.name for one in missing], states)
        for one in missing:
            if states.get(one.name) in (QUEUED, RUNNING):
                continue
            command = ["exp", "run", "--queue", "--name", one.name]
            command += [part for s in as_settings(one.settings) for part in ("--set-param", s)]
            done = self._dvc(*command, *one.stages)
            if done.returncode:
                raise NotQueued(f"{one.name}: {done.stdout.strip()}")
            log(f"{one.name}: queued")

    def run_queue(self, names: Iterable[str], devices: Devices, jobs: int, log: Log = print) -> None:
        """Work off the queue, `jobs` experiments at a time; returns when nothing is left in it.

        names: whose changes of state are reported. A KeyboardInterrupt lets trainings save, then goes on up.
        """
        self._clear_mailboxes(jobs)
        self._waiting = True
        workers = [threading.Thread(target=self._worker, args=(n + 1, devices, log)) for n in range(jobs)]
        for worker in workers:
            worker.start()
        reported = dict.fromkeys(names, QUEUED)
        try:
            while any(worker.is_alive() for worker in workers):
                time.sleep(POLL_S)
                with contextlib.suppress(Exception):  # the workers write what is being read
                    self._report_changes(reported, log)
        except BaseException:
            devices.close()
            end_all()
            raise
        finally:
            for worker in workers:
                worker.join()

    def _clear_mailboxes(self, jobs: int) -> None:
        """What was said to workers that had ended, to shut down above all, would reach those of this time."""
        with self._queue() as queue, queue.celery.connection_for_write() as connection:
            queue.celery.clean()
            for number in range(1, jobs + 1):
                connection.default_channel.queue_purge(f"{self._node(number)}.celery.pidbox")

    def _node(self, number: int) -> str:
        """As DVC calls the workers of a working copy."""
        copy = hashlib.sha256(str(self._root.resolve()).encode()).hexdigest()[:6]
        return f"dvc-exp-{copy}-{number}@localhost"

    def _worker(self, number: int, devices: Devices, log: Log) -> None:
        """A worker, and another where it ends before the queue: one message read half written ends it."""
        with contextlib.suppress(Closed):
            for _ in range(WORKERS):
                if self._run_worker(number, devices, log) or not self._waiting:
                    break
                log(f"worker {number} ended before the queue; another takes its place")

    def _run_worker(self, number: int, devices: Devices, log: Log) -> int:
        """Its exit status. Raises Closed."""
        command = [sys.executable, "-m", "dvc", "exp", "queue-worker", self._node(number)]
        said = self._logs / f"worker-{number}.log"
        said.parent.mkdir(parents=True, exist_ok=True)
        with devices.lease(log) as lease, said.open("a") as file:
            status = run_guarded(
                command,
                self._root,
                grace=self._settings.grace,
                env={**self._env, **lease.environment},
                log=lambda line: print(line, file=file, flush=True),
                keep=lease.fds,
            )
            if status:
                log(f"worker {number} ended with {status}: see {said}")
        return status

    def _report_changes(self, reported: dict[str, str], log: Log) -> None:
        """Tell what changed; let the workers go, which would wait a while longer, once nothing is left."""
        with self._queue() as queue:
            states = {str(task["name"]): str(task["status"]) for task in queue.status()}
            for name in reported.keys() & states.keys():
                if reported[name] != states[name]:
                    reported[name] = states[name]
                    more = f": dvc queue logs {name}" if states[name] == FAILED else ""
                    log(f"{name}: {states[name].lower()}{more}")
            self._waiting = QUEUED in states.values()
            if not {QUEUED, RUNNING} & set(states.values()):
                queue.shutdown()

    def _remove_dead(self, names: list[str], states: dict[str, str]) -> None:
        """Take failed tasks, and those whose worker was killed, out of the queue, and out of `states`."""
        with self._queue() as queue:
            alive = bool(queue.worker_status())
            dead = [name for name in names if states.get(name) == RUNNING and not alive]
            if dead:
                queue.kill(dead, force=True)
            again = [name for name in names if states.get(name) in (FAILED, DONE)] + dead
            if again:
                queue.remove(again)
        for name in again:
            del states[name]

    @contextlib.contextmanager
    def _queue(self) -> Any:
        from dvc.repo import Repo

        with Repo(str(self._root)) as repo:
            yield repo.experiments.celery_queue

    def _git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self._root, check=True, capture_output=True)
        return done.stdout.decode()

    def _dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments],
            cwd=self._root,
            env={**os.environ, "DVC_NO_ANALYTICS": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
