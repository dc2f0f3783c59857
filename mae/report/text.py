"""The report's words: numbers, tables, and the page around them."""

import base64
import html
import re
from pathlib import Path


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def gain(r: dict[str, float]) -> str:
    return f"{100 * r['gain']:+.1f} points, 95 % {100 * r['gain_low']:+.1f} to {100 * r['gain_high']:+.1f}"


def of_split(split: str, done: str) -> str:
    """Which images those of `Index.viewed` are, and whether the model was `done` ("trained") on them."""
    return f"of {split}, " + (f"none {done} on" if split == "val" else f"{done} on, for there is no val")


def table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #24292f }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { border: 1px solid #d0d7de; padding: .3rem .7rem; text-align: left }
img { max-width: 100% }
"""


def page(title: str, text: str, folder: Path) -> str:
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)
    body = re.sub(r'src="([^"]+\.png)"', lambda found: f'src="{_inline(folder / found[1])}"', body)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'


def _inline(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
