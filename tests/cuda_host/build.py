"""Builds and loads the CUDA kernels for the CPU: see cuda_runtime.h.

The library has the operators of roipool in a namespace of its own, torch.ops.roipool_cuda_host, for CPU tensors, and
`set_device`, which says how large a device the kernels are to find.

ROIPOOL_SANITIZE=address,undefined builds it with those sanitizers; what loads it must then be started with their
libraries in LD_PRELOAD.
"""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

import roipool

HERE = Path(__file__).parent
SOURCES = [HERE / "operators.cpp", HERE / "cuda_runtime.cpp"]
CSRC = HERE.parents[1] / "csrc"
OPERATORS = [
    f"{prefix}roi_pool{suffix}"
    for prefix in ["", "multiscale_"]
    for suffix in ["", "_with_argmax", "_backward", "_gather"]
]

# What set_device starts from: a Hopper's shared memory, but few multiprocessors.
DEVICE = (232448, 4, 2**31 - 1)


def small_device(dtype: torch.dtype, num_multiprocessors: int = 1) -> tuple[int, int, int]:
    """One whose shared memory holds few gradients (some 250 cells), and whose grids few blocks."""
    return (28 if dtype == torch.float64 else 19) * 1024, num_multiprocessors, 2


_library: list[torch.library.Library] = []  # schemas last as long as it does


def kernel_sources(csrc: Path) -> list[Path]:
    """The CUDA kernels, but for what registers them with a torch that has CUDA."""
    return [path for path in sorted((csrc / "cuda").glob("*.cu")) if path.name != "register.cu"]


def build(folder: Path, csrc: Path = CSRC) -> Path:
    """The library for the kernels in `csrc`, in `folder`; made anew where a source or the flags have changed."""
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off"]
    flags += ["-Wall", "-Wextra", "-Werror", "-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{HERE}", f"-I{csrc}"]
    flags += [flag for path in cpp_extension.include_paths() for flag in ["-isystem", path]]
    sanitizers = os.environ.get("ROIPOOL_SANITIZE")
    if sanitizers:
        flags += ["-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    link = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch", "-ltorch_cpu"]

    digest = hashlib.sha256(repr([*flags, torch.__version__]).encode())
    for source in sorted([*HERE.glob("*.*"), *csrc.rglob("*.*")]):
        digest.update(source.read_bytes())
    library = folder / f"cuda_host_{digest.hexdigest()[:16]}.so"
    if not library.exists():
        compiler = os.environ.get("CXX", "c++")
        unfinished = library.with_suffix(f".{os.getpid()}")
        sources = [*SOURCES, "-x", "c++", *kernel_sources(csrc), "-x", "none"]
        subprocess.run([compiler, *flags, *sources, "-o", unfinished, *link], check=True)
        unfinished.rename(library)
    return library


def load(library: Path) -> Any:
    """torch.ops.roipool_cuda_host with the operators of `library`: one for each process."""
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
