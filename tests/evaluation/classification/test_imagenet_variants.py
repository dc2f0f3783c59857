import pytest
import torch
from torch import nn

from mae import config
from mae.evaluation.classification.imagenet_variants import (
    ALEXNET_ERRORS,
    SETS,
    SEVERITIES,
    Among,
    corruption_errors,
    mean_corruption_error,
)
from mae.report.parts import robustness as report_robustness

# The nineteen-corruption set has four more, which mCE leaves out (arXiv 1903.12261, section 4.1).
FIFTEEN = {
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
# torchvision's ResNet-50: mean top-1 accuracy on a corruption and the CE published for it, both in %.
RESNET50 = {
    "gaussian_noise": (29.29, 79.77),
    "impulse_noise": (23.81, 82.58),
    "defocus_blur": (38.75, 74.71),
    "glass_blur": (26.79, 88.61),
    "frost": (38.14, 74.84),
    "fog": (45.83, 66.11),
    "brightness": (68.02, 56.64),
    "contrast": (39.06, 71.43),
    "elastic_transform": (45.25, 84.75),
}


def test_mce_has_the_fifteen_corruptions_of_the_paper():
    assert set(ALEXNET_ERRORS) == FIFTEEN
    assert all(0.5 < error < 1 for error in ALEXNET_ERRORS.values())


def test_alexnet_itself_has_an_mce_of_one_and_no_error_gives_zero():
    alexnet = {name: [error] * 5 for name, error in ALEXNET_ERRORS.items()}
    assert mean_corruption_error(alexnet) == pytest.approx(1)
    assert mean_corruption_error({name: [0.0] * 5 for name in FIFTEEN}) == 0


def test_ce_is_the_sum_over_severities_by_alexnets_and_mce_their_mean():
    errors = {name: [0.1, 0.2, 0.3, 0.4, 0.5] for name in FIFTEEN}
    found = corruption_errors(errors)
    assert found["fog"] == pytest.approx(1.5 / (5 * 0.819324))
    assert mean_corruption_error(errors) == pytest.approx(sum(found.values()) / 15)


@pytest.mark.parametrize(("name", "published"), RESNET50.items())
def test_known_accuracies_of_resnet50_give_the_ce_that_was_published(name, published):
    accuracy, ce = published
    assert corruption_errors({name: [1 - accuracy / 100] * 5})[name] == pytest.approx(ce / 100, abs=1e-4)


def test_a_corruption_that_is_missing_or_unknown_or_incomplete_is_named():
    errors = {name: [0.5] * 5 for name in FIFTEEN}
    with pytest.raises(ValueError, match="missing: fog"):
        mean_corruption_error({name: values for name, values in errors.items() if name != "fog"})
    with pytest.raises(ValueError, match="saturate"):
        corruption_errors({"saturate": [0.5] * 5})
    with pytest.raises(ValueError, match="fog: 4 errors"):
        corruption_errors({"fog": [0.5] * 4})


class Fixed(nn.Module):
    def forward(self, images):
        return torch.tensor([[5.0, 4.0, 3.0, 2.0]]).expand(len(images), -1)


def test_a_classifier_among_some_classes_never_answers_another():
    logits = Among(Fixed(), [1, 3]).logits(torch.zeros(2, 3, 4, 4))
    assert logits.argmax(1).tolist() == [1, 1]
    torch.testing.assert_close(logits.softmax(1)[0], torch.tensor([0, 0.8807971, 0, 0.1192029]))


def test_every_set_is_a_choice_of_the_parameters_and_a_row_of_the_report():
    choices = config.Params.model_fields["robustness"].annotation.model_fields["sets"].annotation
    assert set(choices.__args__[0].__args__) == set(SETS) == set(report_robustness.SETS)
    assert report_robustness.OFFICIAL["imagenet_c"] == len(ALEXNET_ERRORS) * len(SEVERITIES) * 50_000
