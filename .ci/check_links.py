"""Asserts that the relative links of all documents lead to files and headings that exist, and that the pages of the
documentation which error messages name exist.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"^(```+).*?^\1|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:)([^)\s#]*)(?:#([^)\s]*))?\)")
PAGE = re.compile(r"docs/[\w/]+\.md")


def list_files(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / line for line in listed.stdout.splitlines()]


def anchors_of(document: Path) -> set[str]:
    """Returns the anchors that GitHub and MyST make of headings."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub(lambda match: match[0].strip("`"), document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> Iterator[str]:
    for path, anchor in LINK.findall(CODE.sub("", document.read_text())):
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            yield f"{document.relative_to(ROOT)}: {path}{'#' * bool(anchor)}{anchor}"


def missing_pages(source: Path) -> Iterator[str]:
    for page in PAGE.findall(source.read_text()):
        if not (ROOT / page).exists():
            yield f"{source.relative_to(ROOT)}: {page}"


broken = [link for document in list_files("*.md") for link in broken_links(document)]
broken += [page for source in list_files("roipool/*.py", "csrc/*") for page in missing_pages(source)]
sys.exit("\n".join(["Links to nowhere:", *broken]) if broken else None)
