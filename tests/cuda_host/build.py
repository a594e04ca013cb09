"""Builds and loads the CUDA kernels for the CPU: see cuda_runtime.h.

The library has the operators of roipool in a namespace of its own, torch.ops.roipool_cuda_host, for CPU tensors, and
`set_device`, which says how large a device the kernels find.

ROIPOOL_SANITIZE=address,undefined builds it with those sanitizers; what loads it must then be started with their
libraries in LD_PRELOAD.
"""

import hashlib
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

import roipool

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
OPERATORS = [
    f"{prefix}roi_pool{suffix}"
    for prefix in ["", "multiscale_"]
    for suffix in ["", "_with_argmax", "_backward", "_gather"]
]

# A device with the shared memory of a Hopper, but few multiprocessors: the first that the kernels find.
DEVICE = (232448, 4, 2**31 - 1)


def small_device(dtype: torch.dtype, num_multiprocessors: int = 1) -> tuple[int, int, int]:
    """Returns a device whose shared memory holds few sums (of some 250 cells), and whose grids hold few blocks."""
    return (28 if dtype == torch.float64 else 19) * 1024, num_multiprocessors, 2


_library: list[torch.library.Library] = []  # the schemas, which last as long as the list does


def units(csrc: Path) -> list[Path]:
    """Lists what is compiled: the kernels, but not what registers them with a torch that has CUDA, and their host."""
    kernels = [path for path in sorted((csrc / "cuda").glob("*.cu")) if path.name != "register.cu"]
    return [HERE / "operators.cpp", HERE / "cuda_runtime.cpp", *kernels]


def included(source: Path, folders: Sequence[Path], seen: set[Path]) -> Iterator[Path]:
    """Yields a source and all that it includes from the folders, each once."""
    if source not in seen:
        seen.add(source)
        yield source
        for name in re.findall(r'^#include [<"](.+)[>"]', source.read_text(), re.MULTILINE):
            for folder in folders:
                if (folder / name).exists():
                    yield from included(folder / name, folders, seen)
                    break


def compile_flags() -> list[str]:
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
    flags += ["-Wall", "-Wextra", "-Werror", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    flags += [flag for path in cpp_extension.include_paths() for flag in ["-isystem", path]]
    return flags + sanitizer_flags()


def sanitizer_flags() -> list[str]:
    sanitizers = os.environ.get("ROIPOOL_SANITIZE")
    return ["-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"] if sanitizers else []


def make(command: Sequence[str | Path], output: Path) -> None:
    """Runs a command that writes its output to what follows -o; others see the output only when it is whole."""
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        unfinished = Path(scratch) / output.name
        subprocess.run([*command, "-o", unfinished], check=True)
        unfinished.replace(output)


def compile_unit(source: Path, csrc: Path, folder: Path) -> Path:
    """Returns the object of a unit in `folder`, compiled unless one from the same text is there."""
    folders = [HERE, csrc]
    command = [*shlex.split(os.environ.get("CXX", "c++")), *compile_flags()]
    digest = hashlib.sha256(repr([*command, torch.__version__]).encode())
    for path in included(source, folders, set()):
        digest.update(path.read_bytes())
    unit = folder / f"{source.stem}_{digest.hexdigest()[:16]}.o"
    if not unit.exists():
        make([*command, *(f"-I{path}" for path in folders), "-c", "-x", "c++", source], unit)
    return unit


def build(folder: Path, csrc: Path = CSRC) -> Path:
    """Builds the library for the kernels in `csrc`; objects and libraries in `folder` are used again if they fit."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: compile_unit(source, csrc, folder), units(csrc)))
    digest = hashlib.sha256(" ".join(path.name for path in objects).encode())
    library = folder / f"cuda_host_{digest.hexdigest()[:16]}.so"
    if not library.exists():
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        link = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch", "-ltorch_cpu"]
        make([*compiler, "-shared", *sanitizer_flags(), *objects, *link], library)
    return library


def load(library: Path) -> Any:
    """Loads the library, and returns torch.ops.roipool_cuda_host. A process can do so once."""
    assert not _library, "a process can load one library only"
    schemas = torch.library.Library("roipool_cuda_host", "DEF")
    for name in OPERATORS:
        packet = getattr(torch.ops.roipool, name)
        for overload in packet.overloads():
            schemas.define(str(getattr(packet, overload)._schema).removeprefix("roipool::"))
    schemas.define("set_device(int shared_bytes_per_block, int num_multiprocessors, int most_blocks) -> ()")
    _library.append(schemas)
    torch.ops.load_library(library)
    torch.ops.roipool_cuda_host.set_device(*DEVICE)
    return torch.ops.roipool_cuda_host


assert roipool.__version__  # its operators must be there before their schemas are read
