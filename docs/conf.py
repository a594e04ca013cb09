"""Configures Sphinx: `sphinx-build -W docs build/docs`."""

import os
import re
from pathlib import Path
from typing import Any

import roipool

project = "roipool"
copyright = "the roipool developers"
release = roipool.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and dtypes, which types do not
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output

html_theme = "furo"
html_title = f"roipool {release}"
html_show_sphinx = False
html_copy_source = False

# ---- Links. Those of a document lead to files of the repository, as its readers there need them. Here, a document that
# a page includes is that page, another file is a download, and a folder is no link.

DOCS = Path(__file__).parent
INCLUDE = re.compile(r"^```\{include\} (\S+)$", re.MULTILINE)
CODE_BLOCK = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(\[[^\]]*\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
PAGES = {
    (page.parent / included).resolve(): page
    for page in DOCS.rglob("*.md")
    for included in INCLUDE.findall(page.read_text())
}


def rewrite_links(text: str, folder: Path, page_folder: Path) -> str:
    """Makes the links of a document in `folder` those of a page in `page_folder`."""

    def rewrite(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        if target.is_dir():
            return match[1][1:-2]
        path = os.path.relpath(PAGES.get(target, target), page_folder)
        return f"{match[1]}{path}{match[3]}" if target.exists() else match[0]

    parts = CODE_BLOCK.split(text)
    parts[::2] = [LINK.sub(rewrite, part) for part in parts[::2]]  # what is between blocks of code
    return "".join(parts)


def rewrite_page(app: Any, name: str, content: list[str]) -> None:
    folder = (DOCS / name).parent
    content[0] = rewrite_links(content[0], folder, folder)


def rewrite_included(app: Any, path: Path, page_name: str, content: list[str]) -> None:
    page = PAGES[(DOCS / path).resolve()]
    content[0] = rewrite_links(content[0], (DOCS / path).resolve().parent, page.parent)


def setup(app: Any) -> None:
    app.connect("source-read", rewrite_page)
    app.connect("include-read", rewrite_included)
