"""Code blocks of Markdown pages, and the commands in them."""

import argparse
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from markdown_it import MarkdownIt

MARK = re.compile(r"<!-- (needs|tested by): (.+?) -->\s*$")
OPERATORS = re.compile(r"[;&|()]+")


@dataclass(frozen=True)
class Block:
    """A code block. `needs` says what running it takes, `tested_by` names a test that runs it; else None."""

    page: str
    line: int
    language: str
    text: str
    needs: str | None
    tested_by: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(root: Path, page: Path) -> list[Block]:
    """Return the fenced code blocks of a page with the marks directly above them."""
    found, mark = [], None
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type == "fence" and not token.info.startswith("{"):
            marks = {mark[1]: mark[2]} if mark else {}
            line = token.map[0] + 1 if token.map else 0
            name = str(page.relative_to(root))
            found.append(
                Block(name, line, token.info, token.content, marks.get("needs"), marks.get("tested by"))
            )
        mark = MARK.search(token.content) if token.type == "html_block" else None
    return found


def commands(text: str) -> Iterator[list[str]]:
    """Yield each simple command of a shell text as its words, without assignments before it."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if OPERATORS.fullmatch(word):
                if words := _bare(words):
                    yield words
                words = []
            else:
                words.append(word)


def _bare(words: list[str]) -> list[str]:
    while words and (re.match(r"\w+=", words[0]) or words[0] in ("do", "then", "exec")):
        words = words[1:]
    return [] if not words or words[0] in ("export", "for", "done") else words


class _Parsed(Exception):
    """The arguments are right."""


def parses(main: Callable[[list[str]], object], arguments: list[str]) -> bool:
    """Return whether the argument parser of `main` takes these arguments; `main` does nothing else."""
    parse = argparse.ArgumentParser.parse_args

    def only(parser: argparse.ArgumentParser, *given: object) -> None:
        parse(parser, *given)  # type: ignore[arg-type]
        raise _Parsed

    with patch.object(argparse.ArgumentParser, "parse_args", only), suppress(SystemExit):
        try:
            main(arguments)
        except _Parsed:
            return True
    return "--help" in arguments


def module_parses(name: str, arguments: list[str]) -> bool:
    """Return whether `python -m NAME ARGUMENTS` has valid arguments."""
    return parses(importlib.import_module(name).main, arguments)
