"""Sphinx's configuration of the documentation site. `sh tools/site.sh` builds it.

Sphinx with MyST-Parser reads the Markdown pages that are also read on GitHub, numpydoc the docstrings whose form a test
checks, and `-n -W` makes an error of whatever leads nowhere. furo takes nothing from the network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from zeroconsolidate import __version__  # noqa: E402

project = "zeroconsolidate"
author = "the zeroconsolidate developers"
version = release = __version__
html_title = f"zeroconsolidate {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc"]
html_theme = "furo"
html_copy_source = False
html_show_sourcelink = False
html_static_path: list[str] = []

source_suffix = {".md": "markdown"}
myst_heading_anchors = 6
myst_all_links_external = False
smartquotes = False
default_role = "code"  # our docstrings have names in single backticks

add_module_names = False
autodoc_typehints = "none"  # numpydoc's sections say them in words
autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch", "transformers"]
autosummary_generate = False  # numpydoc loads it
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False


def in_chinese(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Say of pages below zh/ that they are in Chinese."""
    if page.startswith("zh/"):
        context["language"] = "zh-CN"


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("html-page-context", in_chinese)
