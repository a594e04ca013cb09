"""Asserts that relative links of all documents lead to files and headings that exist, that blocks of code are in
languages which docs/code_blocks.py knows, and that the pages which the package names exist.

pip install markdown-it-py && python .ci/check_documents.py
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
RUN = {"python", "console", "cpp", "cmake"}  # by docs/code_blocks.py
SHOWN = {"text", "sh"}
PAGE = re.compile(r"docs/[\w/-]+\.md")


def list_files(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / line for line in listed.stdout.splitlines()]


@cache
def parse(document: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(document.read_text())


def anchors_of(document: Path) -> set[str]:
    """Returns the anchors that GitHub and MyST make of headings."""
    tokens = parse(document)
    titles = [
        "".join(child.content for child in tokens[i + 1].children or [])
        for i, token in enumerate(tokens)
        if token.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def targets_of(document: Path) -> Iterator[str]:
    """Yields where links and images of a document lead to."""
    for token in parse(document):
        for child in token.children or []:
            target = child.attrs.get("href") or child.attrs.get("src")
            if child.type in ("link_open", "image"):
                yield str(target or "")


def find_faults(document: Path) -> Iterator[str]:
    for target in targets_of(document):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        leads_to = document.parent / path if path else document
        if not target or not leads_to.exists() or (anchor and anchor not in anchors_of(leads_to)):
            yield f"a link to nowhere: {target}"
    for token in parse(document):
        if token.type == "fence" and not (token.info in RUN | SHOWN or token.info.startswith("{")):
            yield f"a block of an unknown language: {token.info!r}"


faults = [f"{path.relative_to(ROOT)}: {fault}" for path in list_files("*.md") for fault in find_faults(path)]
for source in list_files("roipool/*.py", "csrc/*", "tests/*.py", "examples/*.py", "setup.py"):
    missing = [page for page in PAGE.findall(source.read_text()) if not (ROOT / page).exists()]
    faults += [f"{source.relative_to(ROOT)}: a page that is not there: {page}" for page in missing]
sys.exit("\n".join(faults) or None)
