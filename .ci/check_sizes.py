"""Holds the limits of the tree: no file beyond 400 lines, no function beyond 50.

A function counts without its signature and its docstring. What must be longer is in the lists below, with the reason.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 50
CHECKED = ["csrc/**/*", "roipool/**/*", "tests/**/*", "benchmarks/*.py", "examples/**/*.py", ".ci/*", "setup.py"]
CPP = {".h", ".cpp", ".cu", ".cuh"}
TEXT = {*CPP, ".py", ".pyi", ".sh", ""}

LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {
    "tests/slow/load/leaks.py: small_calls": "a table of calls, which names its entries",
}


def python_functions(source: str) -> Iterator[tuple[str, int]]:
    """The name of each function, and how many lines its body has."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, body[-1].end_lineno - body[0].lineno + 1 if body else 0


def without_comments(source: str) -> str:
    """C++ in which comments, literals and preprocessor lines are blank, but for their line ends."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*'
    return re.sub(pattern, lambda match: "\n" * match[0].count("\n"), source, flags=re.DOTALL | re.MULTILINE)


def cpp_functions(source: str) -> Iterator[tuple[str, int]]:
    """The name of each function, and how many lines there are between its braces.

    A brace opens a function where it follows a parenthesis in a namespace or a class.
    """
    text = without_comments(source)
    blocks: list[tuple[str, str, int]] = []  # kind, name, line
    line, begin = 1, 0  # begin: of what has been said since the last brace or semicolon
    for i, character in enumerate(text):
        if character == "\n":
            line += 1
        elif character == "{":
            said = text[begin:i]
            within_scopes = all(kind == "scope" for kind, _, _ in blocks)
            if within_scopes and re.search(r"\)[\s\w:<>,&*()-]*$", said):
                name = re.findall(r"([\w:~]+|operator\S+)\s*\(", re.sub(r"__launch_bounds__\(.*?\)", "", said))
                blocks.append(("function", name[0] if name else "?", line))
            elif re.search(r"\b(namespace|class|struct|union|extern)\b", said):
                blocks.append(("scope", "", line))
            else:
                blocks.append(("block", "", line))
            begin = i + 1
        elif character == "}":
            kind, name, first = blocks.pop()
            if kind == "function":
                yield name, max(0, line - first - 1)
            begin = i + 1
        elif character == ";":
            begin = i + 1


def checked_files() -> list[Path]:
    found = {path for pattern in CHECKED for path in ROOT.glob(pattern)}
    return sorted(path for path in found if path.is_file() and path.suffix in TEXT and "__pycache__" not in path.parts)


def violations() -> Iterator[str]:
    unneeded = {*LONG_FILES, *LONG_FUNCTIONS}
    for path in checked_files():
        name, source = str(path.relative_to(ROOT)), path.read_text()
        functions = python_functions if path.suffix == ".py" else cpp_functions if path.suffix in CPP else None
        sizes = [(name, source.count("\n"), MOST_LINES_OF_A_FILE)]
        sizes += [
            (f"{name}: {function}", length, MOST_LINES_OF_A_FUNCTION)
            for function, length in (functions(source) if functions else [])
        ]
        for what, length, most in sizes:
            if length > most and what in unneeded:
                unneeded.remove(what)
            elif length > most and what not in {*LONG_FILES, *LONG_FUNCTIONS}:
                yield f"{what}: {length} lines, more than {most}"
    for what in sorted(unneeded):
        yield f"{what}: needs no exception any more"


if __name__ == "__main__":
    sys.exit("\n".join(violations()) or None)
