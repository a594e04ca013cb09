"""Computes in plain PyTorch what roipool does: slow and obvious.

The native kernels are held to it, bit for bit.
"""

from __future__ import annotations  # lets help() show the names of types, as they stand here

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from roipool._ops.arguments import (
    Scale,
    Size,
    convert_boxes_to_rois,
    parse_output_size,
    parse_scale,
)


def _round(values: Tensor) -> Tensor:
    """Rounds halves away from zero; torch.round takes them to even."""
    whole = values.trunc()
    return torch.where((values - whole).abs() >= 0.5, whole + values.sign(), whole)


def _bin_cells(
    first: Tensor, last: Tensor, spatial_scale: float, num_cells: int, num_bins: int
) -> tuple[Tensor, Tensor]:
    """Returns lo and hi, both (K, num_bins): each bin between two corners (K,) in image pixels has cells lo .. hi-1."""
    scale = torch.tensor(spatial_scale, dtype=first.dtype)
    start = _round((first * scale).clamp(-(2.0**29), 2.0**29)).long()
    end = _round((last * scale).clamp(-(2.0**29), 2.0**29)).long()
    size = (end - start + 1).clamp(min=1)
    bin_size = (size.to(first.dtype) / torch.tensor(num_bins, dtype=first.dtype)).unsqueeze(1)
    p = torch.arange(num_bins)
    lo = (p.to(first.dtype) * bin_size).floor().long() + start.unsqueeze(1)
    hi = ((p + 1).to(first.dtype) * bin_size).ceil().long() + start.unsqueeze(1)
    return lo.clamp(0, num_cells), hi.clamp(0, num_cells)


def _find_largest(values: Tensor) -> Tensor:
    """Returns the index, along the last dimension, of the last NaN, or else of the first of the largest values."""
    last_nan = values.shape[-1] - 1 - values.isnan().int().flip(-1).argmax(-1)
    return torch.where(values.isnan().any(-1), last_nan, values.argmax(-1))


def _find_images(rois: Tensor, num_images: int, scale_y: float, scale_x: float) -> list[int]:
    """Returns the image of each region, or -1 for none: its batch index is out of range, or a corner is no number."""
    batch_index = rois[:, 0].trunc()
    scaled = rois[:, 1:] * torch.tensor([scale_x, scale_y, scale_x, scale_y], dtype=rois.dtype)
    valid = (batch_index >= 0) & (batch_index < num_images) & rois.isfinite().all(1) & ~scaled.isnan().any(1)
    return torch.where(valid, batch_index, -1).long().tolist()


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scale: Scale = 1.0,
    *,
    return_argmax: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Computes what :func:`roipool.roi_pool` does, bin by bin.

    It works on CPU, has no derivative, and checks no argument.

    Args:
        input: feature maps ``(N, C, H, W)``, float16, bfloat16, float32 or
            float64.
        boxes: regions in image pixels, ``(K, 5)`` or a list of N tensors
            ``(L_i, 4)``.
        output_size: bins per region, ``PH = PW`` or ``(PH, PW)``.
        spatial_scale: feature cells per image pixel, of both axes or
            ``(y, x)``.
        return_argmax: also return where each value was found.

    Returns:
        ``output`` ``(K, C, PH, PW)`` in the dtype of ``input``, or
        ``(output, argmax)`` with argmax in int32.
    """
    pooled_height, pooled_width = parse_output_size(output_size)
    rois = convert_boxes_to_rois(boxes, input)
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))  # int and half-precision rois are widened
    num_images, channels, height, width = input.shape
    # Values are moved as integers, since torch.gather of bfloat16 rewrites the bits of a NaN.
    bits = input.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[input.element_size()])
    output = bits.new_zeros(len(rois), channels, pooled_height, pooled_width)
    argmax = torch.full(output.shape, -1, dtype=torch.int32)

    scale_y, scale_x = parse_scale(spatial_scale, "spatial_scale")
    rows = torch.stack(_bin_cells(rois[:, 2], rois[:, 4], scale_y, height, pooled_height), 2).tolist()
    columns = torch.stack(_bin_cells(rois[:, 1], rois[:, 3], scale_x, width, pooled_width), 2).tolist()
    cells = torch.arange(height * width).view(height, width)
    for k, image in enumerate(_find_images(rois, num_images, scale_y, scale_x)):
        for p, (top, bottom) in enumerate(rows[k]):
            for q, (left, right) in enumerate(columns[k]):
                if image < 0 or bottom <= top or right <= left:
                    continue  # no cell: 0 and -1
                largest = _find_largest(input[image, :, top:bottom, left:right].flatten(1))
                cell = cells[top:bottom, left:right].flatten()[largest]
                output[k, :, p, q] = bits[image].flatten(1).gather(1, cell.unsqueeze(1)).squeeze(1)
                argmax[k, :, p, q] = cell
    pooled = output.view(input.dtype)
    return (pooled, argmax) if return_argmax else pooled


def levels_of(boxes: Tensor, spatial_scales: Sequence[Scale], canonical_scale: float, canonical_level: int) -> Tensor:
    """Returns ``(K,)``: the index of the map that each box is pooled from.

    Takes boxes ``(K, 4)`` in image pixels; the other arguments are those of
    :func:`multiscale_roi_pool`.
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # The last bit of torch.sqrt depends on the processor.
    size = torch.tensor([math.sqrt(area) if area >= 0 else math.nan for area in areas.tolist()], dtype=boxes.dtype)
    level = (canonical_level + (size / canonical_scale).log2() + 1e-6).floor()
    scale_y, scale_x = parse_scale(spatial_scales[0], "spatial_scales[0]")
    first_level = -round((math.log2(scale_y) + math.log2(scale_x)) / 2)
    return (level - first_level).nan_to_num(nan=0).clamp(0, len(spatial_scales) - 1).long()


def multiscale_roi_pool(
    inputs: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scales: Sequence[Scale],
    *,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    return_argmax: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Computes what :func:`roipool.multiscale_roi_pool` does, level by level.

    Takes the arguments of :func:`roipool.multiscale_roi_pool`, on CPU, and
    checks none. Has no derivative. Returns what :func:`roi_pool` does;
    ``argmax`` is an offset in the map of the region's level.
    """
    rois = convert_boxes_to_rois(boxes, inputs[0])
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))
    size = (len(rois), inputs[0].shape[1], *parse_output_size(output_size))
    output = torch.zeros(size, dtype=inputs[0].dtype)
    argmax = torch.full(size, -1, dtype=torch.int32)
    levels = levels_of(rois[:, 1:], spatial_scales, canonical_scale, canonical_level)
    for level, (input, spatial_scale) in enumerate(zip(inputs, spatial_scales, strict=True)):
        here = levels == level
        output[here], argmax[here] = roi_pool(input, rois[here], output_size, spatial_scale, return_argmax=True)
    return (output, argmax) if return_argmax else output


def roi_pool_backward(grad_output: Tensor, boxes: Tensor, argmax: Tensor, input_shape: Sequence[int]) -> Tensor:
    """Returns the gradient of ``input``, summed in the order that fixes it.

    That is by region, then row of bins, then column.

    Args:
        grad_output: gradient of the output, ``(K, C, PH, PW)``.
        boxes: regions ``(K, 5)``.
        argmax: that of :func:`roi_pool`, ``(K, C, PH, PW)``, int32.
        input_shape: ``(N, C, H, W)``.

    Returns:
        ``(N, C, H, W)`` in the dtype of ``grad_output``; sums are in float32,
        or float64 for float64.
    """
    num_images, channels, height, width = input_shape
    sums_dtype = torch.promote_types(grad_output.dtype, torch.float32)
    sums = torch.zeros(num_images, channels, height * width, dtype=sums_dtype)
    channel = torch.arange(channels)
    for k, image in enumerate(boxes[:, 0].tolist()):
        for p in range(argmax.shape[2]):
            for q in range(argmax.shape[3]):
                cell = argmax[k, :, p, q].long()
                found = cell >= 0  # in no channel where the region lies in no image
                if found.any():
                    sums[int(image), channel[found], cell[found]] += grad_output[k, found, p, q].to(sums_dtype)
    return sums.to(grad_output.dtype).view(num_images, channels, height, width)


def multiscale_roi_pool_backward(
    grad_output: Tensor,
    boxes: Tensor,
    argmax: Tensor,
    input_shapes: Sequence[Sequence[int]],
    spatial_scales: Sequence[float],
    *,
    canonical_scale: float = 224,
    canonical_level: int = 4,
) -> list[Tensor]:
    """Returns the gradient of each of ``inputs``.

    They have the shapes ``input_shapes``. Sums as :func:`roi_pool_backward`
    does.
    """
    levels = levels_of(boxes[:, 1:], spatial_scales, canonical_scale, canonical_level)
    return [
        roi_pool_backward(grad_output[levels == level], boxes[levels == level], argmax[levels == level], shape)
        for level, shape in enumerate(input_shapes)
    ]
