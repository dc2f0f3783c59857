"""The fitted tokenizer of the stage `tokenizer`, loaded for pretraining."""

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
    """Load the tokenizer, palette or basis of a file, frozen and in evaluation mode.

    Raises MissingResult without a file, ValueError naming a file that does not fit and why.
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
    """Load the fitted module of pretrain.target; None where the target needs none."""
    return read_tokenizer() if params.pretrain.target in NEEDS else None


def fitted_inputs(params: Params) -> list[str]:
    """Return the digest of the fitted module, as an input of pretraining; [] where it needs none."""
    return [sha256_of(require(TOKENIZER))] if params.pretrain.target in NEEDS else []


def cached_tokens(params: Params, index: Index) -> CachedTokens | None:
    """Open the tokens that the stage `tokenizer` cached (tokenizer.cache); None where views differ.

    Raises ValueError for tokens of other shards.
    """
    if other_views(params.pretrain) or not TOKENS.is_dir():
        return None
    if _opened(TOKENIZER)[1].get("shards") != index.digest:
        raise ValueError(
            f"{TOKENS}: tokens of other shards than {index.directory}; run `dvc repro tokenizer`"
        )
    return CachedTokens(TOKENS, index.split("train"))


def tokenizer_config(kind: str, grid: Any, patch_size: Any, channels: int, settings: dict[str, Any]) -> Any:
    """Return the config of a tokenizer file; `models.tokenizer.build_tokenizer` builds from it."""
    sizes = {"grid": list(grid), "patch_size": list(patch_size), "channels": channels}
    return {"task": "tokenizer", "kind": kind, **sizes, "settings": settings}


def _opened(path: Path) -> tuple[Any, dict[str, Any]]:
    state, config = interchange.open_weights(require(path))
    if config is None or config.get("task") != "tokenizer":
        raise ValueError(f"{path}: not a file of the stage `tokenizer`; run `dvc repro tokenizer`")
    return state, config
