"""Builds and loads the CUDA kernels for the CPU: see cuda_runtime.h.

The library has the operators of roipool in a namespace of its own, torch.ops.roipool_cuda_host, for CPU tensors, and
`set_device`, which says how large a device the kernels find.

ROIPOOL_SANITIZE=address,undefined builds it with those sanitizers; what loads it must then be started with their
libraries in LD_PRELOAD.
"""

import os
from pathlib import Path
from typing import Any

from compilation import STABLE_ABI, TORCH_HEADERS, compile_objects, digest_of, kernel_sources, link_library
from other_kernels import load_operators

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
# A device with the shared memory of a Hopper, but few multiprocessors: the first that the kernels find.
DEVICE = (232448, 4, 2**31 - 1)


# A device with little shared memory, whose grids hold few blocks, so that each takes several turns.
SMALL_DEVICE = (64 * 1024, 1, 2)


def build(folder: Path, csrc: Path = CSRC) -> Path:
    """Builds the library for the kernels in `csrc`; objects and libraries in `folder` are used again if they fit.

    Paths in `csrc` are relative to its parent, so that objects also fit another copy of the same sources.
    """
    sanitizers = os.environ.get("ROIPOOL_SANITIZE")
    sanitize = ["-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"] if sanitizers else []
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    # What only __launch_bounds__ and sanitizers read is unused here, of which Clang warns.
    flags += ["-Wno-unused-const-variable", "-Wno-unused-private-field"]
    flags += [*sanitize, STABLE_ABI, f"-I{HERE}", f"-I{csrc.name}", *TORCH_HEADERS]
    sources = [HERE / "operators.cpp", HERE / "cuda_runtime.cpp", *kernel_sources(csrc, "cuda")]
    objects = compile_objects(flags, sources, folder, root=csrc.parent)
    library = folder / f"cuda_host_{digest_of([path.name for path in objects], [])}.so"
    if not library.exists():
        link_library(objects, library, sanitize)
    return library


def load(library: Path) -> Any:
    """Loads the library, and returns torch.ops.roipool_cuda_host. A process can do so once."""
    set_device = "set_device(int shared_bytes_per_block, int num_multiprocessors, int most_blocks) -> ()"
    ops = load_operators(library, "roipool_cuda_host", [set_device])
    ops.set_device(*DEVICE)
    return ops
