"""roipool max-pools regions of interest in PyTorch, by functions and modules; its reference says what they compute."""

from pathlib import Path as _Path

from roipool import _ops as _ops  # first, since nothing works without the native library
from roipool import mxnet, reference
from roipool import torchvision as torchvision  # not in __all__: `import *` must not hide torchvision itself
from roipool._ops.bad_boxes import set_detect_bad_boxes
from roipool.functional import multiscale_roi_pool, roi_pool
from roipool.modules import MultiScaleRoIPool, RoIPool

__all__ = [
    "MultiScaleRoIPool",
    "RoIPool",
    "__version__",
    "cmake_prefix_path",
    "multiscale_roi_pool",
    "mxnet",
    "reference",
    "roi_pool",
    "set_detect_bad_boxes",
]

__version__ = "0.2.0"

cmake_prefix_path = str(_Path(__file__).parent / "share" / "cmake")
"""Where CMake's ``find_package(roipool)`` finds the operators for C++, as :data:`torch.utils.cmake_prefix_path`."""
