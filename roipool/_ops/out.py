"""Serves roi_pool's out=: the call of the operator roi_pool.out, and its kernels above the native one."""

from typing import Any

import torch
from torch import Tensor

from roipool._ops.autograd import is_differentiated, restore_exception
from roipool._ops.checks import check_roi_pool, name_dtype
from roipool._ops.load import ops
from roipool._ops.torch_private import BelowAutograd, ExcludeKeys, InPlaceOrView, get_jit_trace, resize_out


def register() -> torch.library.Library:
    """Registers the kernels of roi_pool.out, for as long as the library that is returned lasts."""
    library = torch.library.Library("roipool", "IMPL")
    library.impl("roi_pool.out", write_without_derivatives, "Autograd")
    library.impl("roi_pool.out", write_new_version, "ADInplaceOrView")
    return library


# ---- The call.


def call_with_out(arguments: tuple[Any, ...], out: Tensor) -> Tensor:
    """Calls roi_pool with its arguments and out=."""
    if torch.compiler.is_compiling():
        return copy_to_out(arguments, out)
    if get_jit_trace() is None:
        resize_before_call(arguments, out)
    written: Tensor = ops.roi_pool.out(*arguments, out=out)
    return written


def resize_before_call(arguments: tuple[Any, ...], out: Tensor) -> None:
    """Resizes out where the operator would, whose own warning goes to stderr instead of to Python."""
    input, rois, *output_size, _ = arguments
    if input.ndim == 4 and out.shape == (rois.shape[0], input.shape[1], *output_size):
        return
    refuse_derivatives(*arguments, out)
    check_roi_pool(*arguments)  # before anything is resized
    if out.dtype != input.dtype or out.device != input.device:
        return  # the operator refuses it
    shape = (rois.shape[0], input.shape[1], *output_size)
    if out.numel() == 0:
        out.resize_(shape)
    else:
        resize_out(out, shape)


def copy_to_out(arguments: tuple[Any, ...], out: Tensor) -> Tensor:
    """Copies to out what roi_pool returns.

    torch.compile takes no operators that return what they write to, nor tensors that change their shape.
    """
    refuse_derivatives(*arguments, out)
    output = ops.roi_pool.default(*arguments)
    if out.shape != output.shape or out.dtype != output.dtype or out.device != output.device:
        raise ValueError(
            f"out must be {name_dtype(output.dtype)} of shape {tuple(output.shape)} on {output.device} under "
            f"torch.compile and in export, got {name_dtype(out.dtype)} of shape {tuple(out.shape)} on {out.device}"
        )
    return out.copy_(output)


# ---- The kernels.


def refuse_derivatives(*arguments: Any) -> None:
    """Says what PyTorch says of its own functions with out=."""
    if any(isinstance(argument, Tensor) and is_differentiated(argument) for argument in arguments):
        raise RuntimeError(
            "roi_pool(): functions with out=... arguments don't support automatic differentiation, "
            "but one of the arguments requires grad."
        )


def write_without_derivatives(*arguments: Any, out: Tensor) -> Tensor:
    """Runs at the Autograd key."""
    if out is None:
        raise TypeError("out must be a torch.Tensor, got None")
    refuse_derivatives(*arguments, out)
    with BelowAutograd():  # which leaves the kernel below in
        ops.roi_pool.out(*arguments, out=out)
    return out


def write_new_version(*arguments: Any, out: Tensor) -> Tensor:
    """Runs at the ADInplaceOrView key, which inference mode leaves on, and gives what is overwritten a new version."""
    if out.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed. "
            "You can make a clone to get a normal tensor before doing inplace update."
        )
    with ExcludeKeys(InPlaceOrView):
        try:
            ops.roi_pool.out(*arguments, out=out)
        except RuntimeError as error:
            raise restore_exception(error, ops.roi_pool.out, *arguments, out=out) from None
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)
    return out
