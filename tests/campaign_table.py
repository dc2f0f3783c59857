"""A plugin that conftest.py names: the campaign's table, printed and written into docs/reliability.md."""

import re
from pathlib import Path

import pytest
from campaign.attempts import Row

BEGIN, END = "<!-- campaign: written by `make campaign` -->\n", "<!-- end of the campaign -->"
HEAD = ["", "tried", "came back", "same bytes", "lost or doubled", "files left"]


@pytest.fixture(scope="session")
def kills(pytestconfig: pytest.Config) -> int:
    return pytestconfig.getoption("--kills")


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config, project: Path):
    """Rows of this run; they replace those of the same name in docs/reliability.md once all are through."""
    parts: list[Row] = []
    yield parts
    rows = [sum_of(name, parts) for name in dict.fromkeys(part.name for part in parts)]
    for row in rows:
        print("\n", *(f"{head} {cell}; " for head, cell in zip(HEAD, row.cells(), strict=True)))
    if pytestconfig.getoption("--write-table"):
        write(project / "docs/reliability.md", rows)


def sum_of(name: str, parts: list[Row]) -> Row:
    """Add up the rows of one name."""
    mine = [part for part in parts if part.name == name]
    total = Row(name, bytes_are_promised=mine[0].bytes_are_promised)
    for part in mine:
        total.tried += part.tried
        total.came_back += part.came_back
        total.ended += part.ended
        total.identical += part.identical
        total.lost_or_doubled += part.lost_or_doubled
        total.left |= part.left
    return total


def write(page: Path, rows: list[Row]) -> None:
    """Put rows into the table of a page, between BEGIN and END; rows of other names stay."""
    before, begin, rest = page.read_text().partition(BEGIN)
    inside, end, after = rest.partition(END)
    assert end, f"{page} has no place for the table"
    cells = {row[0]: row for row in (re.split(r" *\| *", line)[1:-1] for line in inside.splitlines()[2:])}
    cells |= {row.cells()[0]: row.cells() for row in rows}
    lines = [HEAD, ["---"] * len(HEAD), *cells.values()]
    page.write_text(before + begin + "".join(f"| {' | '.join(line)} |\n" for line in lines) + end + after)
