"""Serves models of torchvision: its ``roi_pool`` runs on roipool's kernels."""

import importlib
import warnings

import torch
from torch import Tensor

from roipool import _ops
from roipool._ops.arguments import make_scale_positive
from roipool._ops.autograd import call_below_autograd
from roipool._ops.load import ops

__all__ = ["Acceleration", "accelerate"]


class Acceleration:
    """Holds on to what one call of :func:`accelerate` has done.

    Undoes that call at the end of a ``with`` block, or by :meth:`remove`. Other
    calls stay in force.
    """

    def __init__(self) -> None:
        self._library: torch.library.Library | None = _register_kernels()
        _in_force.add(self)

    def remove(self) -> None:
        """Undoes that call. Calling it again does nothing."""
        _in_force.discard(self)
        self._library = None  # kernels are registered for as long as their library lasts

    def __enter__(self) -> "Acceleration":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


# Keeps the handles that callers drop, since a library that nobody refers to takes its kernels with it.
_in_force: set[Acceleration] = set()


def accelerate() -> Acceleration:
    """Lets torchvision's ``roi_pool`` and ``RoIPool`` run on roipool's kernels.

    No line of a model changes::

        roipool.torchvision.accelerate()  # for as long as the process lasts

        with roipool.torchvision.accelerate():  # until the end of the block
            model(images)

    It replaces the kernels of the operators ``torchvision::roi_pool`` and
    ``torchvision::_roi_pool_backward`` on CPU and, where roipool has CUDA
    kernels, on CUDA. So it reaches all that calls these operators in this
    process: eager code, modules that were scripted, traced, exported or loaded,
    what ``torch.compile`` compiled before or compiles later, and packages of
    AOTInductor. Models keep no trace of it: what is saved or exported meanwhile
    runs on torchvision elsewhere. torchvision's derivatives, autocasting and
    fake kernels stay, and so do their limits: first derivatives in reverse
    mode, and boxes in the dtype of the features under ``torch.compile`` and
    export. All other operators stay torchvision's own, ``roi_align`` among
    them, and with it ``MultiScaleRoIAlign``; :class:`roipool.MultiScaleRoIPool`
    is the layer for feature pyramids.

    Results have the bits of torchvision's on ordinary data (on CUDA, gradients
    of torchvision's vary from run to run), and its memory format: they are
    contiguous, whatever the features are. An argmax means the same to both, so
    that a backward may follow a forward of the other. Results differ where
    :func:`roipool.roi_pool` does:

    - NaN features propagate, and a bin of -inf, or of values at or below
      -FLT_MAX, gives its value and that value a gradient. torchvision skips
      them.
    - A region whose ``batch_index`` is outside the batch gives 0, where
      torchvision reads out of bounds; so does one whose coordinates are not
      finite. Coordinates that leave int32 when they are scaled are clamped.
    - bfloat16 features are pooled as well, and in eager mode boxes may have
      another floating dtype than the features.
    - Beside float16 features, regions are placed in float32, not in float16.
      Gradients of float16 are summed in float32 and rounded once.
    - Gradients on CUDA have the same bits in every run.
    - Arguments that have no meaning raise a ``TypeError`` or ``ValueError``,
      also some that torchvision takes: an ``output_size`` of 0, a
      ``spatial_scale`` that is not finite, boxes without five columns. Scales
      that are 0 or negative stay allowed.

    torchvision's operator always writes an argmax, so that inference takes as
    long as the forward of training: call :func:`roipool.roi_pool` for the
    fastest one. The kernels are entered through Python, which adds some 10 us
    to a forward and 40 us to a training step: with next to nothing to compute,
    a call is slower than torchvision's own. C++ programs without Python are not
    reached.

    The kernels are the process's, not a thread's. Calls may be nested and
    undone in any order: torchvision's own are back once all are undone. PyTorch
    changes its table of kernels without a lock against calls, so that a call in
    another thread at that moment may fail or crash: do and undo this while no
    other thread pools regions.

    Returns:
        A handle, to be used in a ``with`` statement, or by its method
        ``remove()``, or not at all.

    Raises:
        ImportError: torchvision is not installed, or does not work beside this
            torch.
    """
    return Acceleration()


def _register_kernels() -> torch.library.Library:
    """Registers roipool's kernels for torchvision's operators, for as long as the library that is returned lasts."""
    _require_torchvision()
    library = torch.library.Library("torchvision", "IMPL")
    with warnings.catch_warnings():
        # PyTorch warns, once in a process, of a kernel that is overridden, as is the purpose here.
        warnings.filterwarnings("ignore", r"(?s).*Overriding a previously registered kernel", UserWarning)
        for key in ["CPU", "CUDA"] if _ops.cuda_is_loaded else ["CPU"]:
            library.impl("roi_pool", _roi_pool, key, allow_override=True)
            library.impl("_roi_pool_backward", _roi_pool_backward, key, allow_override=True)
    return library


def _require_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
        torch.ops.torchvision.roi_pool.default  # noqa: B018  # torchvision imports without its native library as well
    except (ImportError, AttributeError, RuntimeError) as error:  # it raises any of them beside another torch
        raise ImportError(
            f"roipool.torchvision.accelerate() needs torchvision, which does not work here ({error}): install the "
            f"version of torchvision that belongs to torch {torch.__version__}"
        ) from error


# ---- The kernels, with the arguments of torchvision's.


def _roi_pool(
    input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int
) -> tuple[Tensor, Tensor]:
    """Pools as torchvision's fake kernel says: into contiguous tensors. torch.compile relies on their strides."""
    rois, spatial_scale = make_scale_positive(rois, spatial_scale)
    arguments = (input.contiguous(), rois, pooled_height, pooled_width, spatial_scale)
    output, argmax = call_below_autograd(ops.roi_pool_with_argmax.default, *arguments)
    # A batch of no images is contiguous even with the strides of channels_last, which the operator then goes by.
    return output.contiguous(), argmax.contiguous()


def _roi_pool_backward(
    grad: Tensor,
    rois: Tensor,
    argmax: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    batch_size: int,
    channels: int,
    height: int,
    width: int,
) -> Tensor:
    rois, spatial_scale = make_scale_positive(rois, spatial_scale)
    arguments = (grad, rois, argmax, batch_size, height, width, spatial_scale)
    grad_input: Tensor = call_below_autograd(ops.roi_pool_backward.default, *arguments)
    return grad_input.contiguous()
