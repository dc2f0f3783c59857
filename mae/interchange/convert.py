"""Conversion of weights between the names of releases: moved, split or joined, never changed.

Every kind goes through the names of the official MAE release, whose encoder has timm's names.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from mae.suggestions import not_one_of

State = dict[str, Tensor]

KINDS = {
    "timm": "encoder with timm's names: a timm ViT, and the official MAE encoder files",
    "official": "official MAE pretraining checkpoint, decoder included",
    "mae": "our methods.MAE, decoder included",
    "hf_encoder": "Hugging Face ViTMAEModel",
    "hf": "Hugging Face ViTMAEForPreTraining, decoder included",
}
ENCODERS = ("timm", "hf_encoder")
# Names that weights of a kind have: the first kind with all of its own is the kind.
MARKS = {
    "hf": ("vit.embeddings.cls_token", "decoder.mask_token"),
    "hf_encoder": ("embeddings.cls_token", "embeddings.position_embeddings"),
    "mae": ("encoder.cls_token", "decoder.mask_token"),
    "official": ("cls_token", "mask_token", "decoder_pos_embed"),
    "timm": ("cls_token", "pos_embed", "patch_embed.proj.weight"),
}

# Both spellings of transformers: the hub's files (and version 4), and the module names since version 5.
_FROM_HF = (
    (r"^(?:vit\.)?embeddings\.cls_token$", "cls_token"),
    (r"^(?:vit\.)?embeddings\.position_embeddings$", "pos_embed"),
    (r"^(?:vit\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:vit\.)?(?:encoder\.layer|layers)\.", "blocks."),
    (r"^(?:vit\.)?layernorm\.", "norm."),
    (r"^decoder\.decoder_layers\.", "decoder_blocks."),
    (r"^decoder\.", ""),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
# The hub's spelling, which every version of transformers loads.
_TO_HF = (
    (r"^cls_token$", "vit.embeddings.cls_token"),
    (r"^pos_embed$", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "vit.encoder.layer."),
    (r"^norm\.", "vit.layernorm."),
    (r"^decoder_blocks\.", "decoder.decoder_layers."),
    (r"^(decoder_(?:embed|norm|pred)\.|decoder_pos_embed$|mask_token$)", r"decoder.\1"),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.q\.", ".attention.attention.query."),
    (r"\.attn\.k\.", ".attention.attention.key."),
    (r"\.attn\.v\.", ".attention.attention.value."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


def detect(names: Iterable[str]) -> str:
    """Detect the kind (a key of KINDS) of weights with these names. Raises ValueError for any other."""
    names = set(names)
    for kind, marks in MARKS.items():
        if names.issuperset(marks):
            return kind
    raise ValueError(
        f"weights of no known kind ({', '.join(sorted(names)[:5])} ...); known: {'; '.join(KINDS.values())}"
    )


def convert(state: Mapping[str, Tensor], to: str, kind: str | None = None) -> State:
    """Rename `state` of one kind (detected by default) to the names of another; see KINDS.

    From a full model to an encoder kind the decoder is left out. Raises ValueError for an unknown kind and
    for an encoder asked to become a full model.
    """
    kind = kind or detect(state)
    for name in (kind, to):
        if name not in KINDS:
            raise ValueError(f"kind {not_one_of(name, KINDS)}")
    if kind in ENCODERS and to not in ENCODERS:
        raise ValueError(f"an encoder alone ({kind}) cannot become {to} ({KINDS[to]}): it has no decoder")
    official = _INTO_OFFICIAL[kind](state)
    if to in ENCODERS:
        official = {name: value for name, value in official.items() if not _in_decoder(name)}
    return _FROM_OFFICIAL[to](official)


def _in_decoder(name: str) -> bool:
    return name == "mask_token" or name.startswith("decoder_")


def _from_mae(state: Mapping[str, Tensor]) -> State:
    def rename(name: str) -> str:
        if name == "decoder.mask_token":
            return "mask_token"
        return re.sub(r"^decoder\.", "decoder_", name.removeprefix("encoder."))

    # Older files hold the fitted part of their target as well.
    return {rename(name): value for name, value in state.items() if not name.startswith("target.")}


def _to_mae(state: Mapping[str, Tensor]) -> State:
    def rename(name: str) -> str:
        if name == "mask_token":
            return "decoder.mask_token"
        return re.sub(r"^decoder_", "decoder.", name) if _in_decoder(name) else f"encoder.{name}"

    return {rename(name): value for name, value in state.items()}


def _from_hf(state: Mapping[str, Tensor]) -> State:
    renamed = _rename(state, _FROM_HF)
    joined: State = {}
    for name, value in renamed.items():
        part = re.fullmatch(r"(.*\.attn\.)([qkv])(\..*)", name)
        if part is None:
            joined[name] = value
        elif part[2] == "q":
            names = [part[1] + letter + part[3] for letter in "qkv"]
            missing = [other for other in names if other not in renamed]
            if missing:
                raise ValueError(
                    f"attention weights are incomplete: no {', '.join(missing)} (timm's spelling)"
                )
            joined[f"{part[1]}qkv{part[3]}"] = torch.cat([renamed[other] for other in names])
    return joined


def _to_hf(state: Mapping[str, Tensor]) -> State:
    split: State = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                split[name.replace(".attn.qkv.", f".attn.{letter}.")] = third
        else:
            split[name] = value
    return _rename(split, _TO_HF)


def _to_hf_encoder(state: Mapping[str, Tensor]) -> State:
    return {name.removeprefix("vit."): value for name, value in _to_hf(state).items()}


def _rename(state: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> State:
    renamed: State = {}
    for name, value in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = value
    return renamed


_INTO_OFFICIAL: dict[str, Callable[[Mapping[str, Tensor]], State]] = {
    "timm": dict,
    "official": dict,
    "mae": _from_mae,
    "hf_encoder": _from_hf,
    "hf": _from_hf,
}
_FROM_OFFICIAL: dict[str, Callable[[Mapping[str, Tensor]], State]] = {
    "timm": dict,
    "official": dict,
    "mae": _to_mae,
    "hf_encoder": _to_hf_encoder,
    "hf": _to_hf,
}
