"""A classifier is built from pretrained weights as its protocol says, or refused by name."""

import pytest
import torch
from evaluation.classification.classifiers import CLASSES, TINY, make, pretrained_state

from mae.evaluation.classification.classifier import build_classifier
from mae.evaluation.classification.protocols import Recipe, make_optimizer


@pytest.fixture(scope="module")
def pretrained():
    return pretrained_state()


def test_heads_start_as_the_recipes_say(pretrained):
    assert make("finetune", pretrained).head.weight.std().item() == pytest.approx(2e-5, rel=0.3)
    norm, layer = make("linear", pretrained).head
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert (norm.affine, norm.eps) == (False, 1e-6)


def test_fine_tuning_trains_the_positions_that_are_fixed_in_pretraining(pretrained):
    assert make("finetune", pretrained).encoder.pos_embed.requires_grad
    assert make("scratch").encoder.pos_embed.requires_grad


def test_pretrained_positions_are_resampled_to_a_larger_image(pretrained):
    larger = build_classifier("finetune", TINY | {"img_size": 32}, CLASSES, encoder_state=pretrained)
    assert larger.encoder.pos_embed.shape == (1, 17, 32)
    torch.testing.assert_close(larger.encoder.pos_embed[:, 0], pretrained["pos_embed"][:, 0])


def test_weights_of_another_encoder_are_refused_by_key(pretrained):
    with pytest.raises(ValueError, match=r"blocks\.3"):
        build_classifier("finetune", TINY | {"depth": 4}, CLASSES, encoder_state=pretrained)
    without_norm = {name: value for name, value in pretrained.items() if not name.startswith("norm")}
    with pytest.raises(ValueError, match=r"norm\.bias"):
        make("linear", without_norm)
    assert make("finetune", without_norm)


def test_wrong_requests_are_refused(pretrained):
    with pytest.raises(ValueError, match="protocol 'probe' is not one of"):
        build_classifier("probe", TINY, CLASSES)
    with pytest.raises(ValueError, match="random weights"):
        build_classifier("scratch", TINY, CLASSES, encoder_state=pretrained)
    with pytest.raises(ValueError, match="takes no weight_decay"):
        make_optimizer("lars", make("linear", pretrained), Recipe(), 0.1)


def test_a_probe_of_a_random_encoder_needs_no_weights():
    assert make("linear", None).encoder.pos_embed.std() > 0
