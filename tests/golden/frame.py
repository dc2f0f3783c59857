"""The frame of the goldens: a case, its kept values, and the rules by which they are compared and written."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from golden.bench import Bench

from mae import results
from mae.config import recipe

VALUES = Path(__file__).parent / "values"

TRAINED = 1e-3  # what floats of a training may differ by on another CPU, relative to their size
ONE_PASS = 1e-5  # what floats of a single pass may

Value = int | float | str | list[Any]
Values = dict[str, Value]


@dataclass(frozen=True)
class Case:
    """A small computation whose outcome must stay.

    keys: of mae/results.yaml, a leaf ("pretrain.cae") or a section ("pretrain", all of its leaves): a change
    of the values must raise one of them. covers: rows of the product's tables ("target.hog") that it runs.
    compute: leaves its files in the bench's folder, returns numbers, lists of numbers and digests by name.
    """

    name: str
    keys: tuple[str, ...]
    compute: Callable[[Bench], Values]
    covers: tuple[str, ...] = ()
    tolerance: float = TRAINED


@dataclass(frozen=True)
class Kept:
    """Values in a file of `values/`, with the versions of results.yaml that made them."""

    versions: dict[str, int]
    values: Values


class Refusal(Exception):
    """Values that may not be written: a fault on each line."""


class Shelf:
    """The kept values of one topic, in one JSON file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> dict[str, Kept]:
        """The kept values by the name of their case; {} without a file."""
        if not self.file.is_file():
            return {}
        return {name: Kept(**entry) for name, entry in json.loads(self.file.read_text()).items()}

    def faults(self, case: Case, found: Values, versions: Mapping[str, int]) -> list[str]:
        """Differences between what the case gives now and what is kept, a line each."""
        kept = self.read().get(case.name)
        if kept is None:
            return [f"{case.name}: no golden is kept; run `make golden` and commit {self.file.name}"]
        changed = [
            f"{key} {kept.versions[key]} -> {number}"
            for key, number in versions_of(case, versions).items()
            if kept.versions.get(key, number) != number
        ]
        if changed:
            return [f"{case.name}: kept under another version ({', '.join(changed)}): run `make golden`"]
        wrong = list(differences(case, kept.values, found))
        if not wrong:
            return []
        keys = " or ".join(case.keys)
        return [*wrong, f"If this is meant, raise {keys} in mae/results.yaml and run `make golden`."]

    def write(self, case: Case, found: Values, versions: Mapping[str, int]) -> str:
        """Keep what the case gives now, and return what was done: "kept", "new" or "rewritten".

        Raises Refusal where kept values differ or are no longer computed and no version of the case was
        raised, or where one was lowered. Names that the case did not give before are no other values, and a
        part that joins a section raises nothing.
        """
        shelf, now = self.read(), versions_of(case, versions)
        kept = shelf.get(case.name)
        done = "new"
        if kept is not None:
            lowered = [key for key in now if now[key] < kept.versions.get(key, now[key])]
            if lowered:
                raise Refusal(f"{case.name}: {', '.join(lowered)} is lower than what made the kept values")
            wrong = list(differences(case, kept.values, {k: v for k, v in found.items() if k in kept.values}))
            raised = any(now[key] > kept.versions.get(key, now[key]) for key in now)
            if wrong and not raised:
                raise Refusal(
                    "\n".join([*wrong, f"First raise {' or '.join(case.keys)} in mae/results.yaml."])
                )
            if not wrong and now == kept.versions and found.keys() == kept.values.keys():
                return "kept"
            if not wrong:  # the last digits stay
                found = {name: kept.values.get(name, value) for name, value in found.items()}
            done = "rewritten"
        shelf[case.name] = Kept(now, found)
        self._store(shelf)
        return done

    def _store(self, shelf: Mapping[str, Kept]) -> None:
        plain = {name: vars(kept) for name, kept in sorted(shelf.items())}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(plain, indent=1) + "\n")


def read_versions() -> dict[str, int]:
    """The versions of all stages and parts by their dotted names."""
    return dict(recipe.leaves(results.versions()))


def versions_of(case: Case, versions: Mapping[str, int]) -> dict[str, int]:
    """The versions that a case belongs to; raises KeyError for a key that results.yaml does not have."""
    found: dict[str, int] = {}
    for key in case.keys:
        leaves = [name for name in versions if name == key or name.startswith(f"{key}.")]
        if not leaves:
            raise KeyError(f"{case.name}: mae/results.yaml has no {key}")
        found |= {name: versions[name] for name in leaves}
    return found


def differences(case: Case, kept: Values, found: Values) -> Iterator[str]:
    """A line for each value that is missing, new or another one: its name, old and new."""
    for name in sorted(kept.keys() | found.keys()):
        if name not in found:
            yield f"{case.name}: {name}: was {shown(kept[name])}, is no longer computed"
        elif name not in kept:
            yield f"{case.name}: {name}: is {shown(found[name])}, none is kept"
        elif not same(kept[name], found[name], case.tolerance):
            yield f"{case.name}: {name}: was {shown(kept[name])}, is {shown(found[name])}"


def same(kept: Value, found: Value, tolerance: float) -> bool:
    """Return whether two values are equal: floats within the tolerance, everything else exactly.

    In a list of floats the tolerance is relative to the largest: small ones among them are mostly rounding.
    """
    if isinstance(kept, list) and isinstance(found, list):
        if len(kept) != len(found):
            return False
        pairs = list(zip(kept, found, strict=True))
        if all(isinstance(one, int | float) for pair in pairs for one in pair) and _any_float(kept, found):
            scale = max((abs(one) for one in kept if math.isfinite(one)), default=0.0)
            return all(_near(a, b, tolerance, scale) for a, b in pairs)
        return all(same(a, b, tolerance) for a, b in pairs)
    if isinstance(kept, float) or isinstance(found, float):
        numbers = all(isinstance(one, int | float) for one in (kept, found))
        return numbers and _near(kept, found, tolerance, abs(kept))  # type: ignore[arg-type]
    return type(kept) is type(found) and kept == found


def _any_float(*lists: list[Any]) -> bool:
    return any(isinstance(one, float) for values in lists for one in values)


def _near(kept: float, found: float, tolerance: float, scale: float) -> bool:
    if math.isnan(kept) or math.isnan(found):
        return math.isnan(kept) and math.isnan(found)
    return abs(kept - found) <= tolerance * scale + 1e-9


def shown(value: Value) -> str:
    """A value for a person: long lists cut short."""
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:160]} ..."


def golden_test(topic: str, cases: Sequence[Case]) -> Callable[..., None]:
    """The test of a topic's cases; under `--write-goldens` (`make golden`) it keeps their values instead."""

    @pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])
    def test(case: Case, bench: Bench, request: pytest.FixtureRequest) -> None:
        shelf, found = Shelf(VALUES / f"{topic}.json"), case.compute(bench)
        if not request.config.getoption("--write-goldens", default=False):
            faults = shelf.faults(case, found, read_versions())
            assert not faults, "\n".join(faults)
            return
        refused = ""
        try:
            print(f"{case.name}: {shelf.write(case, found, read_versions())}")
        except Refusal as refusal:
            refused = str(refusal)
        if refused:
            pytest.fail(refused, pytrace=False)

    return test
