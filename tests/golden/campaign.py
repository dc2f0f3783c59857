"""A test of the goldens: break one file at a time in a copy of the checkout and see whether one notices.

`make mutations`, or `python tests/golden/campaign.py [--first] [WORD ...]` for the files whose path holds a
word. --first runs the likeliest cases alone: that is faster, and may call a mutation survived that another
case notices. Without words, the copy is tried first as it is but for a comment and a docstring in every
file, which nothing may notice. Ends with 1 where something does, where a text of mutations.yaml is not in
its file exactly once, or where more than a tenth of the mutations survive.
"""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent.parent
TABLE = Path(__file__).parent / "mutations.yaml"
SURVIVORS = 0.1  # as a share of the mutations, at most
SECONDS = 600  # of one run; a mutant that takes longer is noticed by whoever waits for it
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "mlflow",
    "matplotlib.pyplot",
    "scipy.stats",
    "sklearn.decomposition",
)


@dataclass(frozen=True)
class Mutation:
    """A change of one place of a file. first: the topic, and the cases that should notice."""

    file: str
    old: str
    new: str
    first: str

    def fault(self, root: Path) -> str | None:
        """Return why it cannot be applied; None where it can."""
        path = root / self.file
        if not path.is_file():
            return f"{self.file}: is not there; correct {TABLE.name}"
        count = path.read_text().count(self.old)
        return None if count == 1 else f"{self.file}: holds {self.old!r} {count} times, not once"

    @property
    def likeliest(self) -> list[str]:
        """Arguments of pytest for the cases that should notice."""
        topic, _, cases = self.first.partition(" ")
        return [f"tests/golden/test_{topic}.py", *(["-k", cases] if cases else [])]


def mutations() -> list[Mutation]:
    """Read the rows of mutations.yaml."""
    return [Mutation(**row) for row in YAML(typ="safe").load(TABLE.read_text())]


def main(words: Sequence[str]) -> int:
    """Run the campaign, print its table, and return the exit status."""
    only_first, words = "--first" in words, [word for word in words if word != "--first"]
    chosen = [one for one in mutations() if not words or any(word in one.file for word in words)]
    faults = [fault for one in chosen if (fault := one.fault(ROOT))]
    if faults:
        print("\n".join(faults))
        return 1
    for name in HEAVY:  # once for all runs, which are forked off this process
        __import__(name)
    with tempfile.TemporaryDirectory(prefix="mutations-") as place:
        copy = copied(Path(place) / "checkout")
        if not words and (noticed := unbroken(copy)):
            print(f"A comment or a docstring is noticed, or the goldens fail already: {noticed}")
            return 1
        survived = 0
        for number, one in enumerate(chosen, 1):
            noticed = tried(copy, one, only_first)
            survived += not noticed
            change = f"{one.old} -> {one.new}".replace("\n", " ")
            print(
                f"{number:3d}/{len(chosen)}  {one.file:38}  {change:100.100}  {noticed or 'SURVIVED'}",
                flush=True,
            )
    print(f"{len(chosen) - survived} of {len(chosen)} mutations were noticed.")
    return int(survived > SURVIVORS * len(chosen))


def copied(to: Path) -> Path:
    """A copy of all files that git tracks, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)
    return to


def unbroken(copy: Path) -> str | None:
    """Return what notices a comment and another first line of a docstring in every file of the package."""
    files = sorted((copy / "mae").rglob("*.py"))
    before = {path: path.read_text() for path in files}
    for path, text in before.items():
        path.write_text(text.replace('"""', '"""Said otherwise. ', 1) + "\n# A comment.\n")
    noticed = run(copy, ["tests/golden"])
    for path, text in before.items():
        path.write_text(text)
    return noticed


def tried(copy: Path, mutation: Mutation, only_first: bool) -> str | None:
    """Return what notices the mutation, a case or a file that cannot be collected; None for nothing."""
    path = copy / mutation.file
    before = path.read_text()
    path.write_text(before.replace(mutation.old, mutation.new))
    try:
        noticed = run(copy, mutation.likeliest)
        return noticed if noticed or only_first else run(copy, ["tests/golden"])
    finally:
        path.write_text(before)


def run(copy: Path, arguments: list[str]) -> str | None:
    """Run goldens of the copy in a process of their own, up to the first that fails; return its name."""
    log = copy.parent / "log.txt"
    process = multiprocessing.get_context("fork").Process(target=_pytest, args=(copy, arguments, log))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return f"did not end within {SECONDS} s"
    if process.exitcode == 0:
        return None
    lines = log.read_text(errors="replace").splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if not failed:
        raise RuntimeError("\n".join(["pytest could not run the goldens:", *lines[-30:]]))
    name = failed[0].split(" - ")[0].rpartition("/")[2]
    case = re.fullmatch(r"test_(\w+)\.py::test_it_gives_the_kept_values\[(.+)\]", name)
    return f"{case[1]}: {case[2]}" if case else name


def _pytest(copy: Path, arguments: list[str], log: Path) -> None:
    """In the forked process: pytest on the copy, whose package comes before the checkout's own."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = True  # a mutant has the size and, within a second, the time of the file before
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

    import mae

    assert Path(str(mae.__file__)).is_relative_to(copy), f"{mae.__file__} is not the copy's"
    import pytest

    base = [
        "-x",
        "-q",
        "-rfE",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        "-n0",
        f"--basetemp={copy.parent / 'work'}",
    ]
    os._exit(int(pytest.main([*base, *arguments])))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
