"""Loads the native libraries."""

import importlib
import importlib.util
from collections.abc import Iterable
from typing import NoReturn

import torch

try:
    importlib.import_module("roipool._C")
except ImportError as error:
    raise ImportError(
        f"roipool's native library roipool._C is missing or does not load ({error}): reinstall roipool from where you "
        "installed it, or, in a checkout of the source, build it with `pip install --no-build-isolation -e .`"
    ) from error


# ---- CUDA. roipool._C_cuda needs a torch with CUDA to load; it is a library of operators, not a Python module.


def _load_cuda_kernels() -> bool:
    """Whether there are any to load, and a torch that can run them."""
    spec = importlib.util.find_spec("roipool._C_cuda")
    if torch.version.cuda is None or spec is None or spec.origin is None:
        return False
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        raise ImportError(
            f"roipool's CUDA library {spec.origin} does not load beside torch {torch.__version__} "
            f"({error.__cause__ or error}): reinstall roipool, or install it with ROIPOOL_CUDA=0 to do without CUDA"
        ) from error
    return True


def _no_cuda_kernels(*_: object) -> NoReturn:
    raise NotImplementedError(
        "roipool was given CUDA tensors, but built without CUDA kernels: install the CUDA toolkit (nvcc), then "
        "reinstall roipool with FORCE_CUDA=1"
    )


def _refuse_cuda(names: Iterable[str]) -> torch.library.Library:
    library = torch.library.Library("roipool", "IMPL")
    for name in names:
        library.impl(name, _no_cuda_kernels, "CUDA")
    return library
