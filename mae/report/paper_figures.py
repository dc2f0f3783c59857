"""Figures published in papers, for comparison with our own: only for the same method, encoder and images."""

from collections.abc import Iterable

from mae.config import Params
from mae.config.paths import IMAGES, read_result

Figures = dict[str, float]
# In %. Method -> (timm's name of the encoder at 224 pixels, its initial LayerScale) -> figures: top-1 on
# ImageNet-1k by protocol, top-1 fine-tuned on other sets by the source of the images, AP, mIoU, and top-1
# (imagenet_c: mCE) on other versions of ImageNet.
# MAE: arXiv 2111.06377, tables 3, 5, 6, 10, 13; AP as we measure it: ViTDet's release, in detectron2.
# CAE: arXiv 2202.03026, 1600 epochs; its AP has another schedule (1x), so it is left out.
PUBLISHED: dict[str, dict[tuple[str, float | None], Figures]] = {
    "mae": {
        ("vit_base_patch16_224", None): {
            "linear": 68.0, "finetune": 83.6, "box_AP": 51.6, "mask_AP": 45.9, "mIoU": 48.1,
            "inat2017": 70.5, "inat2018": 75.4, "inat2019": 80.5, "places205": 63.9, "places365": 57.9,
            "imagenet_c": 51.7, "imagenet_a": 35.9, "imagenet_r": 48.3, "imagenet_sketch": 34.5,
        },
        ("vit_large_patch16_224", None): {
            "linear": 75.8, "finetune": 85.9, "box_AP": 55.5, "mask_AP": 49.2, "mIoU": 53.6,
            "inat2017": 75.7, "inat2018": 80.1, "inat2019": 83.4, "places205": 65.8, "places365": 59.4,
            "imagenet_c": 41.8, "imagenet_a": 57.1, "imagenet_r": 59.9, "imagenet_sketch": 45.3,
        },
        ("vit_huge_patch14_224", None): {
            "linear": 76.6, "finetune": 86.9, "box_AP": 56.7, "mask_AP": 50.2,
            "imagenet_c": 33.8, "imagenet_a": 68.2, "imagenet_r": 64.4, "imagenet_sketch": 49.6,
        },
    },
    "cae": {
        ("vit_base_patch16_224", 0.1): {"linear": 70.3, "attentive": 77.2, "finetune": 83.9, "mIoU": 50.3},
        ("vit_large_patch16_224", 1e-5): {"linear": 77.8, "attentive": 81.2, "finetune": 86.2, "mIoU": 54.9},
    },
    "beit": {
        ("vit_base_patch16_224", 0.1): {"finetune": 83.2},
        ("vit_large_patch16_224", 1e-5): {"finetune": 85.2},
    },
    "mocov3": {
        ("vit_base_patch16_224", None): {"finetune": 83.2},
        ("vit_large_patch16_224", None): {"finetune": 84.1},
    },
}  # fmt: skip
# The encoder without pretraining, for every method: section A.2 of MAE.
SCRATCH = {"vit_base_patch16_224": 82.3, "vit_large_patch16_224": 82.6, "vit_huge_patch14_224": 83.1}
# Settings of a method that its figures were measured with; with other values it is another method.
MEASURED_WITH = {"mae": {"mask_tokens": "decoder"}, "mocov3": {"loss": "mocov3"}}
SOURCES = {
    "mae": "He et al. 2021 (arXiv 2111.06377), box and mask AP of ViTDet's release in detectron2",
    "cae": "Chen et al. 2022 (arXiv 2202.03026), 1600 epochs",
    "beit": "table 3 of He et al. 2021, with relative position biases, which this encoder lacks",
    "mocov3": "table 3 of He et al. 2021",
}
# Number of classes of the sets, other than ImageNet-1k, that have figures.
CLASSES = {"inat2017": 5089, "inat2018": 8142, "inat2019": 1010, "places205": 205, "places365": 365}


def published(params: Params) -> Figures:
    """Look up the published figures of this method with this encoder, in %; {} where there are none."""
    method, encoder = params.pretrain.method, params.encoder
    if encoder.resized or encoder.img_size not in (224, (224, 224)):
        return {}
    scratch = encoder.init_values is None and encoder.name in SCRATCH
    found = {"scratch": SCRATCH[encoder.name]} if scratch else {}
    settings = getattr(params, method).model_dump()
    if all(settings[key] == value for key, value in MEASURED_WITH.get(method, {}).items()):
        found |= PUBLISHED.get(method, {}).get((encoder.name, encoder.init_values), {})
    return found


def paper_figures(params: Params) -> Figures:
    """Look up protocol -> top-1 in %; {} for images of other classes than the papers'."""
    index, found = read_result(IMAGES.index), published(params)
    kind, classes = index["kind"], len(index["classes"])
    if kind in CLASSES:
        return {"finetune": found[kind]} if kind in found and classes == CLASSES[kind] else {}
    protocols = ("linear", "attentive", "finetune", "scratch") if classes == 1000 else ()
    return {name: found[name] for name in protocols if name in found}


def paper_sources(params: Params, shown: Iterable[str]) -> list[str]:
    """List the papers that the shown figures are from; [] where none is shown."""
    names = set(shown)
    sources = [SOURCES[params.pretrain.method]] if names - {"scratch"} else []
    return sources + (["from scratch, section A.2 of He et al. 2021"] if "scratch" in names else [])
