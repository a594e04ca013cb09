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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_console(example: Example) -> str | None:
    """Runs the commands of a block, and returns a complaint where one prints something else, or there is none."""
    commands = re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)
    if commands[0] or len(commands) == 1:
        return "a block of the language console begins with `$ ` and a command"
    for lines in commands[1:]:
        command, _, expected = lines.partition("\n")
        shell = ["bash", "-o", "pipefail", "-c", command]
        run = subprocess.run(shell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode != 0 or not doctest.OutputChecker().check_output(expected, run.stdout, FLAGS):
            return f"{command}: exit status {run.returncode}, expected:\n{expected}\ngot:\n{run.stdout}"
    return None


def write_file(name: str) -> Callable[[Example], None]:
    def write(example: Example) -> None:
        Path(name).write_text(example.parsed)

    return write


def enter_folder(namespace: dict[str, Any]) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.callback(os.chdir, Path.cwd())
        os.chdir(folder)
        namespace["_leave_folder"] = stack.pop_all().close


def leave_folder(namespace: dict[str, Any]) -> None:
    namespace["_leave_folder"]()


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
