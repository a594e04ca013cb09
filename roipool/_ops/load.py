"""Loads the native libraries: libroipool with the operators and their CPU kernels, and libroipool_cuda."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import torch

try:
    importlib.import_module("roipool._C")  # which depends on libroipool
except ImportError as error:
    remedy = "reinstall roipool from where you installed it"
    if (Path(__file__).parents[2] / "setup.py").exists():
        remedy = (
            "this is a checkout of the source, so build it here with `pip install --no-build-isolation -e .`, or run "
            "Python elsewhere if you have installed roipool"
        )
    raise ImportError(f"roipool's native library is missing or does not load ({error}): {remedy}") from error

LIBRARY = Path(__file__).parents[1] / "libroipool.so"
CUDA_LIBRARY = LIBRARY.with_name("libroipool_cuda.so")

# The operators. What needs them imports them from here, where they are sure to be loaded.
ops = torch.ops.roipool


def load_cuda_kernels() -> bool:
    """Loads the CUDA kernels, and returns whether there are any and a torch that can run them.

    Their library needs a torch with CUDA to load.
    """
    if torch.version.cuda is None or not CUDA_LIBRARY.exists():
        return False
    try:
        torch.ops.load_library(CUDA_LIBRARY)
    except OSError as error:
        raise ImportError(
            f"roipool's CUDA library {CUDA_LIBRARY} does not load beside torch {torch.__version__} "
            f"({error.__cause__ or error}): reinstall roipool, or install it with ROIPOOL_CUDA=0 to do without CUDA"
        ) from error
    return True


def refuse_cuda_tensors(names: Iterable[str]) -> torch.library.Library:
    """Registers, for the operators of these names, CUDA kernels that say what is missing.

    The registrations last as long as the library that is returned.
    """
    library = torch.library.Library("roipool", "IMPL")
    for name in names:
        library.impl(name, raise_no_cuda_kernels, "CUDA")
    return library


def raise_no_cuda_kernels(*_: object, **__: object) -> NoReturn:
    raise NotImplementedError(
        "roipool was given CUDA tensors, but built without CUDA kernels: install the CUDA toolkit (nvcc), then "
        "reinstall roipool with FORCE_CUDA=1 (docs/install.md)"
    )
