"""A stand-in for a stage of `mae`: runs a shell command, and leaves the outcome that its exit status means.

    python stand_in.py COMMAND

Statuses as of `mae`: 0 finished, 4 rejected, 75 interrupted, any other one failed. The message is the last
line that the command printed on standard error. Imports the standard library only.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

STATES = {0: "finished", 4: "rejected", 75: "interrupted"}


def leave(file: Path, **outcome: object) -> None:
    """Write the file whole, as `mae` does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(outcome))
    os.replace(partial, file)


def main(command: str) -> int:
    """Run the command; returns its exit status."""
    stage = os.environ["DVC_STAGE"]
    file = Path("work") / stage / "outcome.json"
    begun = {"stage": stage, "pid": os.getpid(), "started": time.time(), "run_id": None}
    leave(file, **begun, state="running", message="", ended=None)
    process = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(process.stderr)
    message = "".join(process.stderr.splitlines()[-1:])
    state = STATES.get(process.returncode, "failed")
    leave(file, **begun, state=state, message=message, ended=time.time())
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
