"""Stages as task runs: order, states, retries and time-outs; no stage runs without need."""

import time
from collections import Counter

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run

from mae.config import StageFlow
from pipelines.stage_tasks import run_stages

pytestmark = pytest.mark.usefixtures("prefect_server")
FORK = {
    "top": ("true", []),
    "good": ("true", ["top"]),
    "bad": ("echo it is broken >&2; exit 3", ["top"]),
    "below_bad": ("true", ["bad"]),
    "further_below": ("true", ["below_bad", "good"]),
    "below_good": ("true", ["good"]),
}


@flow
def whole(root, settings, kwargs):
    return str(flow_run.id), run_stages(root, settings, **kwargs)


@pytest.fixture
def reproduce():
    """A function that runs the stages in a flow: stage -> outcome, and stage -> its task run in Prefect."""

    def run(root, settings, **kwargs):
        run_id, outcomes = whole(root, settings, kwargs)
        with get_client(sync_client=True) as client:
            only = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
            deadline = time.monotonic() + 120  # the server learns of task runs a little later
            while True:
                runs = client.read_task_runs(flow_run_filter=only)
                ended = [run for run in runs if run.state and run.state.is_final()]
                if len(ended) == len(outcomes) or time.monotonic() > deadline:
                    break
                time.sleep(0.2)
        return {outcome.stage: outcome for outcome in outcomes}, {run.name: run for run in runs}

    return run


def states(outcomes):
    return {name: outcome.state for name, outcome in outcomes.items()}


def test_a_stage_that_refuses_its_data_says_so_and_is_not_tried_again(repo, leaving, settings, reproduce):
    said = "echo a.jpg cannot be read >&2; echo again >> tries; exit 4"
    folder = repo({"shard": (leaving(said), [])})
    outcomes, runs = reproduce(folder, settings(retries=2))
    assert states(outcomes) == {"shard": "Rejected"}
    assert outcomes["shard"].message == "a.jpg cannot be read"
    assert runs["shard"].state.name == "Rejected"
    assert (folder / "tries").read_text() == "again\n"


def test_a_failing_stage_stops_what_depends_on_it_and_nothing_else(repo, settings, reproduce):
    outcomes, runs = reproduce(repo(FORK), settings())
    assert states(outcomes) == {
        "top": "Ran",
        "good": "Ran",
        "bad": "Failed",
        "below_bad": "Skipped",
        "further_below": "Skipped",
        "below_good": "Ran",
    }
    assert outcomes["bad"].message.startswith("it is broken - ")  # then DVC's own line
    assert outcomes["further_below"].message == "bad failed"
    shown = {name: (run.state.name, run.state.type.value) for name, run in runs.items()}
    assert shown["good"] == ("Ran", "COMPLETED")
    assert shown["bad"] == ("Failed", "FAILED")
    assert shown["further_below"] == ("Skipped", "CANCELLED")
    assert runs["further_below"].state.message == "bad failed"


def test_run_again_only_what_is_missing_runs_and_the_cache_restores(repo, leaving, settings, reproduce):
    stages = {
        "shard": (leaving("true"), []),
        "pretrain": (leaving("true"), ["shard"]),
        "linear": (leaving("exit 3"), ["shard"]),
        "report": (leaving("true"), ["linear"]),
    }
    folder = repo(stages)
    reproduce(folder, settings())
    (folder / "pretrain").unlink()
    repo(stages | {"linear": (leaving("true"), ["shard"])})
    outcomes, runs = reproduce(folder, settings())
    expected = {"shard": "Unchanged", "pretrain": "Restored", "linear": "Ran", "report": "Ran"}
    assert states(outcomes) == expected
    assert {name: run.state.name for name, run in runs.items()} == expected


def test_a_record_of_an_earlier_run_says_nothing_of_this_one(repo, leaving, settings, reproduce):
    folder = repo({"shard": (leaving("echo unreadable >&2; exit 4"), [])})
    reproduce(folder, settings())
    (folder / "dvc.yaml").write_text("stages: {shard: {cmd: 'true', deps: [missing], outs: [shard]}}")
    outcome = reproduce(folder, settings())[0]["shard"]
    assert outcome.state == "Failed"
    assert "missing" in outcome.message
    assert "unreadable" not in outcome.message


def test_a_stage_whose_process_is_killed_has_failed_and_says_so(repo, leaving, settings, reproduce):
    folder = repo({"pretrain": (leaving("kill -9 $PPID"), [])})
    outcome = reproduce(folder, settings())[0]["pretrain"]
    assert (outcome.state, outcome.message) == ("Failed", "the process of pretrain was killed")


def test_a_stage_added_to_dvc_yaml_is_run(repo, settings, reproduce):
    reproduce(repo(FORK), settings(), targets=["good"])
    outcomes, _ = reproduce(repo(FORK | {"new": ("true", ["good"])}), settings(), targets=["new"])
    assert states(outcomes) == {"top": "Unchanged", "good": "Unchanged", "new": "Ran"}


def test_by_hand_and_by_the_flow_the_lock_file_is_the_same(repo, settings, reproduce, dvc):
    folder = repo({name: FORK[name] for name in ("top", "good")})
    reproduce(folder, settings())
    by_flow = (folder / "dvc.lock").read_bytes()
    assert "up to date" in dvc(folder, "repro")
    (folder / "dvc.lock").unlink()
    dvc(folder, "repro", "--force", "--no-run-cache")
    assert sorted(by_flow.splitlines()) == sorted((folder / "dvc.lock").read_bytes().splitlines())


def test_what_the_caller_has_just_run_is_not_run_again(repo, settings, reproduce):
    outcomes, _ = reproduce(repo(FORK), settings(), targets=["below_good"], skip=["top"])
    # `top` was not run, so DVC misses its output.
    assert states(outcomes) == {"good": "Failed", "below_good": "Skipped"}


def meet(other):
    """Ends well only if the other one starts before this one ends."""
    return f"touch $DVC_STAGE.on && timeout 10 sh -c 'until test -e {other}.on; do sleep 0.1; done'"


def test_independent_stages_run_side_by_side_up_to_the_limit(repo, settings, reproduce):
    folder = repo({"left": (meet("right"), []), "right": (meet("left"), [])})
    assert set(states(reproduce(folder, settings(parallel=2))[0]).values()) == {"Ran"}


ALONE = "mkdir busy && sleep 1 && rmdir busy"


def test_no_more_stages_than_the_limit_run_at_a_time(repo, settings, reproduce):
    folder = repo({name: (ALONE, []) for name in "ab"})
    assert set(states(reproduce(folder, settings(parallel=1))[0]).values()) == {"Ran"}


def test_one_training_at_a_time_where_no_devices_are_named(repo, leaving, settings, reproduce):
    folder = repo({name: (leaving(ALONE), []) for name in ("pretrain", "linear")})
    assert set(states(reproduce(folder, settings(parallel=3))[0]).values()) == {"Ran"}


def test_a_training_without_a_device_keeps_no_other_stage_from_running(repo, leaving, settings, reproduce):
    trainings = {"pretrain": (leaving(meet("other")), []), "linear": (leaving("true"), [])}
    folder = repo(trainings | {"other": (meet("pretrain"), [])})
    assert set(states(reproduce(folder, settings(parallel=2))[0]).values()) == {"Ran"}


def test_each_training_gets_a_device_of_its_own(repo, leaving, settings, reproduce):
    alone = "mkdir on-$CUDA_VISIBLE_DEVICES && sleep 2 && rmdir on-$CUDA_VISIBLE_DEVICES"
    noted = f"echo $CUDA_VISIBLE_DEVICES >> devices; {alone}"
    folder = repo({name: (leaving(noted), []) for name in ("pretrain", "linear", "finetune", "scratch")})
    outcomes, _ = reproduce(folder, settings(parallel=4, devices=[3, 5]))
    assert set(states(outcomes).values()) == {"Ran"}
    assert Counter((folder / "devices").read_text().split()) == {"3": 2, "5": 2}


def test_a_stage_that_fails_is_tried_again_as_often_as_its_settings_say(repo, settings, reproduce):
    folder = repo({"shaky": ("echo x >> tries; test $(wc -l < tries) -ge 3", [])})
    more = StageFlow(retries=2, retry_delay=0.0, timeout=None)
    outcomes, runs = reproduce(folder, settings(stages={"shaky": more}))
    assert outcomes["shaky"].state == "Ran"
    assert runs["shaky"].run_count == 3


def test_a_stage_past_its_time_is_ended_and_says_so(repo, settings, reproduce):
    folder = repo({"endless": ("sleep 300", []), "after": ("true", ["endless"])})
    short = StageFlow(retries=0, retry_delay=0.0, timeout=3.0)
    outcomes, runs = reproduce(folder, settings(stages={"endless": short}))
    assert states(outcomes) == {"endless": "TimedOut", "after": "Skipped"}
    assert "the limit of 3 s is over" in outcomes["endless"].message
    assert outcomes["endless"].seconds < 300  # ended before it would end by itself
    assert runs["endless"].state.name == "TimedOut"


def test_a_stage_that_is_ended_while_dvc_writes_its_lock_file_keeps_no_other_from_running(
    repo, settings, reproduce
):
    stages = {"first": ("true", []), "cut": ("echo stages > dvc.lock; sleep 300", ["first"])}
    reproduce(repo(stages), settings(), targets=["first"])
    folder = repo(stages | {"next": ("true", ["first"])})
    short = StageFlow(retries=0, retry_delay=0.0, timeout=3.0)
    outcomes = reproduce(folder, settings(stages={"cut": short}), targets=["cut"])[0]
    outcomes |= reproduce(folder, settings(), targets=["next"])[0]
    assert states(outcomes) == {"first": "Unchanged", "cut": "TimedOut", "next": "Ran"}


def test_a_stage_that_saved_and_ended_was_interrupted_and_goes_on_in_the_next_attempt(
    repo, leaving, settings, reproduce
):
    folder = repo({"train": (leaving("test -e saved || { touch saved; exit 75; }"), [])})
    assert states(reproduce(folder, settings())[0]) == {"train": "Interrupted"}
    assert states(reproduce(folder, settings())[0]) == {"train": "Ran"}
