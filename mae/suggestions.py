"""Suggestions for a misspelt name: the known names that are close to it."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return "; did you mean pretrain?" for a name that is close to known ones, else an empty text."""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=3)
    return f"; did you mean {' or '.join(by_lower[one] for one in close)}?" if close else ""


def not_one_of(name: object, known: Iterable[str]) -> str:
    """Say that a name is unknown, with all known names, and close ones first."""
    known = list(known)
    return f"{name!r} is not one of {', '.join(known)}{did_you_mean(name, known)}"
