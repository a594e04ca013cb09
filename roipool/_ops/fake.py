"""Gives the operators fake kernels: checks, then results of the right size, dtype and strides, without values.

torch.compile, export and meta tensors go by them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from roipool._ops import checks
from roipool._ops.load import ops
from roipool._ops.torch_private import resize_out, suggest_memory_format


def register() -> None:
    for name, kernel in FAKE_KERNELS.items():
        torch.library.register_fake(f"roipool::{name}", kernel)


def find_memory_format(tensor: Tensor) -> torch.memory_format:
    """Returns the format that the native operators take a tensor to have.

    It is PyTorch's own, but whatever the first size is: that may depend on data.
    """
    one_image = torch.empty_strided((1, *tensor.shape[1:]), tensor.stride(), device="meta")
    return suggest_memory_format(one_image)


def make_result(size: Sequence[int], values_like: Tensor, format_like: Tensor) -> Tensor:
    """Makes a tensor with the dtype and device of one tensor and the memory format of another."""
    return torch.empty(
        size, dtype=values_like.dtype, device=values_like.device, memory_format=find_memory_format(format_like)
    )


def fake_roi_pool(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float) -> Tensor:
    checks.check_roi_pool(input, rois, pooled_height, pooled_width, spatial_scale)
    return make_result((rois.shape[0], input.shape[1], pooled_height, pooled_width), input, input)


def fake_roi_pool_out(input: Tensor, rois: Tensor, *arguments: Any, out: Tensor) -> Tensor:
    checks.check_roi_pool_out(input, rois, *arguments, out=out)
    resize_out(out, ops.roi_pool.default(input, rois, *arguments).shape)
    return out


def fake_roi_pool_with_argmax(input: Tensor, rois: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    output = ops.roi_pool.default(input, rois, *arguments)
    return output, torch.empty_like(output, dtype=torch.int32)


def fake_roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, batch_size: int, height: int, width: int, spatial_scale: float
) -> Tensor:
    checks.check_roi_pool_backward(grad_output, rois, argmax, batch_size, height, width, spatial_scale)
    return make_result((batch_size, argmax.shape[1], height, width), grad_output, argmax)


def fake_roi_pool_gather(input: Tensor, rois: Tensor, argmax: Tensor, spatial_scale: float) -> Tensor:
    checks.check_roi_pool_gather(input, rois, argmax, spatial_scale)
    return make_result(argmax.shape, input, argmax)


def fake_multiscale_roi_pool(
    inputs: Sequence[Tensor], rois: Tensor, pooled_height: int, pooled_width: int, *pyramid: Any
) -> Tensor:
    checks.check_multiscale_roi_pool(inputs, rois, pooled_height, pooled_width, *pyramid)
    return make_result((rois.shape[0], inputs[0].shape[1], pooled_height, pooled_width), inputs[0], inputs[0])


def fake_multiscale_roi_pool_with_argmax(
    inputs: Sequence[Tensor], rois: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    output = ops.multiscale_roi_pool.default(inputs, rois, *arguments)
    return output, torch.empty_like(output, dtype=torch.int32)


def fake_multiscale_roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    batch_size: int,
    heights: Sequence[int],
    widths: Sequence[int],
    *pyramid: Any,
) -> list[Tensor]:
    checks.check_multiscale_roi_pool_backward(grad_output, rois, argmax, batch_size, heights, widths, *pyramid)
    channels = argmax.shape[1]
    return [
        make_result((batch_size, channels, height, width), grad_output, argmax)
        for height, width in zip(heights, widths, strict=True)
    ]


def fake_multiscale_roi_pool_gather(inputs: Sequence[Tensor], rois: Tensor, argmax: Tensor, *pyramid: Any) -> Tensor:
    checks.check_multiscale_roi_pool_gather(inputs, rois, argmax, *pyramid)
    return make_result(argmax.shape, inputs[0], argmax)


FAKE_KERNELS: dict[str, Callable[..., Any]] = {
    "roi_pool": fake_roi_pool,
    "roi_pool.out": fake_roi_pool_out,
    "roi_pool_with_argmax": fake_roi_pool_with_argmax,
    "roi_pool_backward": fake_roi_pool_backward,
    "roi_pool_gather": fake_roi_pool_gather,
    "multiscale_roi_pool": fake_multiscale_roi_pool,
    "multiscale_roi_pool_with_argmax": fake_multiscale_roi_pool_with_argmax,
    "multiscale_roi_pool_backward": fake_multiscale_roi_pool_backward,
    "multiscale_roi_pool_gather": fake_multiscale_roi_pool_gather,
}
