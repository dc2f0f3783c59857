"""Names of weights in a checkpoint: wrappers are left out, and the prefix of each known model is found."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mae.interchange.convert import MARKS, State

# DistributedDataParallel, torch.compile, FSDP and activation checkpointing put these into names, anywhere.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Of several models in a file, the one that its authors evaluate: the trained encoder of MoCo and BYOL, the
# teacher of DINO, the target encoder of I-JEPA; then the weights themselves, before a moving average of them.
PREFERRED = (
    "base_encoder", "encoder_q", "online_encoder", "teacher", "target_encoder", "model", "state_dict", "ema",
)  # fmt: skip


def flatten(loaded: Mapping[Any, Any]) -> State:
    """Name every tensor of nested dicts by its keys, joined by dots, without WRAPPERS; drop other values.

    Raises ValueError where two tensors come to the same name.
    """
    state: State = {}
    for name, value in _tensors(loaded, ""):
        plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if plain in state:
            raise ValueError(f"two weights are called {plain} (one of them {name})")
        state[plain] = value
    return state


def _tensors(loaded: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in loaded.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{key}.")


def find(state: Mapping[str, Tensor], kinds: tuple[str, ...]) -> dict[str, str]:
    """Map every prefix under which weights of one of `kinds` lie to the kind; "" is the whole of `state`.

    A model in another one (an encoder in its method, a teacher in a method that has an encoder) is not named.
    """
    marks = {kind: MARKS[kind] for kind in MARKS if kind in kinds}
    prefixes = {
        name.removesuffix(first)
        for first, *_ in marks.values()
        for name in state
        if name == first or name.endswith(f".{first}")
    }
    found = {
        prefix: kind
        for prefix in sorted(prefixes)
        for kind in reversed(marks)
        if all(prefix + mark in state for mark in marks[kind])
    }
    return {
        prefix: kind
        for prefix, kind in found.items()
        if not any(other != prefix and _within(prefix, other) for other in found)
    }


def _within(inner: str, outer: str) -> bool:
    """Return True if `inner` has all parts of `outer`, in their order, and more."""
    parts = iter(inner.split("."))
    return all(part in parts for part in outer.split("."))


def choose(found: Mapping[str, str], asked: str | None) -> str:
    """Choose one of the prefixes that `find` found: the one `asked` for, else the only or the PREFERRED one.

    Raises ValueError where none was found or asked for, or several are equally good.
    """
    names = ", ".join(prefix.rstrip(".") or '""' for prefix in found)
    if asked is not None:
        wanted = f"{asked.rstrip('.')}." if asked else ""
        if wanted not in found:
            raise ValueError(f"no known model lies under the prefix {asked!r}; there are: {names or 'none'}")
        return wanted
    if len(found) == 1:
        return next(iter(found))
    for word in PREFERRED:
        named = [prefix for prefix in found if word in prefix.split(".")]
        if len(named) == 1:
            return named[0]
    raise ValueError(f"several models lie in this file: choose one by --prefix: {names}")
