"""Compiles and runs tests that are C++ programs: of what can be tested without torch and without CUDA."""

import subprocess
from pathlib import Path

from compilation import COMPILER

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}", f"-I{HERE}"]


def run_cpp_test(source: Path, folder: Path) -> None:
    """Compiles a program to `folder`, and runs it. It fails by its exit status, and says why on stderr."""
    program = folder / source.stem
    subprocess.run([*COMPILER, *FLAGS, source, "-o", program], check=True)
    run = subprocess.run([program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
