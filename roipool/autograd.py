"""Derivatives of the operators: what runs at their Autograd key.

With g the gather at argmax and s the scatter to argmax (roi_pool_gather and roi_pool_backward, both linear):

    operator             forward mode            reverse mode
    roi_pool             d output = g(d input)   grad_input       = s(grad_output)
    roi_pool_backward    d s(x) = s(d x)         grad_grad_output = g(grad)
    roi_pool_gather      d g(x) = g(d x)         grad_input       = s(grad_output)

so the three differentiate one another, to any order. rois get no gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

ops = torch.ops.roipool

# Inside it, an operator is its native kernel: dispatch starts below the Autograd key.
below_autograd = torch._C._AutoDispatchBelowAutograd


class RoIPoolFunction(Function):
    """roi_pool_with_argmax, differentiable in input."""

    @staticmethod
    def forward(
        input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
    ) -> tuple[Tensor, Tensor]:
        with below_autograd():
            return ops.roi_pool_with_argmax.default(input, rois, pooled_height, pooled_width, spatial_scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        input, rois, *_ = inputs
        _, argmax = output
        ctx.map_size = (input.shape[0], input.shape[2], input.shape[3])
        ctx.mark_non_differentiable(argmax)
        ctx.set_materialize_grads(False)  # of argmax, that would be a tensor of zeros in each backward
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return None, None, None, None, None
        grad_input = ops.roi_pool_backward.default(grad_output, *ctx.saved_tensors, *ctx.map_size)
        return grad_input, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, input_tangent: Tensor, *_: None) -> tuple[Tensor, None]:
        return ops.roi_pool_gather.default(input_tangent, *ctx.saved_tensors), None


class RoIPoolBackwardFunction(Function):
    """roi_pool_backward, differentiable in grad_output."""

    @staticmethod
    def forward(grad_output: Tensor, rois: Tensor, argmax: Tensor, batch_size: int, height: int, width: int) -> Tensor:
        with below_autograd():
            return ops.roi_pool_backward.default(grad_output, rois, argmax, batch_size, height, width)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, rois, argmax, *ctx.map_size = inputs
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ops.roi_pool_gather.default(grad, *ctx.saved_tensors), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, grad_output_tangent: Tensor, *_: None) -> Tensor:
        return ops.roi_pool_backward.default(grad_output_tangent, *ctx.saved_tensors, *ctx.map_size)


class RoIPoolGatherFunction(Function):
    """roi_pool_gather, differentiable in input."""

    @staticmethod
    def forward(input: Tensor, rois: Tensor, argmax: Tensor) -> Tensor:
        with below_autograd():
            return ops.roi_pool_gather.default(input, rois, argmax)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        input, rois, argmax = inputs
        ctx.map_size = (input.shape[0], input.shape[2], input.shape[3])
        ctx.save_for_backward(rois, argmax)
        ctx.save_for_forward(rois, argmax)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return ops.roi_pool_backward.default(grad_output, *ctx.saved_tensors, *ctx.map_size), None, None

    @staticmethod
    def jvp(ctx: Any, input_tangent: Tensor, *_: None) -> Tensor:
        return ops.roi_pool_gather.default(input_tangent, *ctx.saved_tensors)


def _is_differentiated(tensor: Tensor) -> bool:
    return (torch.is_grad_enabled() and tensor.requires_grad) or forward_ad.unpack_dual(tensor).tangent is not None


# The kernels at the Autograd key. Where nothing is differentiated they go straight to the native kernel, so that
# roi_pool writes no argmax and nothing is saved.


def roi_pool(input: Tensor, *arguments: Any) -> Tensor:
    if _is_differentiated(input):
        return RoIPoolFunction.apply(input, *arguments)[0]
    with below_autograd():
        return ops.roi_pool.default(input, *arguments)


def roi_pool_with_argmax(input: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return RoIPoolFunction.apply(input, *arguments)


def roi_pool_backward(grad_output: Tensor, *arguments: Any) -> Tensor:
    return RoIPoolBackwardFunction.apply(grad_output, *arguments)


def roi_pool_gather(input: Tensor, *arguments: Any) -> Tensor:
    return RoIPoolGatherFunction.apply(input, *arguments)
