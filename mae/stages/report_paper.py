"""The paper's figures, for the report to stand beside: only beside its own encoders on its own sets."""

from mae.config import Params
from mae.stages.files import IMAGES, read_json

# Top-1 in % on ImageNet-1k, He et al. 2021 (arXiv 2111.06377), tables 3 and 10, section 4.3 and figure 9.
IMAGENET = {
    "vit_base_patch16_224": {"linear": 68.0, "finetune": 83.6, "scratch": 82.3},
    "vit_large_patch16_224": {"linear": 75.8, "finetune": 85.9, "scratch": 82.6},
    "vit_huge_patch14_224": {"linear": 76.6, "finetune": 86.9, "scratch": 83.1},
}
# The same encoders fine-tuned on other sets, table 6 there: source of the images -> (classes, top-1 in %).
ELSEWHERE = {
    "inat2017": (5089, {"vit_base_patch16_224": 70.5, "vit_large_patch16_224": 75.7}),
    "inat2018": (8142, {"vit_base_patch16_224": 75.4, "vit_large_patch16_224": 80.1}),
    "inat2019": (1010, {"vit_base_patch16_224": 80.5, "vit_large_patch16_224": 83.4}),
    "places205": (205, {"vit_base_patch16_224": 63.9, "vit_large_patch16_224": 65.8}),
    "places365": (365, {"vit_base_patch16_224": 57.9, "vit_large_patch16_224": 59.4}),
}


def paper_figures(params: Params) -> dict[str, float]:
    """Protocol -> top-1 in %; {} for another encoder, or images of other classes than the paper's."""
    name, index = params.encoder.name, read_json(IMAGES.index)
    if params.encoder.overrides:
        return {}
    if index["kind"] in ELSEWHERE:
        classes, top1 = ELSEWHERE[index["kind"]]
        same = len(index["classes"]) == classes and name in top1
        return {"finetune": top1[name]} if same else {}
    return IMAGENET.get(name, {}) if len(index["classes"]) == 1000 else {}
