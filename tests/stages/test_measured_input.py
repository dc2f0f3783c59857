"""`input.mean: auto`: the stages that read it, from the shards to the weights that they write."""

import json

import pytest
from stages.tiny import run, write_tiny_params

from mae import config, interchange
from mae.data.shards.index import Index
from mae.stages.context import measured_input
from mae.stages.context.measured_input import with_measured_input

METHOD, ENCODER = "models/pretrain/method.safetensors", "models/pretrain/encoder.safetensors"


@pytest.fixture(scope="module")
def pretrained(project, tmp_path_factory, migrated_store):
    """A folder in which images were listed, sharded and trained on, with measured colours; its params."""
    folder = tmp_path_factory.mktemp("measured")
    params = write_tiny_params(folder, project, migrated_store, "input={mean: auto, std: auto}")
    run(folder, params, "ingest", "shard", "pretrain")
    return folder, params


@pytest.fixture
def measured(pretrained, monkeypatch):
    """Measure the input of a stage in that folder."""
    folder, params = pretrained
    monkeypatch.chdir(folder)

    def of(stage="pretrain", **input_):
        return with_measured_input(stage, params.model_copy(update=input_)).input.numbers

    return of


def test_what_was_measured_is_in_the_weights_the_record_and_next_to_the_shards(pretrained):
    folder, _ = pretrained
    kept = json.loads((folder / "data/shards/colours.json").read_text())
    assert kept["index"] == Index.open(folder / "data/shards").digest
    assert kept["images"] == 60
    numbers = {"mean": kept["mean"], "std": kept["std"]}
    assert numbers["mean"] != [0.485, 0.456, 0.406]
    encoder = interchange.load_encoder(folder / ENCODER)[1]
    assert {name: encoder[name] for name in numbers} == numbers
    assert json.loads((folder / "reports/pretrain/run.json").read_text())["params"]["input"] == numbers


def test_later_stages_take_the_same_numbers_without_measuring_again(pretrained, measured, monkeypatch):
    monkeypatch.setattr(measured_input, "measure_colours", None)
    kept = json.loads((pretrained[0] / "data/shards/colours.json").read_text())
    assert measured("scratch") == {"mean": kept["mean"], "std": kept["std"]}


def test_other_shards_are_measured_anew(pretrained, measured):
    file = pretrained[0] / "data/shards/colours.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"index": "another", "mean": [0.1, 0.1, 0.1]}))
    measured()
    assert json.loads(file.read_text()) == json.loads(before)


def test_training_on_takes_the_numbers_of_its_weights_where_they_are_near(pretrained, measured, tmp_path):
    _, params = pretrained
    state, about = interchange.open_weights(METHOD)
    numbers = measured()
    for shift, taken in ((0.01, True), (0.1, False)):
        theirs = {name: [round(value + shift, 4) for value in numbers[name]] for name in numbers}
        file = tmp_path / f"{shift}.safetensors"
        interchange.save_weights(file, state, about | {"encoder": about["encoder"] | theirs})
        init = {"pretrain": params.pretrain.model_copy(update={"init": str(file)})}
        assert measured(**init) == (theirs if taken else numbers)
        assert measured("scratch", **init) == numbers


def test_numbers_that_are_not_measured_yet_are_no_numbers(project):
    values = config.read_yaml(project / "params.yaml")
    values["input"] = {"mean": "auto", "std": [0.2, 0.2, 0.2]}
    with pytest.raises(ValueError, match=r"input.mean or input.std is auto"):
        _ = config.parse(values).input.numbers
