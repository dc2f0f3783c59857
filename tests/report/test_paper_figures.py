"""The papers' figures are shown only for the method, encoder and images that they were measured with."""

import shutil

import pytest
from report.fixed_results import TOP, index, rendered, section, write_results

from mae import config
from mae.config import recipe
from mae.report.paper_figures import paper_figures, paper_sources
from mae.report.render import markdown


@pytest.fixture
def settings(project, tmp_path, monkeypatch):
    """Params of recipes/imagenet_vit_base.yaml with other recipes or settings applied."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(project / "params.yaml", "params.yaml")

    def apply(*more):
        onto = tmp_path / "params.yaml"
        for one in ("imagenet_vit_base", *more):
            setting = "=" in one
            recipe.apply(None if setting else str(project / f"recipes/{one}.yaml"), [one] * setting, onto)
        return config.load(onto)

    return apply


@pytest.fixture
def figures(settings):
    """Figures for the params of such recipes and settings, on images of that source with so many classes."""

    def find(kind, classes, *more):
        index("data/shards", kind, classes)
        return paper_figures(settings(*more))

    return find


def test_imagenet_has_the_figures_of_each_protocol(figures):
    for kind in ("folder", "imagenet_tar"):
        assert figures(kind, 1000) == {"linear": 68.0, "finetune": 83.6, "scratch": 82.3}


@pytest.mark.parametrize(
    ("kind", "classes", "top1"),
    [
        ("inat2017", 5089, 70.5),
        ("inat2018", 8142, 75.4),
        ("inat2019", 1010, 80.5),
        ("places205", 205, 63.9),
        ("places365", 365, 57.9),
    ],
)
def test_another_set_has_its_fine_tuning_alone(figures, kind, classes, top1):
    assert figures(kind, classes) == {"finetune": top1}
    assert figures(kind, classes - 1) == {}


def test_another_encoder_or_other_classes_have_no_figures(figures):
    assert figures("folder", 200) == {}
    assert figures("folder", 1000, "partial.blocks=[0, 1, 6]", "encoder.depth=6") == {}


@pytest.mark.parametrize(
    ("applied", "shown"),
    [
        (["cae_vit_base"], {"linear": 70.3, "attentive": 77.2, "finetune": 83.9}),
        (["imagenet_vit_large", "cae_vit_large"], {"linear": 77.8, "attentive": 81.2, "finetune": 86.2}),
        (["beit_vit_base"], {"finetune": 83.2}),
        (["mocov3_vit_base"], {"finetune": 83.2, "scratch": 82.3}),
        (["mocov3_vit_base", "mocov3.loss=byol"], {"scratch": 82.3}),
        (["mae.mask_tokens=encoder"], {"scratch": 82.3}),
        (["simmim_vit_base"], {}),
        (["denoising_vit_base"], {"scratch": 82.3}),
        (["igpt_small"], {}),
        (["encoder.init_values=0.1"], {}),
        (["encoder.img_size=192"], {}),
    ],
)
def test_the_figures_are_of_the_method_and_of_what_makes_the_encoder(figures, applied, shown):
    assert figures("folder", 1000, *applied) == shown


DENSE_SETS = {
    "detect": ("coco", 5000, "Detection and instance segmentation (Mask R-CNN)"),
    "segment": ("ade20k", 2000, "Semantic segmentation"),
}


@pytest.mark.parametrize(
    ("method", "detect", "segment"),
    [
        ([], "| paper | 51.6 |  |  |  | 45.9 |  |  |", "| paper | 48.1 |  |  |"),
        (["cae_vit_base"], None, "| paper | 50.3 |  |  |"),
        (["mocov3_vit_base"], None, None),
    ],
)
def test_the_papers_ap_and_miou_are_shown_for_their_own_method_alone(settings, method, detect, segment):
    params, results = settings(*method), write_results()
    for stage, row in (("detect", detect), ("segment", segment)):
        kind, count, heading = DENSE_SETS[stage]
        index(f"data/{stage}/shards", kind, val=count)
        text = section(markdown(results, params), heading)
        assert ("| paper |" in text) == (row is not None)
        assert row is None or row in text
        assert ("The paper's figures:" in text) == (row is not None)
        index(f"data/{stage}/shards", kind, val=count - 1)
        assert "paper" not in section(markdown(results, params), heading)


@pytest.mark.parametrize(
    ("method", "shown"), [([], "35.9"), (["cae_vit_base"], ""), (["mocov3_vit_base"], "")]
)
def test_the_papers_robustness_is_shown_for_its_own_method_and_whole_sets(settings, method, shown):
    params = settings(*method)
    for samples in (7500, 7499):
        found = {f"imagenet_a_{name}": value for name, value in (TOP | {"samples": samples}).items()}
        text = section(
            rendered(params, robustness=found | {"imagenet_a_classes": 200}), "Other versions of ImageNet"
        )
        assert f"| 62.5 to 87.5 | {shown if samples == 7500 else ''} |" in text


def test_the_source_of_shown_figures_is_named(settings):
    params = settings("cae_vit_base")
    assert "2202.03026" in paper_sources(params, ["linear"])[0]
    assert paper_sources(params, []) == []
    assert "A.2" in paper_sources(settings("denoising_vit_base"), ["scratch"])[0]


def test_the_papers_top1_is_in_the_results_with_its_source(settings):
    params = settings()
    results = write_results()
    index("data/shards", classes=1000)
    text = section(markdown(results, params), "Results")
    assert "| fine-tuning | all labels | 75.0 | 62.5 to 87.5 |  | +25.0 points" in text
    assert "| 83.6 |" in text
    assert "The paper's figures: He et al. 2021" in text
