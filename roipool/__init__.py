"""ROI max pooling for PyTorch: the operator, its module, and the reference that says what they compute."""

from roipool import _library as _library  # first: nothing works without the native library
from roipool import mxnet, reference
from roipool.functional import roi_pool
from roipool.modules import RoIPool

__all__ = ["RoIPool", "__version__", "mxnet", "reference", "roi_pool"]

__version__ = "0.1.0"
