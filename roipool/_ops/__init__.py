"""Loads the native library and tells PyTorch what it cannot: the operators' fake kernels and their derivatives."""

from collections.abc import Callable

import torch

# isort: off
from roipool._ops import load  # first: the operators are defined in the native library
from roipool._ops import autograd, fake as fake, vmap
# isort: on

# Every operator, and what runs at its Autograd key.
_AUTOGRAD_KERNELS: dict[str, Callable[..., object]] = {
    "roi_pool": autograd.roi_pool,
    "roi_pool.out": autograd.roi_pool_out,
    "roi_pool_with_argmax": autograd.roi_pool_with_argmax,
    "roi_pool_backward": autograd.roi_pool_backward,
    "roi_pool_gather": autograd.roi_pool_gather,
    "multiscale_roi_pool": autograd.multiscale_roi_pool,
    "multiscale_roi_pool_with_argmax": autograd.multiscale_roi_pool_with_argmax,
    "multiscale_roi_pool_backward": autograd.multiscale_roi_pool_backward,
    "multiscale_roi_pool_gather": autograd.multiscale_roi_pool_gather,
}


def _register_autograd() -> torch.library.Library:
    library = torch.library.Library("roipool", "IMPL")
    for name, kernel in _AUTOGRAD_KERNELS.items():
        library.impl(name, kernel, "Autograd")
    library.impl("roi_pool.out", autograd.roi_pool_out_in_place, "ADInplaceOrView")
    return library  # the registrations last as long as it does


_autograd = _register_autograd()

torch.library.register_vmap("roipool::roi_pool", vmap.roi_pool)
torch.library.register_vmap("roipool::roi_pool_with_argmax", vmap.roi_pool_with_argmax)
torch.library.register_vmap("roipool::roi_pool_backward", vmap.roi_pool_backward)
torch.library.register_vmap("roipool::roi_pool_gather", vmap.roi_pool_gather)
torch.library.register_vmap("roipool::multiscale_roi_pool", vmap.multiscale_roi_pool)
torch.library.register_vmap("roipool::multiscale_roi_pool_with_argmax", vmap.multiscale_roi_pool_with_argmax)
torch.library.register_vmap("roipool::multiscale_roi_pool_backward", vmap.multiscale_roi_pool_backward)
torch.library.register_vmap("roipool::multiscale_roi_pool_gather", vmap.multiscale_roi_pool_gather)

cuda_is_loaded = load._load_cuda_kernels()
if not cuda_is_loaded:
    _cuda = load._refuse_cuda(_AUTOGRAD_KERNELS)
