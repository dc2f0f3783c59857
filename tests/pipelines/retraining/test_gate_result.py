"""A decision of the gate is distinguished from an earlier one, and people are notified."""

import json

import pytest

from pipelines.retraining import gate_result


def outcome(version, *, promote, champion_is=None, store="", **other):
    """Make the entry that `register` writes for a model, just promoted unless another one is champion."""
    if champion_is is None:
        champion_is = version if promote else "1"
    aliases = {version: ["challenger"]}
    aliases[champion_is] = ["champion", *aliases.get(champion_is, [])]
    return {
        "promote": promote,
        "reason": "gain +0.0100",
        "figure": "accuracy",
        "challenger": 0.81,
        "champion": 0.8,
        "gain": 0.01,
        "low": 0.005,
        "high": 0.015,
        "samples": 100,
        "models": [
            {"name": "mae-encoder", "version": number, "model_id": f"m-{store}{number}", "aliases": who}
            for number, who in aliases.items()
        ],
        **other,
    }


@pytest.fixture
def decide(tmp_path):
    def write(**outcomes):
        file = tmp_path / gate_result.DECISION
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(outcomes))

    return write


def test_a_decision_of_an_earlier_run_promotes_nothing_now(tmp_path, decide):
    decide(encoder=outcome("2", promote=True))
    gate_result.begin(tmp_path, tmp_path, {})
    (found,) = gate_result.gate_results(tmp_path, tmp_path)
    assert not found.new
    assert not found.promoted
    assert str(found) == "encoder: the same model as before"
    decide(encoder=outcome("3", promote=True))
    (found,) = gate_result.gate_results(tmp_path, tmp_path)
    assert found.promoted


def test_a_first_champion_is_promoted_in_a_fresh_clone_which_has_the_decision_of_another_registry(
    tmp_path, decide
):
    decide(encoder=outcome("1", promote=True, store="theirs"))
    gate_result.begin(tmp_path, tmp_path, {})
    decide(encoder=outcome("1", promote=True, store="ours"))
    (found,) = gate_result.gate_results(tmp_path, tmp_path)
    assert found.promoted


def test_a_model_made_again_that_was_replaced_as_champion_is_not_promoted(tmp_path, decide):
    """The images are those of an earlier run again, for example: the record of that model says promoted."""
    decide(encoder=outcome("2", promote=True))
    gate_result.begin(tmp_path, tmp_path, {})
    decide(encoder=outcome("1", promote=True, champion_is="2"))
    (found,) = gate_result.gate_results(tmp_path, tmp_path)
    assert found.new
    assert not found.promoted
    assert "was champion before, and was replaced" in str(found)


def test_a_run_that_goes_on_after_a_kill_asks_what_was_decided_since_the_first(tmp_path, decide):
    gate_result.begin(tmp_path, tmp_path, {})  # before anything was ever decided
    decide(encoder=outcome("1", promote=True))
    gate_result.begin(tmp_path, tmp_path, {})
    assert gate_result.gate_results(tmp_path, tmp_path)[0].promoted
    assert gate_result.is_unfinished(tmp_path)
    gate_result.close(tmp_path)
    assert not gate_result.is_unfinished(tmp_path)


def test_the_page_has_the_figures_the_interval_and_who_is_what(tmp_path, decide):
    gate_result.begin(tmp_path, tmp_path, {})
    first = {"champion": None, "gain": None, "low": None, "high": None}
    decide(encoder=outcome("2", promote=False), detector=outcome("1", promote=True, **first))
    text = gate_result.decision_page(gate_result.gate_results(tmp_path, tmp_path))
    assert "| 0.8000 | 0.8100 | +0.0100 (+0.0050 to +0.0150) | 100 | champion kept |" in text
    assert "|  | 0.8100 |  | 100 | promoted |" in text
    assert "mae-encoder 1: champion" in text


def test_a_notification_goes_to_the_log_and_to_the_block_named(prefect_server):
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    said = []
    gate_result.notify(None, "retrain: Promoted", "better", said.append)
    assert said == ["retrain: Promoted: better"]
    # Nobody listens there: a chat that is away undoes nothing.
    block = CustomWebhookNotificationBlock(
        name="team",
        url="http://127.0.0.1:9/",
        json_data={"text": "{{subject}}: {{body}}"},
        allow_private_urls=True,
    )
    block.save("team", overwrite=True)
    gate_result.notify("custom-webhook/team", "retrain: Promoted", "better", said.append)
    assert "custom-webhook/team could not send" in said[-1]
    gate_result.notify("slack-webhook/nobody", "retrain: Promoted", "better", said.append)
    assert "slack-webhook/nobody could not send" in said[-1]


def test_a_damaged_decision_is_as_none(tmp_path, decide):
    decide()
    (tmp_path / gate_result.DECISION).write_text("<<<<<<< ours")
    gate_result.begin(tmp_path, tmp_path, {})
    decide(encoder=outcome("1", promote=True))
    (found,) = gate_result.gate_results(tmp_path, tmp_path)
    assert found.promoted
