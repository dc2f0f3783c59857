"""A tiny pretrained encoder, and classifiers on it by any protocol."""

import torch

from mae.evaluation.classification.classifier import build_classifier
from mae.evaluation.classification.protocols import PROTOCOLS
from mae.models import vit as encoder

TINY = {
    "name": "vit_tiny_patch16_224",
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
}
CLASSES = 4


def pretrained_state():
    """Weights of the tiny encoder, the same at every call."""
    torch.manual_seed(0)
    vit = encoder.build(**TINY)
    encoder.initialise(vit)
    return vit.state_dict()


def make(protocol, state=None, **settings):
    row = PROTOCOLS[protocol]
    blocks = {"blocks": 1} if row.trains == "blocks" else {}
    return build_classifier(
        protocol, TINY, CLASSES, encoder_state=state if row.pretrained else None, **blocks | settings
    )
