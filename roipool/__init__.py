"""roipool max-pools regions of interest in PyTorch, by functions and modules; its reference says what they compute."""

from roipool import _ops as _ops  # first, since nothing works without the native library
from roipool import mxnet, reference
from roipool.functional import multiscale_roi_pool, roi_pool
from roipool.modules import MultiScaleRoIPool, RoIPool

__all__ = ["MultiScaleRoIPool", "RoIPool", "__version__", "multiscale_roi_pool", "mxnet", "reference", "roi_pool"]

__version__ = "0.1.0"
