"""Addresses without the passwords and tokens in them: the one form that is written anywhere."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_QUERY = re.compile(r"(/[^\s?]*)\?[^\s)'\"]+")
_CLOSING = "'\"`)]}>,;:."  # of the sentence around an address
_SECRET_KEY = re.compile(r"pass|pwd|secret|token|credential|signature|^sig$|(api|access)_?key", re.IGNORECASE)


def redact_address(address: str) -> str:
    """Return the address of a server without user, password and query.

    Any `@` counts as the end of a password: people write theirs with `/`, `?` and `#` unquoted.
    """
    scheme, separator, rest = address.partition("://")
    if not separator or rest.startswith("/"):  # a file: it has no user
        return address.partition("?")[0]
    place = rest.rpartition("@")[2]
    path, _, fragment = place.partition("?")[0].partition("#")
    return f"{scheme}://{path}" + (f"#{fragment}" if fragment.startswith("/") else "")


def redact(text: str, address: str = "") -> str:
    """Return a text, such as the error of a library, without the secrets of the addresses in it.

    address: one whose password and tokens must not occur in any other place either.
    """
    if address:
        text = text.replace(address, redact_address(address))
        for secret in sorted(_secrets(address), key=len, reverse=True):
            text = text.replace(secret, "***")
    return _QUERY.sub(r"\1", _ADDRESS.sub(_redact_match, text))


def holds_password(address: str) -> bool:
    """Return whether an address names a password or a token."""
    return bool(_secrets(address))


def _secrets(address: str) -> set[str]:
    """Find the password and the tokens of an address, as they are written and unquoted."""
    scheme, _, rest = address.partition("://")
    user, _, password = rest.rpartition("@")[0].partition(":")
    found = {password or (user if scheme.startswith("http") else "")}  # a user alone is a token there
    try:
        query = urlsplit(address).query
    except ValueError:  # a bracket in a password
        query = address.partition("?")[2]
    found |= {value for name, value in parse_qsl(query) if _SECRET_KEY.search(name)}
    return {one for secret in found for one in (secret, unquote(secret)) if one}


def _redact_match(match: re.Match[str]) -> str:
    address = match[0].rstrip(_CLOSING)
    return redact_address(address) + match[0][len(address) :]
