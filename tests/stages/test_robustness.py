"""The fine-tuned classifier on other versions of ImageNet, in small trees of their layouts."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from stages.tiny import TINY, run

from mae import config
from mae.config import recipe
from mae.data.decode import decode
from mae.data.transforms.image import Normalize, evaluation
from mae.engine.loop import Interrupted
from mae.evaluation.classification.imagenet_variants import ALEXNET_ERRORS, SEVERITIES
from mae.models import vit as encoders
from mae.report.parts.robustness import robustness
from mae.stages.probing import evaluate_variants as other_sets

WNIDS = ["n01440764", "n02086240", "n02105641", "n03445777"]
IN_A = ["n01440764", "n03445777"]  # -A and -R hold some of the classes only
SIZE = 32
ABOUT = {
    "name": "vit_tiny_patch16_224", "img_size": SIZE, "patch_size": 8,
    "embed_dim": 32, "depth": 1, "num_heads": 2, "mean": [0.5] * 3, "std": [0.25] * 3,
}  # fmt: skip


def picture(path, seed, size=48):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((size, size)).save(path, "JPEG")


def classifier():
    """A classifier whose answers depend on the image (as a fresh ViT's hardly do)."""
    torch.manual_seed(0)
    arguments = {name: value for name, value in ABOUT.items() if name not in ("mean", "std")}
    model = encoders.build(**arguments, num_classes=len(WNIDS), pool="avg")
    torch.nn.init.zeros_(model.pos_embed)
    for layer in (model.patch_embed.proj, model.head):
        torch.nn.init.normal_(layer.weight)
    return model.eval()


@pytest.fixture(scope="module")
def project_folder(project, tmp_path_factory, migrated_store):
    """A directory with shards, a classifier, and ImageNet-C, -A and -Sketch."""
    folder = tmp_path_factory.mktemp("robust")
    shutil.copy(project / "params.yaml", folder / "params.yaml")
    shutil.copy(migrated_store, folder / "mlflow.db")
    for label, name in enumerate(WNIDS):
        for number in range(3):
            picture(folder / f"images/train/{name}/{number}.jpg", 10 * label + number)
            picture(folder / f"data/robustness/sketch/{name}/sketch_{number}.JPEG", 500 + 10 * label + number)
            if name in IN_A:  # among all classes two thirds of these are wrong, among the two none
                file = folder / f"data/robustness/imagenet-a/{name}/{number}.jpg"
                picture(file, 730 - 10 * label + number, 70)
        picture(folder / f"images/val/{name}/v.jpg", 100 + label)
    for number, corruption in enumerate(ALEXNET_ERRORS):
        for severity in SEVERITIES:
            for label, name in enumerate(WNIDS):
                file = (
                    folder
                    / f"data/robustness/imagenet-c/{corruption}/{severity}/{name}/ILSVRC2012_val_1.JPEG"
                )
                picture(file, 10_000 + 100 * number + 10 * severity + label, SIZE)
    settings = ["ingest={source: folder, root: images}", "robustness.batch_size=3"]
    settings += ["robustness.sets=[imagenet_c, imagenet_a, imagenet_sketch]"]
    recipe.apply(None, [*TINY, *settings], folder / "params.yaml")
    run(folder, config.load(folder / "params.yaml"), "ingest", "shard")
    save(folder)
    return folder


def save(folder):
    (folder / "models/finetune").mkdir(parents=True)
    metadata = {"config": json.dumps(ABOUT | {"classes": WNIDS, "pool": "avg"})}
    state = {name: value.contiguous() for name, value in classifier().state_dict().items()}
    safetensors.torch.save_file(state, folder / "models/finetune/classifier.safetensors", metadata)


@pytest.fixture
def folder(project_folder, tmp_path):
    """A fresh directory with the same data."""
    for name in ("params.yaml", "mlflow.db"):
        shutil.copy(project_folder / name, tmp_path / name)
    for name in ("images", "data"):
        (tmp_path / name).symlink_to(project_folder / name)
    save(tmp_path)
    return tmp_path


def evaluated(folder, *settings):
    if settings:
        recipe.apply(None, settings, folder / "params.yaml")
    run(folder, config.load(folder / "params.yaml"), "robustness")
    return json.loads((folder / "reports/robustness/metrics.json").read_text())


def errors_by_hand(root, among, crop_pct=None):
    """Top-1 error over root/<wnid>/*, an image at a time, among the classes given."""
    model, transform = classifier(), evaluation(SIZE, crop_pct=crop_pct)
    wrong = []
    for file in sorted(root.glob("*/*")):
        images = Normalize(ABOUT["mean"], ABOUT["std"])(transform(decode(file.read_bytes()))[None])
        with torch.no_grad():
            logits = model(images)[0]
        answer = max(among, key=lambda name: logits[WNIDS.index(name)])
        wrong.append(answer != file.parent.name)
    return sum(wrong) / len(wrong)


def test_the_figures_are_those_of_a_loop_by_hand_over_the_official_layouts(folder):
    found = evaluated(folder)
    root = folder / "data/robustness"
    assert found["imagenet_a_top1"] == pytest.approx(1 - errors_by_hand(root / "imagenet-a", IN_A))
    assert found["imagenet_sketch_top1"] == pytest.approx(1 - errors_by_hand(root / "sketch", WNIDS))
    ces = [
        sum(errors_by_hand(root / f"imagenet-c/{name}/{at}", WNIDS, 1.0) for at in SEVERITIES) / 5 / alexnet
        for name, alexnet in ALEXNET_ERRORS.items()
    ]
    assert found["imagenet_c_mCE"] == pytest.approx(sum(ces) / 15)
    assert (found["imagenet_a_samples"], found["imagenet_a_classes"]) == (6, 2)
    assert (found["imagenet_c_samples"], found["imagenet_c_classes"]) == (300, 4)
    assert found["imagenet_a_top1_low"] <= found["imagenet_a_top1"] <= found["imagenet_a_top1_high"]
    rows = (folder / "reports/robustness/corruptions.csv").read_text().splitlines()
    assert rows[0] == "corruption,CE,error_1,error_2,error_3,error_4,error_5"
    assert float(rows[1].split(",")[1]) == pytest.approx(ces[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shown = robustness({"robustness": found}, config.load("params.yaml"))
    assert shown["rows"][0]["figure"] == found["imagenet_c_mCE"]
    assert "jpeg compression" in [row["name"] for row in shown["corruptions"]["rows"]]


def test_imagenet_a_is_evaluated_among_its_own_classes(folder):
    root = folder / "data/robustness/imagenet-a"
    assert errors_by_hand(root, WNIDS) == pytest.approx(4 / 6)
    assert evaluated(folder, "robustness.sets=[imagenet_a]")["imagenet_a_top1"] == 1


def test_what_is_finished_is_not_evaluated_again_after_an_interruption(folder, monkeypatch):
    evaluate, calls = other_sets._Classifier.evaluate, []

    def counted(self, about, tree):
        calls.append(tree.name)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, about, tree)

    monkeypatch.setattr(other_sets._Classifier, "evaluate", counted)
    with pytest.raises(Interrupted, match="stopped after step 3"):
        evaluated(folder, "robustness.sets=[imagenet_c]")
    assert not (folder / "reports/robustness/metrics.json").exists()
    found = evaluated(folder)
    assert len(calls) == 75
    monkeypatch.undo()
    assert evaluated(folder) == found
    assert not list(folder.glob("work/robustness/*/checkpoints"))


def test_corruptions_may_lie_in_the_folders_of_their_archives(folder):
    beside = folder / "archives/imagenet-c"
    groups = {"noise": ["gaussian_noise", "shot_noise", "impulse_noise"]}
    groups["rest"] = [name for name in ALEXNET_ERRORS if name not in groups["noise"]]
    for group, names in groups.items():
        (beside / group).mkdir(parents=True)
        for name in names:
            (beside / group / name).symlink_to(folder / "data/robustness/imagenet-c" / name)
    assert len(other_sets._parts("imagenet_c", beside)) == 75
    (beside / "noise/shot_noise").unlink()
    with pytest.raises(ValueError, match=r"5 of ImageNet-C's 75 folders .*shot_noise/1"):
        other_sets._parts("imagenet_c", beside)


def test_a_set_that_is_not_there_or_of_other_classes_is_named(folder):
    with pytest.raises(ValueError, match=r"imagenet-r: no such folder; unpack imagenet_r"):
        evaluated(folder, "robustness.sets=[imagenet_r]")
    picture(folder / "other/imagenet-r/n99999999/a.jpg", 1)
    with pytest.raises(ValueError, match="n99999999: not among the 4 known classes"):
        evaluated(folder, "robustness.root=other")


def test_without_sets_the_stage_imports_nothing_heavy_and_says_so(folder):
    recipe.apply(None, ["robustness.sets=[]"], folder / "params.yaml")
    program = "import sys; from mae import config; from mae.stages import run_stage; "
    program += "run_stage('robustness', config.load()); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    assert not {"torch", "timm", "mlflow", "numpy"} & set(done.stdout.split())
    assert (
        "robustness.sets" in json.loads((folder / "reports/robustness/metrics.json").read_text())["skipped"]
    )
    left = [path for path in (folder / "work").rglob("*") if path.is_file()]
    assert left == [folder / "work/robustness/outcome.json"], "no run was begun"


def test_without_labels_there_is_no_classifier_to_evaluate(folder):
    (folder / "models/finetune/classifier.safetensors").unlink()
    (folder / "models/finetune/SKIPPED.txt").write_text("no labels\n")
    assert "no labels" in evaluated(folder)["skipped"]


@pytest.mark.slow
def test_real_images_of_imagenet_go_through_in_the_layout_of_imagenet_c(folder, shared_data):
    root = folder / "real/imagenet-c"
    for name in WNIDS:
        file = next((shared_data / "imagenet-mini/val" / name).iterdir())
        with Image.open(file) as image:
            for corruption in ALEXNET_ERRORS:
                for severity in SEVERITIES:
                    path = root / corruption / str(severity) / name / f"{file.stem}.JPEG"
                    path.parent.mkdir(parents=True)
                    image.convert("RGB").resize((224, 224)).save(path, "JPEG", quality=100 - 18 * severity)
    found = evaluated(folder, "robustness={root: real, sets: [imagenet_c]}")
    assert found["imagenet_c_samples"] == 300
    assert 0 < found["imagenet_c_mCE"] < 2
