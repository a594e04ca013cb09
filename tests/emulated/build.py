"""Runs the CPU kernels on another processor, which is emulated, under the operators of this process.

    ROIPOOL_EMULATE=aarch64 pytest -k emulated tests/kernels

needs a cross-compiler and an emulator (Debian: g++-aarch64-linux-gnu, qemu-user). The kernels know no torch, so that a
program of their own holds them: it takes problems by a pipe, and gives back what they computed (messages.h).
"""

import atexit
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from compilation import STABLE_ABI, TORCH_HEADERS, compile_objects, digest_of, kernel_sources, link, link_library
from other_kernels import load_operators

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Processor(NamedTuple):
    compiler: str
    emulator: list[str]


# Name processors with no more than the first instructions of their kind, as wheels assume.
PROCESSORS = {"aarch64": Processor("aarch64-linux-gnu-g++", ["qemu-aarch64", "-cpu", "cortex-a57"])}

# Are those of setup.py.
KERNEL_FLAGS = [
    "-std=c++20",
    "-O3",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Icsrc",
]
OPERATOR_FLAGS = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-w", STABLE_ABI, "-Icsrc", *TORCH_HEADERS]


def build_kernels(folder: Path, compiler: str) -> Path:
    """Returns a program with the kernels, which needs no library of its system."""
    sources = [*kernel_sources(ROOT / "csrc", "cpu"), (HERE / "kernels.cpp").relative_to(ROOT)]
    objects = compile_objects(KERNEL_FLAGS, sources, folder, ROOT, [compiler])
    program = folder / f"kernels_{digest_of([path.name for path in objects], [])}"
    if not program.exists():
        link([compiler, "-static", *objects], program)
    return program


def load(folder: Path, name: str) -> Any:
    """Builds both programs, starts the kernels, and returns torch.ops.roipool_emulated."""
    processor = PROCESSORS[name]
    for command in [processor.compiler, processor.emulator[0]]:
        assert shutil.which(command), f"ROIPOOL_EMULATE={name} needs {command}"
    program = build_kernels(folder, processor.compiler)
    objects = compile_objects(OPERATOR_FLAGS, [HERE / "operators.cpp"], folder, ROOT)
    library = folder / "operators.so"
    link_library(objects, library)

    ops = load_operators(library, "roipool_emulated", ["connect(int writable_file, int readable_file) -> int"])
    process = subprocess.Popen([*processor.emulator, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    atexit.register(process.kill)
    request_bytes = int.from_bytes(process.stdout.read(8), "little")
    assert ops.connect(process.stdin.fileno(), process.stdout.fileno()) == request_bytes
    return ops
