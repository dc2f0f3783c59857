"""The loop, the optimizer and the schedule together give the training run of the authors' release."""

import json
from pathlib import Path

import pytest
import torch
from reference import closed_form

from mae.engine.loop import FitOptions, fit
from mae.engine.optim import adamw
from mae.engine.schedule import warmup_cosine
from mae.interchange import convert
from mae.methods import METHODS
from mae.models import vit as encoder

REFERENCE = json.loads((Path(__file__).parent.parent / "reference" / "reference.json").read_text())
ENCODER = ("patch_size", "embed_dim", "depth", "num_heads")
METHOD = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads")  # and .75, normalised: the paper's


def test_fit_repeats_the_twelve_steps_of_the_release_in_float64():
    expected = REFERENCE["mae_train_12_steps"]
    config = expected["cfg"]
    vit = encoder.build(
        "vit_tiny_patch16_224", img_size=config["image_size"], **{key: config[key] for key in ENCODER}
    )
    mae = METHODS["mae"](vit, **{key: config[key] for key in METHOD}).double()
    names = convert(mae.state_dict(), "official")
    tables = {name: value for name, value in names.items() if name.endswith("pos_embed")}
    shapes = {name: tuple(value.shape) for name, value in names.items() if name not in tables}
    filled = closed_form.fill(shapes)
    mae.load_state_dict(convert(filled | tables, "mae"))

    per_epoch = config["steps_per_epoch"]
    steps = config["epochs"] * per_epoch
    losses = {}
    fit(
        mae,
        lambda start, attempt: closed_form.training_batches(
            config["images"], config["image_size"], mae.noise_shape[0], steps
        ),
        adamw(mae, lr=config["lr"], weight_decay=config["weight_decay"]),
        steps=steps,
        learning_rate=lambda step: warmup_cosine(
            step,
            peak=config["lr"],
            floor=config["min_lr"],
            warmup=config["warmup_epochs"] * per_epoch,
            total=steps,
        ),
        options=FitOptions(
            seed=0, log_every=1, log=lambda step, values: losses.update({step: values["loss"]})
        ),
    )
    assert list(losses.values()) == pytest.approx(expected["losses"], rel=1e-10)
    assert next(mae.parameters()).dtype == torch.float64
