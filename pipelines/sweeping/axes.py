"""Axes of sweeps.yaml, and the experiments of an axis: each has a name and settings."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from mae.config import InvalidParams, parse, read_yaml, recipe
from mae.stage_table import STAGES
from mae.suggestions import did_you_mean, not_one_of
from pipelines.sweeping.result_fingerprint import ResultFingerprint
from pipelines.working_copy.params_override import PARAMS

SWEEPS = "sweeps.yaml"
Position = int | float | str
# The stages whose main number is a column, and its name.
EVALUATIONS = {name: stage.figure for name, stage in STAGES.items() if stage.figure is not None}


def _known_evaluations(stages: list[str]) -> list[str]:
    if unknown := [stage for stage in stages if stage not in EVALUATIONS]:
        raise ValueError(f"stages of a sweep: {not_one_of(unknown[0], EVALUATIONS)}")
    return stages


Evaluations = Annotated[list[str], Field(min_length=1), AfterValidator(_known_evaluations)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Value(_Part):
    """One position on an axis.

    Attributes:
        at: its name.
        recipe: a recipe to apply before `set`, e.g. that of a method.
        set: settings, "section.key" -> value.
        paper: the numbers of the paper, stage -> percent.
    """

    at: Position
    recipe: str | None = None
    set: dict[str, Any] = {}
    paper: dict[str, float] = {}

    @model_validator(mode="after")
    def _leaves_seeds_to_the_command(self) -> Value:
        if "seed" in self.set:
            raise ValueError("a value cannot set seed: the option --seeds does")
        return self


def _different(values: list[Value]) -> list[Value]:
    """Refuse two values of one name: they would look like two seeds of it."""
    names = [str(value.at) for value in values]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)}: name each value once")
    return values


Values = Annotated[
    list[Annotated[Value, BeforeValidator(lambda v: v if isinstance(v, dict) else {"at": v})]],
    Field(min_length=1),
    AfterValidator(_different),
]


class Axis(_Part):
    """An axis: the settings that a sweep varies.

    Attributes:
        key: the parameter that takes `at`, where a value does not `set` others itself.
        stages: the evaluations to run; null takes those of the file.
        recipe, settings: applied before every value, for a model of the size that `paper` was measured with.
        source: the paper of the numbers in `paper`, and its model.
        note: a remark below the table.
        demo, demo_settings: other values, and settings in place of `recipe` and `settings`, for a model as
            small as that of the demo.
    """

    title: str
    label: str
    key: str | None = None
    stages: Evaluations | None = None
    recipe: str | None = None
    settings: dict[str, Any] = {}
    source: str = ""
    note: str = ""
    values: Values
    demo: Values | None = None
    demo_settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _says_what_a_value_sets(self) -> Axis:
        bare = [v.at for v in (*self.values, *(self.demo or ())) if not (v.set or v.recipe)]
        if bare and self.key is None:
            raise ValueError(f"values {bare} set nothing: give them `set`, or the axis a `key`")
        return self

    def settings_at(self, value: Value) -> dict[str, Any]:
        return value.set or ({self.key: value.at} if self.key else {})


class Sweeps(_Part):
    """The content of sweeps.yaml.

    Attributes:
        stages: the evaluations of axes that name none.
        demo_recipe: applied before a sweep of the demo, unless another recipe is given.
    """

    stages: Evaluations
    demo_recipe: str
    axes: dict[str, Axis]

    @model_validator(mode="after")
    def _has_paper_numbers_of_its_stages_only(self) -> Sweeps:
        for name, axis in self.axes.items():
            named = {stage for value in (*axis.values, *(axis.demo or ())) for stage in value.paper}
            if others := named.difference(axis.stages or self.stages):
                raise ValueError(
                    f"axis {name} has the paper's {', '.join(sorted(others))}, but does not run these stages"
                )
        return self

    def axis(self, name: str) -> Axis:
        """Return the axis `name`; raises InvalidParams where the file has none of this name."""
        if name not in self.axes:
            raise InvalidParams(f"{SWEEPS}: axis {not_one_of(name, self.axes)}")
        return self.axes[name]


@dataclass(frozen=True)
class Experiment:
    """One experiment of a sweep.

    Attributes:
        name: determined by the settings and everything else that its stages depend on: the same work has the
            same name.
        settings: the parameters that differ from params.yaml, "section.key" -> value.
    """

    name: str
    at: Position
    seed: int
    settings: dict[str, Any]
    stages: tuple[str, ...]


def load(root: Path) -> Sweeps:
    """Load sweeps.yaml; raises InvalidParams, which names its errors."""
    file = Path(root) / SWEEPS
    try:
        return Sweeps.model_validate(read_yaml(file))
    except ValidationError as error:
        known = {*Sweeps.model_fields, *Axis.model_fields, *Value.model_fields}
        faults = (
            f"  {'.'.join(map(str, one['loc']))}: {one['msg']}"
            + (did_you_mean(one["loc"][-1], known) if one["type"] == "extra_forbidden" else "")
            for one in error.errors()
        )
        raise InvalidParams("\n".join([f"{file}: to correct", *faults])) from None


def plan(
    root: Path,
    name: str,
    *,
    recipe_file: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seeds: int = 1,
) -> list[Experiment]:
    """Plan the experiments of the axis `name`, `seeds` for each value, from params.yaml as it is now.

    Applied before each value: the recipe (by default the small one of the demo, if its images are used), the
    axis's settings for models of that size, and `settings` ("section.key" -> value). A model is small where
    the encoder is smaller than its name says. Raises InvalidParams.
    """
    root, sweeps = Path(root), load(root)
    axis, base = sweeps.axis(name), read_yaml(root / PARAMS)
    if recipe_file is None and base["ingest"]["source"] == "demo":
        recipe_file = str(root / sweeps.demo_recipe)
    stages = tuple(axis.stages or sweeps.stages)
    common = copy.deepcopy(base)
    recipe.merge(common, recipe_file, {})
    small = parse(common, f"{PARAMS} with {recipe_file}").encoder.resized
    if small:
        recipe.merge(common, None, axis.demo_settings, f"{SWEEPS}, {name}")
    else:
        recipe.merge(common, _below(root, axis.recipe), axis.settings, f"{SWEEPS}, {name}")
    recipe.merge(common, None, settings or {})
    if not isinstance(common["seed"], int):
        parse(common)  # raises the error that names it
    drafts = []
    for value in axis.demo if small and axis.demo else axis.values:
        for seed in range(common["seed"], common["seed"] + seeds):
            draft = copy.deepcopy(common)
            over = axis.settings_at(value) | {"seed": seed}
            recipe.merge(draft, _below(root, value.recipe), over, f"{SWEEPS}, {name} {value.at}")
            parse(draft, f"{name} {value.at}")
            _check_roots(draft, root)
            drafts.append((value.at, seed, draft))
    fingerprint = ResultFingerprint(root, stages)
    return [
        Experiment(
            f"{name}-{_slug(at)}-s{seed}-{fingerprint.digest(values)}",
            at,
            seed,
            _changed(base, values),
            stages,
        )
        for at, seed, values in drafts
    ]


def waves(planned: Iterable[Experiment]) -> list[list[Experiment]]:
    """Divide experiments into groups to run in parallel: first one for each pretraining, then the others.

    The others find the pretraining in DVC's cache. All at once, each would pretrain the same model.
    """
    first: dict[str, Experiment] = {}
    others = []
    for one in planned:
        before = {key: of for key, of in one.settings.items() if key.partition(".")[0] not in one.stages}
        if first.setdefault(json.dumps(before, sort_keys=True), one) is not one:
            others.append(one)
    return [wave for wave in (list(first.values()), others) if wave]


def _below(root: Path, file: str | None) -> str | None:
    return None if file is None else str(root / file)


def _check_roots(values: dict[str, Any], root: Path) -> None:
    """Raise InvalidParams for images that experiments would not find from their copy of `root`."""
    for section in ("ingest", "ingest_detect", "ingest_segment"):
        source, folder = values[section]["source"], values[section]["root"]
        if source not in ("demo", "none") and "://" not in folder and not Path(folder).is_absolute():
            raise InvalidParams(
                f"{section}.root: {folder} is relative, and experiments run in copies of this folder: "
                f"--set {section}.root={root.resolve() / folder}"
            )


def _changed(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    old, new = dict(recipe.leaves(base)), dict(recipe.leaves(values))
    return {key: value for key, value in new.items() if key not in old or old[key] != value}


def _slug(at: Position) -> str:
    """Return the position as git accepts it in the name of a reference."""
    return re.sub(r"[^A-Za-z0-9.]+|\.{2,}", "_", str(at)).strip("_.")
