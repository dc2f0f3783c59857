"""What the stage `tokenizer` left, as pretraining takes it up."""

from pathlib import Path
from typing import Any

from torch import nn

from mae import interchange
from mae.config import Params
from mae.config.paths import TOKENIZER, TOKENS, require
from mae.config.tokenizer import NEEDS, other_views
from mae.data.loading.token_cache import CachedTokens
from mae.data.shards.index import Index
from mae.files import sha256_of
from mae.models.tokenizer import build_tokenizer


def read_tokenizer(path: Path = TOKENIZER) -> nn.Module:
    """The tokenizer, palette or basis of the file, frozen and in eval mode.

    Raises MissingResult where there is none, ValueError naming the file and what is wrong with it.
    """
    state, config = _opened(path)
    try:
        module = build_tokenizer(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    interchange.check(state, {name: value.shape for name, value in module.state_dict().items()}, str(path))
    module.load_state_dict(state)
    return module.requires_grad_(False).eval()


def fitted_for(params: Params) -> nn.Module | None:
    """What pretrain.target is made of; None where it needs nothing fitted."""
    return read_tokenizer() if params.pretrain.target in NEEDS else None


def fitted_inputs(params: Params) -> list[str]:
    """The digests of what pretraining reads of it."""
    return [sha256_of(require(TOKENIZER))] if params.pretrain.target in NEEDS else []


def kept_tokens(params: Params, index: Index) -> CachedTokens | None:
    """The training images' tokens, where the stage `tokenizer` kept them (tokenizer.cache) of such views.

    Raises ValueError where they are of other shards.
    """
    if other_views(params.pretrain) or not TOKENS.is_dir():
        return None
    if _opened(TOKENIZER)[1].get("shards") != index.digest:
        raise ValueError(f"{TOKENS}: kept for other shards than {index.directory}; run the stage `tokenizer`")
    return CachedTokens(TOKENS, index.split("train"))


def tokenizer_config(kind: str, grid: Any, patch_size: Any, channels: int, settings: dict[str, Any]) -> Any:
    """What the file says of itself; `models.tokenizer.build_tokenizer` builds of it."""
    sizes = {"grid": list(grid), "patch_size": list(patch_size), "channels": channels}
    return {"task": "tokenizer", "kind": kind, **sizes, "settings": settings}


def _opened(path: Path) -> tuple[Any, dict[str, Any]]:
    state, config = interchange.open_weights(require(path))
    if config is None or config.get("task") != "tokenizer":
        raise ValueError(f"{path}: no file of the stage `tokenizer`")
    return state, config
