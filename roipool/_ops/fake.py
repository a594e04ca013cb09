"""The operators' fake kernels: the sizes, strides and dtypes of their results."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._prims_common.wrappers import _maybe_resize_out

from roipool._ops.checks import (
    _check,
    _check_argmax,
    _check_features,
    _check_inputs,
    _check_map_size,
    _check_num_levels,
    _check_output_size,
    _check_pyramid,
    _check_rois,
    _check_same_device,
    _check_same_shape,
    _check_spatial_scale,
    dtype_name,
)


def _memory_format(tensor: Tensor) -> torch.memory_format:
    """memory_format_of() of csrc/roi_pool_op.h: as PyTorch's, but whatever N is, which may depend on data."""
    one_image = torch.empty_strided((1, *tensor.shape[1:]), tensor.stride(), device="meta")
    return suggest_memory_format(one_image)


@torch.library.register_fake("roipool::roi_pool")
def _(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float) -> Tensor:
    _check_features(input, "input", "(N, C, H, W)")
    _check_map_size("input", input.shape[2], input.shape[3])
    _check_rois(rois, input, "input")
    _check_output_size(pooled_height, pooled_width)
    _check_spatial_scale("spatial_scale", spatial_scale)
    size = (rois.shape[0], input.shape[1], pooled_height, pooled_width)
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=_memory_format(input))


@torch.library.register_fake("roipool::roi_pool.out")
def _(
    input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float, *, out: Tensor
) -> Tensor:
    output = torch.ops.roipool.roi_pool.default(input, rois, pooled_height, pooled_width, spatial_scale)
    _check(
        out.dtype == input.dtype,
        lambda: f"out must be {dtype_name(input.dtype)} as input, got {dtype_name(out.dtype)}",
    )
    _check_same_device(out, "out", input, "input")
    _check(
        all(stride != 0 or size <= 1 for stride, size in zip(out.stride(), out.shape, strict=True)),
        lambda: "out must not have elements that share memory: clone() it first",
    )
    _maybe_resize_out(out, output.shape)
    return out


@torch.library.register_fake("roipool::roi_pool_with_argmax")
def _(
    input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> tuple[Tensor, Tensor]:
    output = torch.ops.roipool.roi_pool.default(input, rois, pooled_height, pooled_width, spatial_scale)
    return output, torch.empty_like(output, dtype=torch.int32)


@torch.library.register_fake("roipool::roi_pool_backward")
def _(grad_output: Tensor, rois: Tensor, argmax: Tensor, batch_size: int, height: int, width: int) -> Tensor:
    _check_features(grad_output, "grad_output", "(K, C, PH, PW)")
    _check_rois(rois, grad_output, "grad_output")
    _check_argmax(argmax, rois, grad_output, "grad_output")
    _check_same_shape(grad_output, "grad_output", argmax, "argmax")
    _check(
        batch_size >= 0 and height >= 0 and width >= 0,
        lambda: f"batch_size, height and width must not be negative, got {batch_size}, {height} and {width}",
    )
    _check_map_size("grad_input", height, width)
    size = (batch_size, argmax.shape[1], height, width)
    return torch.empty(size, dtype=grad_output.dtype, device=argmax.device, memory_format=_memory_format(argmax))


@torch.library.register_fake("roipool::roi_pool_gather")
def _(input: Tensor, rois: Tensor, argmax: Tensor) -> Tensor:
    _check_features(input, "input", "(N, C, H, W)")
    _check_map_size("input", input.shape[2], input.shape[3])
    _check_rois(rois, input, "input")
    _check_argmax(argmax, rois, input, "input")
    return torch.empty(argmax.shape, dtype=input.dtype, device=argmax.device, memory_format=_memory_format(argmax))


@torch.library.register_fake("roipool::multiscale_roi_pool")
def _(
    inputs: Sequence[Tensor],
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scales: Sequence[float],
    canonical_scale: float,
    canonical_level: int,
) -> Tensor:
    _check_inputs(inputs)
    first = inputs[0]
    _check_rois(rois, first, "inputs[0]")
    _check_output_size(pooled_height, pooled_width)
    _check_pyramid(spatial_scales, canonical_scale, "inputs", len(inputs))
    size = (rois.shape[0], first.shape[1], pooled_height, pooled_width)
    return torch.empty(size, dtype=first.dtype, device=first.device, memory_format=_memory_format(first))


@torch.library.register_fake("roipool::multiscale_roi_pool_with_argmax")
def _(inputs: Sequence[Tensor], rois: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    output = torch.ops.roipool.multiscale_roi_pool.default(inputs, rois, *arguments)
    return output, torch.empty_like(output, dtype=torch.int32)


@torch.library.register_fake("roipool::multiscale_roi_pool_backward")
def _(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    batch_size: int,
    heights: Sequence[int],
    widths: Sequence[int],
    spatial_scales: Sequence[float],
    canonical_scale: float,
    canonical_level: int,
) -> list[Tensor]:
    _check_features(grad_output, "grad_output", "(K, C, PH, PW)")
    _check_rois(rois, grad_output, "grad_output")
    _check_argmax(argmax, rois, grad_output, "grad_output")
    _check_same_shape(grad_output, "grad_output", argmax, "argmax")
    _check_num_levels("heights", len(heights))
    _check(
        len(widths) == len(heights),
        lambda: f"widths must hold as many numbers as heights, {len(heights)}, got {len(widths)}",
    )
    for height, width in zip(heights, widths, strict=True):
        _check(
            batch_size >= 0 and height >= 0 and width >= 0,
            lambda height=height, width=width: (
                f"batch_size, heights and widths must not be negative, got {batch_size}, {height} and {width}"
            ),
        )
        _check_map_size("grad_inputs", height, width)
    _check_pyramid(spatial_scales, canonical_scale, "heights", len(heights))
    memory_format = _memory_format(argmax)
    return [
        torch.empty(
            (batch_size, argmax.shape[1], height, width),
            dtype=grad_output.dtype,
            device=argmax.device,
            memory_format=memory_format,
        )
        for height, width in zip(heights, widths, strict=True)
    ]


@torch.library.register_fake("roipool::multiscale_roi_pool_gather")
def _(
    inputs: Sequence[Tensor],
    rois: Tensor,
    argmax: Tensor,
    spatial_scales: Sequence[float],
    canonical_scale: float,
    canonical_level: int,
) -> Tensor:
    _check_inputs(inputs)
    _check_rois(rois, inputs[0], "inputs[0]")
    _check_argmax(argmax, rois, inputs[0], "inputs[0]")
    _check_pyramid(spatial_scales, canonical_scale, "inputs", len(inputs))
    return torch.empty(argmax.shape, dtype=inputs[0].dtype, device=argmax.device, memory_format=_memory_format(argmax))
