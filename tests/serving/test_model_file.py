"""A file of a detector or segmenter holds its kind and settings, and is refused by name where unusable."""

import json
from pathlib import Path
from typing import Any

import pytest
from dense_models import CATEGORIES, NAMES, PHOTOGRAPH, write_detector, write_segmenter

from mae import registry
from mae.serving.model_file import load_model


def test_a_saved_model_is_loaded_as_it_was_and_equal_weights_give_equal_bytes(
    models: dict[str, Path], tmp_path: Path
) -> None:
    from mae.files import json_bytes

    for kind, write in (("detector", write_detector), ("segmenter", write_segmenter)):
        write(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == models[kind].read_bytes()
        model, config = load_model(models[kind])
        assert json_bytes(model.settings) == json_bytes(config["build"])
        assert config["categories"] == CATEGORIES


def test_a_segmenter_from_before_its_auxiliary_head_had_a_width_of_its_own_is_still_known(
    models: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    from mae.serving.model_file import config_of

    config = config_of(models["segmenter"])
    assert config["build"].pop("auxiliary_channels") == 8
    save_file(load_file(models["segmenter"]), tmp_path / "old.safetensors", {"config": json.dumps(config)})
    model, _ = load_model(tmp_path / "old.safetensors")
    assert model.auxiliary is not None


def test_a_file_of_another_kind_is_not_registered(models: dict[str, Path]) -> None:
    with pytest.raises(
        ValueError, match=r"detector\.safetensors.*detector cannot be registered as segmenter"
    ):
        registry.register(
            uri="sqlite:///never.db",
            experiment="mae",
            models={"segmenter": (NAMES["segmenter"], models["detector"])},
            example=lambda: PHOTOGRAPH,
            tags={},
        )


def test_weights_that_are_not_finite_are_not_registered(models: dict[str, Path], tmp_path: Path) -> None:
    from mae.interchange import open_weights, save_weights

    state, config = open_weights(models["detector"])
    assert config is not None
    name = next(iter(state))
    save_weights(tmp_path / "wrong.safetensors", state | {name: state[name] / 0}, config)
    with pytest.raises(ValueError, match=rf"wrong\.safetensors: weights are not finite .*{name}"):
        registry.register(
            uri="sqlite:///never.db",
            experiment="mae",
            models={"detector": (NAMES["detector"], tmp_path / "wrong.safetensors")},
            example=lambda: PHOTOGRAPH,
            tags={},
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "dream"}, "unknown task 'dream'"),
        ({"build": None}, "also needs build"),
        ({"categories": None, "image_size": None}, "also needs categories, image_size"),
        ({"build": {"depth": 3}}, "cannot build the detector from its config"),
    ],
)
def test_a_file_with_an_unusable_config_is_refused_by_name(
    change: dict[str, Any], message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    from mae.serving.model_file import config_of

    config = {k: v for k, v in (config_of(models["detector"]) | change).items() if v is not None}
    save_file(load_file(models["detector"]), tmp_path / "odd.safetensors", {"config": json.dumps(config)})
    with pytest.raises(ValueError, match=rf"odd\.safetensors.*{message}"):
        load_model(tmp_path / "odd.safetensors")
