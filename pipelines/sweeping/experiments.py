"""DVC experiments: queued by name, run by one worker for each device, their results read from git.

The workers are those that `dvc queue start` would leave in the background. Here each has a guard and a
device, so that none outlives the sweep. `dvc queue status`, `dvc queue logs`, `dvc exp show` list them.
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
POLL_S = 10.0  # reading the queue takes longer with every message that was ever in it
Log = Callable[[str], Any]


class NotQueued(RuntimeError):
    """DVC refused an experiment; the message is DVC's."""


class Experiments:
    """The experiments of the working copy `root`.

    Args:
        logs: the folder for the output of workers.
        env: variables added to their environment.
    """

    def __init__(self, root: Path, settings: Flows, logs: Path, env: Mapping[str, str] | None = None) -> None:
        self._root, self._settings, self._logs = Path(root), settings, logs
        self._env = dict(env or {})
        self._waiting = False  # whether experiments were in the queue at the last look

    def finished(self) -> dict[str, str]:
        """Map the name of every finished experiment to its commit, the newest where several have the name."""
        form = "--format=%(refname) %(objectname)"
        lines = self._git("for-each-ref", "--sort=committerdate", form, "refs/exps").splitlines()
        refs = [line.split() for line in lines]
        # refs/exps/<two digits>/<the other 38 of the commit below it>/<name>; others have fewer parts
        return {ref.split("/")[4]: commit for ref, commit in refs if len(ref.split("/")) == 5}

    def read(self, commit: str, path: str) -> dict[str, Any] | None:
        """Read a JSON file that a finished experiment wrote; None where it wrote none."""
        try:
            return dict(json.loads(self._git("show", f"{commit}:{path}")))
        except subprocess.CalledProcessError:
            return None

    def states(self) -> dict[str, str]:
        """Return the state of each name in DVC's queue: Queued, Running, Failed or Success."""
        with self._queue() as queue:
            return {str(task["name"]): str(task["status"]) for task in queue.status()}

    def queue(self, wanted: Iterable[Experiment], log: Log = print) -> None:
        """Queue experiments that are neither finished nor queued, and again those that failed or were killed.

        DVC stashes the working copy's changes for a moment and restores them. Raises NotQueued.
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
        """Run the queue, `jobs` experiments at a time; return when it is empty.

        A KeyboardInterrupt lets trainings save, and is raised again.

        Args:
            names: the experiments to report changes of state for.
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
                with contextlib.suppress(Exception):  # the workers write the queue at the same time
                    self._report_changes(reported, log)
        except BaseException:
            devices.close()
            end_all()
            raise
        finally:
            for worker in workers:
                worker.join()

    def _clear_mailboxes(self, jobs: int) -> None:
        """Drop messages to workers that have ended: a request to shut down would reach the new ones."""
        with self._queue() as queue, queue.celery.connection_for_write() as connection:
            queue.celery.clean()
            for number in range(1, jobs + 1):
                connection.default_channel.queue_purge(f"{self._node(number)}.celery.pidbox")

    def _node(self, number: int) -> str:
        """Return the name that DVC gives to a worker of this working copy."""
        copy = hashlib.sha256(str(self._root.resolve()).encode()).hexdigest()[:6]
        return f"dvc-exp-{copy}-{number}@localhost"

    def _worker(self, number: int, devices: Devices, log: Log) -> None:
        """Run a worker, and another where it ends before the queue: a half-written message ends it."""
        with contextlib.suppress(Closed):
            for _ in range(WORKERS):
                if self._run_worker(number, devices, log) or not self._waiting:
                    break
                log(f"worker {number} ended before the queue; another takes its place")

    def _run_worker(self, number: int, devices: Devices, log: Log) -> int:
        """Run a worker on a device; return its exit status. Raises Closed."""
        command = [sys.executable, "-m", "dvc", "exp", "queue-worker", self._node(number)]
        output = self._logs / f"worker-{number}.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        with devices.lease(log) as lease, output.open("a") as file:
            status = run_guarded(
                command,
                self._root,
                grace=self._settings.grace,
                env={**self._env, **lease.environment},
                log=lambda line: print(line, file=file, flush=True),
                keep=lease.fds,
            )
            if status:
                log(f"worker {number} ended with {status}: see {output}")
        return status

    def _report_changes(self, reported: dict[str, str], log: Log) -> None:
        """Log what changed; shut the workers down once the queue is empty, else they would wait longer."""
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
        """Remove failed tasks, and those whose worker was killed, from the queue and from `states`."""
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
