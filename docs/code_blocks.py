"""A plugin of pytest that runs the code in documents: `python -m pytest -p docs.code_blocks README.md docs`.

The Python of a document is run block by block, in one namespace and in an empty folder: what follows `>>>` must print
what stands below it. In blocks of the language `console`, what follows `$ ` is run by a shell, likewise. A block of the
language `cpp` is written to main.cpp there, and one of `cmake` to CMakeLists.txt. A comment
`<!-- skip: next "reason" -->` leaves out a block. One that begins with `invisible-code-block: python` is run, although
no reader sees it.
"""

import doctest
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FOLDER, KEPT_FOLDER = "a folder of its own", "the folder before"  # the names of both in the namespace of a document


def run_console(example: Example) -> str | None:
    """Runs the commands of a block, and returns a complaint where one prints something else."""
    for command, expected in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n?)*)", example.parsed, re.MULTILINE):
        run = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode != 0 or not doctest.OutputChecker().check_output(expected, run.stdout, FLAGS):
            return f"{command}: exit status {run.returncode}, expected:\n{expected}\ngot:\n{run.stdout}"
    return None


def write_file(name: str) -> Callable[[Example], None]:
    return lambda example: Path(name).write_text(example.parsed) and None


def enter_folder(namespace: dict[str, object]) -> None:
    namespace[FOLDER], namespace[KEPT_FOLDER] = tempfile.TemporaryDirectory(), Path.cwd()
    os.chdir(namespace[FOLDER].name)


def leave_folder(namespace: dict[str, object]) -> None:
    os.chdir(namespace[KEPT_FOLDER])
    namespace[FOLDER].cleanup()


pytest_collect_file = Sybil(
    path=str(ROOT),
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=FLAGS),
        CodeBlockParser("console", run_console),
        CodeBlockParser("cpp", write_file("main.cpp")),
        CodeBlockParser("cmake", write_file("CMakeLists.txt")),
        SkipParser(),
    ],
    patterns=["*.md"],
    setup=enter_folder,
    teardown=leave_folder,
).pytest()
