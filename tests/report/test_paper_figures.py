"""The paper's figures stand only beside what they are of."""

import json
import shutil
from pathlib import Path

import pytest

from mae import config
from mae.config import recipe
from mae.report.dense_tasks import COLUMNS, MAIN, dense_section
from mae.report.paper_figures import paper_figures, paper_source
from mae.report.robustness import robustness_section


@pytest.fixture
def laid(project, tmp_path, monkeypatch):
    """Params of recipes/imagenet_vit_base.yaml with other recipes or settings over it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(project / "params.yaml", "params.yaml")

    def lay(*more):
        onto = tmp_path / "params.yaml"
        for one in ("imagenet_vit_base", *more):
            setting = "=" in one
            list(
                recipe.lay(
                    None if setting else str(project / f"recipes/{one}.yaml"), [one] * setting, onto=onto
                )
            )
        return config.load(onto)

    return lay


def shards(folder, kind, classes=(), val=0):
    (folder).mkdir(parents=True, exist_ok=True)
    about = {
        "kind": kind, "classes": classes, "splits": {"val": {"count": val}}, "categories": [],
        "fingerprint": "", "rejected": {"count": 0},
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(about))


@pytest.fixture
def figures(laid):
    """Figures for the params of such recipes and settings, on images of that source with so many classes."""

    def find(kind, classes, *more):
        shards(Path("data/shards"), kind, [str(number) for number in range(classes)])
        return paper_figures(laid(*more))

    return find


def test_on_imagenet_stand_the_figures_of_each_protocol(figures):
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
def test_on_another_set_stands_its_fine_tuning_alone(figures, kind, classes, top1):
    assert figures(kind, classes) == {"finetune": top1}
    assert figures(kind, classes - 1) == {}


def test_beside_another_encoder_or_other_classes_stands_nothing(figures):
    assert figures("folder", 200) == {}
    assert figures("folder", 1000, "partial.blocks=[0, 1, 6]", "encoder.depth=6") == {}


@pytest.mark.parametrize(
    ("laid_over", "stands"),
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
def test_the_figures_are_of_the_method_and_of_what_makes_the_encoder(figures, laid_over, stands):
    assert figures("folder", 1000, *laid_over) == stands


DENSE_SETS = {"detect": ("coco", 5000), "segment": ("ade20k", 2000)}


@pytest.mark.parametrize(
    ("method", "detect", "segment"),
    [
        ([], "| paper | 51.6 |  |  |  | 45.9 |  |  |", "| paper | 48.1 |  |  |"),
        (["cae_vit_base"], None, "| paper | 50.3 |  |  |"),
        (["mocov3_vit_base"], None, None),
    ],
)
def test_the_papers_ap_and_miou_stand_beside_their_own_method_alone(laid, method, detect, segment):
    params = laid(*method)
    for stage, told in (("detect", detect), ("segment", segment)):
        kind, count = DENSE_SETS[stage]
        shards(Path(f"data/{stage}/shards"), kind, val=count)
        result = dict.fromkeys(COLUMNS[stage], 0.1) | {"init": "pretrained", "samples": count}
        result |= {f"{MAIN[stage]}_{end}": 0.1 for end in ("low", "high")}
        section = "\n".join(dense_section(stage, result, params))
        assert ("| paper |" in section) == (told is not None)
        assert told is None or told in section
        assert ("The paper's figures:" in section) == (told is not None)


@pytest.mark.parametrize(
    ("method", "stands"), [([], "35.9"), (["cae_vit_base"], ""), (["mocov3_vit_base"], "")]
)
def test_the_papers_robustness_stands_beside_its_own_method_and_whole_sets(laid, method, stands):
    params = laid(*method)
    for samples in (7500, 7499):
        found = {"samples": samples, "classes": 200, "top1": 0.2, "top1_low": 0.1, "top1_high": 0.3}
        section = "\n".join(robustness_section({f"imagenet_a_{k}": v for k, v in found.items()}, params))
        assert f"| 10.0 to 30.0 | {stands if samples == 7500 else ''} |" in section


def test_where_a_papers_figures_come_from_is_said_where_some_stand(laid):
    params = laid("cae_vit_base")
    assert "2202.03026" in paper_source(params, ["linear"])
    assert paper_source(params, []) == ""
    assert "A.2" in paper_source(laid("denoising_vit_base"), ["scratch"])
