"""Max-pools regions of interest in PyTorch.

==========================================  ====================================
roi_pool, RoIPool                           pool from one feature map
multiscale_roi_pool, MultiScaleRoIPool      pool from a feature pyramid
set_detect_bad_boxes                        finds bad boxes
torchvision.accelerate                      makes models of torchvision faster
mxnet.roi_pooling                           has MXNet's signature
onnx.export                                 exports programs of torch.export
distributed                                 pools DTensors, once it is imported
reference                                   says what is computed, in PyTorch
==========================================  ====================================

``python -m roipool`` says what is installed.
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import Any as _Any

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


def __getattr__(name: str) -> _Any:
    """Imports roipool.onnx when it is first asked for, since few programs need it."""
    if name == "onnx":
        return _import_module("roipool.onnx")
    raise AttributeError(f"module 'roipool' has no attribute {name!r}")


cmake_prefix_path = str(_Path(__file__).parent / "share" / "cmake")
"""Where CMake's ``find_package(roipool)`` finds the operators for C++, as :data:`torch.utils.cmake_prefix_path`."""
