"""The registry holds each model once, and its champion changes only for one that is measurably better."""

import json
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mae import registry
from mae.registry import Decision, Registered, decide, decide_gain

NAMES = ["mae-encoder", "mae-classifier"]


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri, registry_uri=uri)


def jpeg(seed: int = 0, size: int = 48) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def conclude(uri: str, done: dict[str, Registered], decision: Decision) -> dict[str, Any]:
    against = {model.name: registry.champion_version(uri, model.name) for model in done.values()}
    return registry.conclude(uri, done, decision, against)


def aliases(uri: str) -> dict[str, dict[str, str]]:
    from mae.registry.client import aliases

    return {name: aliases(client(uri), name) for name in NAMES}


def both(value: Any) -> dict[str, Any]:
    return {NAMES[0]: value, NAMES[1]: value}


@pytest.fixture
def candidates(mlflow_uri: str) -> Any:
    """Make versions without any model behind them: enough for tests of aliases."""
    store, made = client(mlflow_uri), {}
    for name in NAMES:
        store.create_registered_model(name)

    def candidate(encoder: int, classifier: int) -> dict[str, Registered]:
        found = {}
        for kind, name, number in zip(("encoder", "classifier"), NAMES, (encoder, classifier), strict=True):
            while made.get(name, 0) < number:
                store.create_model_version(name, source="/tmp/none")
                made[name] = made.get(name, 0) + 1
            found[kind] = Registered(name, str(number), "m", "d", True, False)
        return found

    return candidate


FIRST = decide([True], None, min_gain=0.0, confidence=0.95, seed=0)
BETTER = decide([True] * 50, [False] * 50, min_gain=0.0, confidence=0.95, seed=0)
WORSE = decide([False] * 50, [True] * 50, min_gain=0.0, confidence=0.95, seed=0)


def test_the_first_model_is_promoted() -> None:
    decision = decide([False, True], None, min_gain=0.5, confidence=0.95, seed=0)
    assert decision.promote
    assert (decision.gain, decision.champion, decision.challenger) == (None, None, 0.5)


def test_a_tie_never_promotes() -> None:
    same = np.random.default_rng(0).random(24) < 0.5
    decision = decide(same, same, min_gain=0.0, confidence=0.95, seed=0)
    assert not decision.promote
    assert "tie" in decision.reason
    swapped = decide([True, False], [False, True], min_gain=0.0, confidence=0.95, seed=0)
    assert not swapped.promote


def test_a_gain_that_chance_explains_does_not_promote() -> None:
    ours, theirs = np.ones(24, bool), np.ones(24, bool)
    theirs[0] = False  # one sample of 24
    decision = decide(ours, theirs, min_gain=0.0, confidence=0.95, seed=0)
    assert decision.gain == pytest.approx(1 / 24)
    assert not decision.promote
    assert "does not exclude zero" in decision.reason


def test_a_sure_gain_promotes_only_above_the_least_gain() -> None:
    ours, theirs = np.ones(1000, bool), np.ones(1000, bool)
    theirs[:30] = False
    assert decide(ours, theirs, min_gain=0.02, confidence=0.95, seed=0).promote
    assert not decide(ours, theirs, min_gain=0.03, confidence=0.95, seed=0).promote
    assert not decide(theirs, ours, min_gain=0.0, confidence=0.95, seed=0).promote


def test_the_interval_is_that_of_a_plain_paired_bootstrap() -> None:
    random = np.random.default_rng(1)
    ours, theirs = random.random(400) < 0.7, random.random(400) < 0.6
    decision = decide(ours, theirs, min_gain=0.0, confidence=0.9, seed=0)
    difference = ours.astype(int) - theirs.astype(int)
    drawn = difference[random.integers(0, 400, (4000, 400))].mean(axis=1)
    assert decision.low == pytest.approx(np.quantile(drawn, 0.05), abs=0.005)
    assert decision.high == pytest.approx(np.quantile(drawn, 0.95), abs=0.005)
    assert decision == decide(ours, theirs, min_gain=0.0, confidence=0.9, seed=0)


def test_the_gate_refuses_different_samples() -> None:
    with pytest.raises(ValueError, match="same samples"):
        decide([True, False], [True], min_gain=0.0, confidence=0.95, seed=0)
    with pytest.raises(ValueError, match="at least one"):
        decide([], None, min_gain=0.0, confidence=0.95, seed=0)


def gain(interval: tuple[float, float, float] | None, champion: float | None = 0.25) -> Decision:
    about: dict[str, Any] = {"samples": 40, "min_gain": 0.01, "confidence": 0.95}
    return decide_gain(0.3, champion, interval, figure="mask AP", **about)


def test_any_paired_figure_passes_the_same_gate() -> None:
    assert gain((0.05, 0.02, 0.08)).promote
    assert "0.0500 in mask AP" in gain((0.05, 0.02, 0.08)).reason
    assert not gain((0.05, -0.01, 0.11)).promote  # chance explains it
    assert not gain((0.01, 0.005, 0.02)).promote  # no more than the least gain
    assert not gain((0.0, 0.0, 0.0)).promote
    assert gain(None, champion=None).promote
    with pytest.raises(ValueError, match="needs the gain in mask AP"):
        gain(None)


def test_a_gain_that_cannot_be_measured_promotes_nothing_and_is_written_as_json() -> None:
    nan = float("nan")
    for interval in ((nan, nan, nan), (0.05, nan, nan)):
        decision = gain(interval)
        assert not decision.promote
        assert "cannot be compared" in decision.reason
        assert json.loads(json.dumps(decision.as_dict(), allow_nan=False))["high"] is None


def test_promotion_and_rollback_move_both_models_together(mlflow_uri: str, candidates: Any) -> None:
    first = conclude(mlflow_uri, candidates(1, 1), FIRST)
    assert first["promote"]
    assert {row["name"]: row["aliases"] for row in first["models"]} == both(["champion"])
    kept = conclude(mlflow_uri, candidates(2, 2), WORSE)
    assert aliases(mlflow_uri) == both({"champion": "1"})
    assert "does not exceed" in kept["reason"]
    conclude(mlflow_uri, candidates(3, 3), BETTER)
    assert aliases(mlflow_uri) == both({"champion": "3", "previous": "1"})
    tags = client(mlflow_uri).get_model_version(NAMES[1], "3").tags
    assert tags["gate.decision"] == "promoted"
    assert tags["promoted_at"]
    assert json.loads(tags["gate.numbers"])["gain"] == 1.0
    registry.rollback(mlflow_uri, NAMES)
    assert aliases(mlflow_uri) == both({"champion": "1", "previous": "3"})
    assert client(mlflow_uri).get_model_version(NAMES[0], "3").tags["rolled_back_at"]


def test_rollback_restores_the_pair_where_only_the_classifier_changed(
    mlflow_uri: str, candidates: Any
) -> None:
    for encoder, classifier in ((1, 1), (2, 2), (2, 3)):
        conclude(mlflow_uri, candidates(encoder, classifier), BETTER)
    registry.rollback(mlflow_uri, NAMES)
    assert {name: found["champion"] for name, found in aliases(mlflow_uri).items()} == dict(
        zip(NAMES, "22", strict=True)
    )


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: from now on, the n-th call of a method of MLflow's client kills; None: no more."""
    from mlflow.tracking import MlflowClient

    def arm(method: str, number: int | None) -> None:
        monkeypatch.undo()
        calls, real = [], getattr(MlflowClient, method)

        def call(*given: Any, **named: Any) -> Any:
            calls.append(given)
            if len(calls) == number:
                raise KeyboardInterrupt
            return real(*given, **named)

        monkeypatch.setattr(MlflowClient, method, call)

    return arm


# Where a promotion of two models may be killed: before any alias moved, between the pairs, before the tags.
KILLS = [("set_registered_model_alias", number) for number in (1, 2, 4)] + [
    ("set_model_version_tag", 1),
    ("delete_registered_model_tag", 1),
]


@pytest.mark.parametrize(("method", "number"), KILLS)
def test_a_promotion_that_was_killed_is_finished_before_the_next_decision(
    method: str, number: int, mlflow_uri: str, candidates: Any, killed_at: Any
) -> None:
    conclude(mlflow_uri, candidates(1, 1), FIRST)
    done = candidates(2, 2)
    killed_at(method, number)
    with pytest.raises(KeyboardInterrupt):
        conclude(mlflow_uri, done, BETTER)
    killed_at(method, None)
    assert set(champions(mlflow_uri).values()) <= {"1", "2", None}  # there is a champion at every moment
    assert registry.finish(mlflow_uri, NAMES) == "promotion"
    assert aliases(mlflow_uri) == both({"champion": "2", "previous": "1"})
    tags = client(mlflow_uri).get_model_version(NAMES[1], "2").tags
    assert (tags["gate.decision"], "gate.numbers" in tags) == ("promoted", True)
    assert registry.finish(mlflow_uri, NAMES) is None


def test_a_rollback_that_was_killed_is_finished_and_not_undone(
    mlflow_uri: str, candidates: Any, killed_at: Any
) -> None:
    conclude(mlflow_uri, candidates(1, 1), FIRST)
    conclude(mlflow_uri, candidates(2, 2), BETTER)
    for number in (3, 4):  # of four aliases to set: the champions are the last two
        killed_at("set_registered_model_alias", number)
        with pytest.raises(KeyboardInterrupt):
            registry.rollback(mlflow_uri, NAMES)
        killed_at("set_registered_model_alias", None)
        rows = registry.rollback(mlflow_uri, NAMES)
        assert aliases(mlflow_uri) == both({"champion": "1", "previous": "2"})
        assert {(row["name"], row["version"]) for row in rows if row["aliases"] == ["champion"]} == {
            (name, "1") for name in NAMES
        }
        registry.rollback(mlflow_uri, NAMES)  # the other way, for the next kill


def test_what_was_decided_about_an_unchanged_candidate_can_be_read_again(
    mlflow_uri: str, candidates: Any
) -> None:
    outcome = conclude(mlflow_uri, candidates(1, 1), FIRST)
    assert registry.recorded(mlflow_uri, candidates(1, 1)) == outcome
    conclude(mlflow_uri, candidates(2, 2), BETTER)
    registry.rollback(mlflow_uri, NAMES)
    assert registry.recorded(mlflow_uri, candidates(2, 2))["promote"]
    assert aliases(mlflow_uri) == both({"champion": "1", "previous": "2"})


def test_an_encoder_keeps_the_record_of_its_promotion_when_a_second_classifier_loses(
    mlflow_uri: str, candidates: Any
) -> None:
    conclude(mlflow_uri, candidates(1, 1), FIRST)
    second = candidates(1, 2)
    second["encoder"] = replace(second["encoder"], decided=True)
    conclude(mlflow_uri, second, WORSE)
    tags = {name: client(mlflow_uri).get_model_version(name, number).tags
            for name, number in zip(NAMES, "12", strict=True)}  # fmt: skip
    assert [tags[name]["gate.decision"] for name in NAMES] == ["promoted", "kept the champion"]


def test_without_labels_only_the_first_encoder_is_promoted(mlflow_uri: str, candidates: Any) -> None:
    for number in (1, 2):
        alone = {"encoder": candidates(number, 1)["encoder"]}
        first = registry.champion_version(mlflow_uri, NAMES[0]) is None
        outcome = conclude(mlflow_uri, alone, registry.decide_without_labels(first=first))
        assert outcome["promote"] is first
        assert (outcome["challenger"], "no labels" in outcome["reason"]) == (None, True)
    assert aliases(mlflow_uri)[NAMES[0]] == {"champion": "1"}


def test_rollback_without_a_previous_champion_changes_nothing(mlflow_uri: str, candidates: Any) -> None:
    conclude(mlflow_uri, candidates(1, 1), FIRST)
    with pytest.raises(registry.RegistryError, match="no previous champion"):
        registry.rollback(mlflow_uri, NAMES)
    assert aliases(mlflow_uri) == both({"champion": "1"})


def detector(uri: str, number: int) -> dict[str, Registered]:
    """A version made without any model behind it."""
    store = client(uri)
    if number == 1:
        store.create_registered_model("mae-detector")
    store.create_model_version("mae-detector", source="/tmp/none")
    return {"detector": Registered("mae-detector", str(number), "m", "d", True, False)}


def champions(uri: str) -> dict[str, str | None]:
    return {name: registry.champion_version(uri, name) for name in (*NAMES, "mae-detector")}


def test_a_champion_that_came_during_an_evaluation_is_not_replaced_unseen(
    mlflow_uri: str, candidates: Any
) -> None:
    conclude(mlflow_uri, candidates(1, 1), FIRST)
    against = both("1")
    slow = candidates(2, 2)
    conclude(mlflow_uri, candidates(3, 3), BETTER)
    for decision in (BETTER, WORSE):
        with pytest.raises(registry.Overtaken, match="mae-encoder: version 3 is champion now, not 1"):
            registry.conclude(mlflow_uri, slow, decision, against)
    assert champions(mlflow_uri) == both("3") | {"mae-detector": None}


def test_a_detector_is_promoted_alone_by_its_own_decision(mlflow_uri: str, candidates: Any) -> None:
    conclude(mlflow_uri, candidates(1, 1), FIRST)
    outcome = conclude(mlflow_uri, detector(mlflow_uri, 1), gain(None, champion=None))
    assert [row["name"] for row in outcome["models"]] == ["mae-detector"]
    conclude(mlflow_uri, candidates(2, 2), WORSE)
    better = detector(mlflow_uri, 2)
    outcome = conclude(mlflow_uri, better, gain((0.05, 0.02, 0.08)))
    assert registry.recorded(mlflow_uri, better) == outcome
    assert outcome["figure"] == "mask AP"
    assert champions(mlflow_uri) == both("1") | {"mae-detector": "2"}


def test_a_detector_goes_back_alone(mlflow_uri: str, candidates: Any) -> None:
    for number in (1, 2):
        conclude(mlflow_uri, candidates(number, number), BETTER)
        conclude(mlflow_uri, detector(mlflow_uri, number), gain((0.05, 0.02, 0.08)))
    registry.rollback(mlflow_uri, ["mae-detector"])
    assert champions(mlflow_uri) == both("2") | {"mae-detector": "1"}


def test_a_registry_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    began = time.monotonic()
    with pytest.raises(registry.RegistryError, match=r"registry at http://127\.0\.0\.1:9"):
        registry.champion_version("http://127.0.0.1:9", NAMES[0])
    assert time.monotonic() - began < 10


def test_a_registry_in_a_database_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(registry.RegistryError, match=r"mlflow\.db cannot be opened .*MLFLOW_TRACKING_URI"):
        registry.champion_version(f"sqlite:///{tmp_path}/mlflow.db", NAMES[0])


def test_no_error_of_a_registry_has_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(registry.RegistryError, match="registry at http://127") as caught:
        registry.champion_version(f"http://user:{'hu' + 'sh'}@127.0.0.1:9", NAMES[0])
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_importing_the_registry_imports_no_mlflow() -> None:
    code = "import sys, mae.registry; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
