"""The filters of the report's templates: numbers as text, and the cells of a table."""

from collections.abc import Callable, Mapping, Sequence


def percent(share: float) -> str:
    """Format a share with its unit: 0.561 -> "56.1 %"."""
    return f"{100 * share:.1f} %"


def hundredfold(share: float) -> str:
    """Format a share for a column whose heading has the unit: 0.561 -> "56.1"."""
    return f"{100 * share:.1f}"


def thousands(value: float, decimals: int = 0) -> str:
    """Format a number with its thousands apart: 26071040 -> "26,071,040"."""
    return f"{value:,.{decimals}f}"


def interval(row: Mapping[str, float], name: str) -> str:
    """Format `name`_low and `name`_high of a row, for a column whose heading has the unit."""
    return f"{hundredfold(row[f'{name}_low'])} to {hundredfold(row[f'{name}_high'])}"


def gain(row: Mapping[str, float]) -> str:
    """Format gain, gain_low and gain_high of a row."""
    value, low, high = (f"{100 * row[name]:+.1f}" for name in ("gain", "gain_low", "gain_high"))
    return f"{value} points, 95 % {low} to {high}"


def cells(row: Sequence[str], columns: int) -> str:
    """Join the cells of a table's row. Raises ValueError where they are not as many as its columns."""
    if len(row) != columns:
        raise ValueError(f"a row of {len(row)} cells in a table of {columns} columns: {row}")
    return "| " + " | ".join(cell.strip().replace("|", r"\|") for cell in row) + " |"


def one_line(text: str) -> str:
    """Join the lines of a paragraph."""
    return " ".join(text.split()) + "\n"


FILTERS: dict[str, Callable[..., str]] = {
    filter.__name__: filter for filter in (percent, hundredfold, thousands, interval, gain, cells, one_line)
}
