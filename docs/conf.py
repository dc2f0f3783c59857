"""Settings of the documentation: `make docs` builds it with Sphinx."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import settings_table  # noqa: E402 (found by the path above)

project = "Masked-autoencoder pretraining"
copyright = "the authors"
html_title = "Masked-autoencoder pretraining"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints_format = "short"
smartquotes = False
autodoc_member_order = "bysource"
default_role = "literal"  # docstrings write `code`, as Markdown does
# Types of other projects and type aliases have no page here to lead to.
nitpick_ignore_regex = [("py:(class|data|obj|exc)", ".*")]


def fill_in_settings(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the tables of the settings in the place of their mark."""
    if settings_table.MARK in source[0]:
        source[0] = source[0].replace(settings_table.MARK, settings_table.page(ROOT / "params.yaml"))


def escape(app: Sphinx, what: str, name: str, subject: object, options: object, lines: list[str]) -> None:
    """Keep the stars of docstrings (`*views`, products) as they are: they are no markup."""
    lines[:] = [line.replace("*", r"\*") for line in lines]


def setup(app: Sphinx) -> None:
    """Register what this project adds to Sphinx."""
    app.connect("source-read", fill_in_settings)
    app.connect("autodoc-process-docstring", escape)
