"""The steps of a retraining, with stand-ins for stages and commands: no Prefect server, no training."""

import json
import shutil

import pytest
from prefect.logging import disable_run_logger

from mae import config
from pipelines.retraining import steps
from pipelines.retraining.steps import Retraining
from pipelines.stage_outcome import Outcome
from pipelines.working_copy.params_override import ParamsOverride

CHAMPION = "work/retrain/champion/cafe.safetensors"


class World:
    """A working copy in which a stage does what the test says."""

    def __init__(self, root, drift):
        self.root, self.drift = root, drift
        self.images, self.scenes = "first", "first"  # what is listed
        self.rejected = []
        self.promote, self.version = True, 0
        self.fails, self.unusable = set(), set()
        self.ran, self.params, self.pages = [], None, {}
        self.champion = "cafe"

    def run_stages(self, root, settings, *, targets=None, skip=()):
        del settings
        order = list(config.read_yaml(root / "dvc.yaml")["stages"])
        wanted = [name for name in order if (targets is None or name in targets) and name not in skip]
        return [self.stage(name) for name in wanted]

    def stage(self, name):
        self.ran.append(name)
        if "pretrain" in self.fails and name in ("register", "report"):
            return Outcome(name, "Skipped")
        if name in self.fails:
            return Outcome(name, "Failed", message=f"{name} broke")
        if name in self.unusable:
            return Outcome(name, "Rejected", message="1 image cannot be used: cat/broken.jpg")
        if name in ("ingest", "ingest_detect"):
            folder, text = (
                ("data/ingest", self.images) if name == "ingest" else ("data/detect/ingest", self.scenes)
            )
            self.write(f"{folder}/listing.tsv", text)
            manifest = {"kind": "folder", "fingerprint": text, "splits": {"train": {"count": 500}}}
            self.write(f"{folder}/manifest.json", json.dumps(manifest))
        if name.startswith("shard"):
            folder = "data/shards" if name == "shard" else "data/detect/shards"
            self.write(
                f"{folder}/rejected.json", json.dumps({"rejected": [{"path": p} for p in self.rejected]})
            )
        if name == "pretrain":
            self.params = config.load(self.root / "params.yaml")
        if name == "register":
            self.decide()
        return Outcome(name, "Ran", 1.0)

    def decide(self):
        self.version += 1
        about = {"promote": self.promote, "reason": "measured", "figure": "accuracy", "samples": 9}
        about |= dict.fromkeys(("challenger", "champion", "gain", "low", "high"), 0.5)
        who = ["challenger", *(["champion"] if self.promote else [])]
        model = {"name": "mae-encoder", "version": str(self.version), "model_id": f"m-{self.version}"}
        about["models"] = [{**model, "aliases": who}]
        self.write("reports/register/decision.json", json.dumps({"encoder": about}))

    def write(self, name, text):
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def run_mae(self, root, command, *arguments, none=None):
        del none
        if command == "champion":
            if self.version == 0:
                return []
            file = CHAMPION.replace("cafe", self.champion)
            self.write(file, "weights")
            return [str(root / file)]
        assert command == "drift"
        self.write("work/retrain/drift/drift.json", json.dumps(self.drift))
        return []


@pytest.fixture
def world(project, tmp_path, monkeypatch, drifted, empty_repo):
    shutil.copytree(empty_repo, tmp_path, dirs_exist_ok=True)
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    stages = config.read_yaml(project / "dvc.yaml")["stages"]
    names = ("versions", "ingest", "shard", "pretrain", "ingest_detect", "shard_detect", "register", "report")
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {name: stages[name] for name in names}}))
    world = World(tmp_path, drifted())
    monkeypatch.setattr(steps, "run_stages", world.run_stages)
    monkeypatch.setattr(steps, "run_mae", world.run_mae)
    monkeypatch.setattr(steps.artifacts, "stages_table", lambda outcomes: None)
    monkeypatch.setattr(steps.artifacts, "report_pictures", lambda root: None)
    page = lambda text, key, description: world.pages.update({key: text})  # noqa: E731
    monkeypatch.setattr(steps, "create_markdown_artifact", page)
    with disable_run_logger():
        yield world


def retrain(world, start=None, force=False, **overrides):
    world.ran, world.params = [], None
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return Retraining(world.root).run(start, keys, force)


@pytest.fixture
def decided(world):
    """A first champion, and new images."""
    assert retrain(world).name == "Promoted"
    world.images, world.version, world.promote = "second", 7, False
    world.decide()
    return world


def init(world):
    return config.load(world.root / "params.yaml").pretrain.init


def test_the_first_time_everything_is_trained_on_from_scratch(world):
    state = retrain(world)
    assert (state.name, state.message) == ("Promoted", "encoder: promoted: measured")
    assert sorted(world.ran) == sorted(config.read_yaml(world.root / "dvc.yaml")["stages"])  # each once
    assert world.params.pretrain.init is None


def test_the_same_data_is_not_trained_on_again_unless_forced(world):
    retrain(world)
    state = retrain(world)
    assert (state.name, state.is_completed(), world.ran) == (
        "Unchanged data", True, ["ingest", "ingest_detect"]
    )  # fmt: skip
    assert retrain(world, force=True).name == "Promoted"
    assert world.params.pretrain.init == CHAMPION


def test_a_challenger_that_loses_leaves_params_as_they_were(decided):
    before = (decided.root / "params.yaml").read_bytes()
    state = retrain(decided, pretrain__base_lr=0.25)
    assert (state.name, state.is_completed()) == ("Champion kept", True)
    assert (decided.params.pretrain.init, decided.params.pretrain.base_lr) == (CHAMPION, 0.25)
    assert (decided.root / "params.yaml").read_bytes() == before
    assert "champion kept" in decided.pages["decision"]
    assert retrain(decided).name == "Unchanged data"


def test_params_keep_the_settings_of_a_new_champion(decided):
    decided.promote = True
    assert retrain(decided, pretrain__base_lr=0.5).name == "Promoted"
    assert init(decided) == CHAMPION
    assert config.load(decided.root / "params.yaml").pretrain.base_lr == 0.5


def test_from_scratch_is_a_choice_of_the_run(decided):
    retrain(decided, start="scratch")
    assert decided.params.pretrain.init is None


def test_a_stage_that_fails_undoes_the_settings_and_the_next_run_goes_on(decided):
    for stage in ("ingest", "shard", "pretrain"):
        decided.fails = {stage}
        state = retrain(decided)
        assert state.is_failed()
        assert f"{stage} Failed: {stage} broke" in state.message
        assert "the champion is the same" in state.message
        assert init(decided) is None
    decided.fails = set()
    assert retrain(decided).name == "Champion kept"
    assert decided.params.pretrain.init == CHAMPION


def test_a_training_that_did_not_end_goes_on_with_its_data_and_its_origin(decided):
    decided.fails = {"pretrain"}
    retrain(decided)
    decided.images, decided.fails, decided.champion = "third", set(), "other"
    state = retrain(decided)
    assert state.name == "Champion kept"
    assert decided.ran == ["versions", "shard", "pretrain", "shard_detect", "register", "report"]
    assert decided.params.pretrain.init == CHAMPION
    assert (decided.root / "data/ingest/listing.tsv").read_text() == "second"
    assert retrain(decided).name == "Champion kept"  # the next one takes what came meanwhile
    assert (decided.root / "data/ingest/listing.tsv").read_text() == "third"
    assert decided.params.pretrain.init == CHAMPION.replace("cafe", "other")


@pytest.mark.parametrize("fresh", [{"force": True}, {"start": "scratch"}])
def test_a_training_that_did_not_end_starts_over_on_request(decided, fresh):
    decided.fails = {"pretrain"}
    retrain(decided)
    decided.images, decided.fails = "third", set()
    retrain(decided, **fresh)
    assert (decided.root / "data/ingest/listing.tsv").read_text() == "third"


def test_a_training_whose_listing_was_made_again_starts_over(decided):
    decided.fails = {"pretrain"}
    retrain(decided)
    decided.images, decided.fails = "third", set()
    decided.stage("ingest")
    assert retrain(decided).name == "Champion kept"
    assert decided.ran[:2] == ["ingest", "ingest_detect"]


def test_a_training_whose_origin_somebody_removed_starts_over(decided):
    decided.fails = {"pretrain"}
    retrain(decided)
    (decided.root / CHAMPION).unlink()
    decided.fails = set()
    assert retrain(decided).name == "Champion kept"
    assert decided.ran[:2] == ["ingest", "ingest_detect"]
    assert decided.params.pretrain.init == CHAMPION


def test_a_gate_that_was_broken_off_says_no_word_of_the_champion_and_is_asked_again(decided):
    decided.promote, decided.fails = True, {"register"}
    state = retrain(decided)
    assert state.message.endswith("(the gate had begun; run again to continue)")
    decided.champion, decided.fails = "new", set()  # it had promoted
    assert retrain(decided).name == "Promoted"
    assert decided.params.pretrain.init == CHAMPION
    assert retrain(decided).name == "Unchanged data"


def test_a_download_of_the_champion_that_was_killed_is_cleared_away(decided):
    left = decided.root / "work/retrain/champion/tmpabcd"
    left.mkdir(parents=True)
    (left / "part").touch()
    assert retrain(decided).name == "Champion kept"
    assert not left.exists()


def test_a_file_that_the_sharding_refuses_is_suspect_data_named_and_kept_from_training(decided):
    decided.unusable = {"shard"}
    decided.ran.clear()
    state = retrain(decided, force=True)
    assert (state.name, state.is_failed()) == ("Suspect data", True)
    assert state.message.startswith("1 image cannot be used: cat/broken.jpg. Nothing was trained")
    assert "until then `reproduce`" in state.message
    assert "pretrain" not in decided.ran
    decided.unusable = set()
    assert retrain(decided).name == "Champion kept"


def test_too_few_images_are_no_reason_but_annotated_ones_are(decided, drifted):
    decided.drift = drifted(counts={"new": 3})
    state = retrain(decided)
    assert (state.name, state.is_completed()) == ("Too few new images", True)
    assert "3 new, 0 changed, 0 removed; retrain.min_new is 100" in state.message
    decided.scenes = "more"
    assert retrain(decided).name == "Champion kept"
    assert retrain(decided, retrain__min_new=1).name == "Unchanged data"


def test_where_only_annotated_images_changed_pretraining_stays_as_it_is(decided):
    retrain(decided)
    decided.scenes = "more"
    assert retrain(decided).name == "Champion kept"
    assert decided.ran == ["ingest", "ingest_detect", "shard", "shard_detect", "register", "report"]


def test_suspect_data_is_not_even_sharded_unless_forced(decided, drifted):
    decided.drift = drifted(images={"shift": 1.0, "p": 0.0})
    state = retrain(decided)
    assert (state.name, state.is_failed()) == ("Suspect data", True)
    assert "contrast shifted by 1.00" in state.message
    assert "contrast shifted by 1.00" in decided.pages["drift"]
    assert decided.ran == ["ingest", "ingest_detect"]
    assert retrain(decided, force=True).name == "Champion kept"


def test_bounds_can_be_set_for_one_run(decided, drifted):
    decided.drift = drifted(images={"shift": 0.6, "p": 0.0})
    assert retrain(decided).name == "Suspect data"
    assert retrain(decided, retrain__max_image_shift=0.7).name == "Champion kept"


def test_too_many_rejected_images_stop_before_training(decided):
    decided.rejected = [f"{number}.jpg" for number in range(50)]
    state = retrain(decided)
    assert state.name == "Suspect data"
    assert "50 of 200 new images were rejected, 25%" in state.message
    assert "pretrain" not in decided.ran
    assert init(decided) is None


def test_a_decision_counts_though_a_later_stage_failed(decided):
    decided.fails = {"report"}
    state = retrain(decided)
    assert state.is_failed()
    assert "report Failed: report broke" in state.message
    assert "the champion stays" in state.message
    decided.fails = set()
    assert retrain(decided).name == "Unchanged data"


@pytest.mark.parametrize("promote", [True, False])
def test_a_kill_after_the_gate_decided_loses_nothing(decided, promote):
    """As kill -9 leaves it: settings written, the gate's decision written, the decision not recorded."""

    class Killed(BaseException):
        pass

    decided.promote, former = promote, decided.stage

    def until_report(name):
        if name == "report":
            raise Killed
        return former(name)

    decided.stage = until_report
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ParamsOverride, "restore", lambda self: None)
        with pytest.raises(Killed):
            retrain(decided)
    decided.stage = former
    assert init(decided) == CHAMPION
    assert retrain(decided).name == "Unchanged data"
    assert init(decided) == (CHAMPION if promote else None)
