"""What roipool computes, in plain PyTorch: slow and obvious. The tests hold the native kernels to it, bit for bit."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from roipool.functional import convert_boxes_to_rois, parse_output_size


def _round(values: Tensor) -> Tensor:
    """Half away from zero (torch.round goes to even)."""
    whole = values.trunc()
    return torch.where((values - whole).abs() >= 0.5, whole + values.sign(), whole)


def _windows(first: Tensor, last: Tensor, spatial_scale: float, extent: int, num_bins: int) -> tuple[Tensor, Tensor]:
    """lo and hi, both (K, num_bins), of the bins between two corners (K,) in image pixels: cells lo .. hi-1."""
    scale = torch.tensor(spatial_scale, dtype=first.dtype)
    start = _round((first * scale).clamp(-(2.0**29), 2.0**29)).long()
    end = _round((last * scale).clamp(-(2.0**29), 2.0**29)).long()
    size = (end - start + 1).clamp(min=1)
    bin = (size.to(first.dtype) / torch.tensor(num_bins, dtype=first.dtype)).unsqueeze(1)
    p = torch.arange(num_bins)
    lo = (p.to(first.dtype) * bin).floor().long() + start.unsqueeze(1)
    hi = ((p + 1).to(first.dtype) * bin).ceil().long() + start.unsqueeze(1)
    return lo.clamp(0, extent), hi.clamp(0, extent)


def _argmax(cells: Tensor) -> Tensor:
    """Along the last dimension: the last NaN where there is one, else the first of the largest values."""
    last_nan = cells.shape[-1] - 1 - cells.isnan().int().flip(-1).argmax(-1)
    return torch.where(cells.isnan().any(-1), last_nan, cells.argmax(-1))


def _images(rois: Tensor, num_images: int, spatial_scale: float) -> list[int]:
    """The image of each region, or -1 where it lies in none: a batch index out of range, a corner that is no number."""
    index = rois[:, 0].trunc()
    scaled = rois[:, 1:] * torch.tensor(spatial_scale, dtype=rois.dtype)
    valid = (index >= 0) & (index < num_images) & rois.isfinite().all(1) & ~scaled.isnan().any(1)
    return torch.where(valid, index, -1).long().tolist()


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    *,
    return_argmax: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """What :func:`roipool.roi_pool` computes, region by region and bin by bin.

    On CPU, without a derivative, and for valid arguments only: it checks none.
    """
    pooled_height, pooled_width = parse_output_size(output_size)
    rois = convert_boxes_to_rois(boxes, input)
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))  # int and half-precision rois are widened
    num_images, channels, height, width = input.shape
    # Values are moved as integers: torch.gather of bfloat16 rewrites the bits of a NaN.
    bits = input.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[input.element_size()])
    output = bits.new_zeros(len(rois), channels, pooled_height, pooled_width)
    argmax = torch.full(output.shape, -1, dtype=torch.int32)

    rows = torch.stack(_windows(rois[:, 2], rois[:, 4], spatial_scale, height, pooled_height), 2).tolist()
    columns = torch.stack(_windows(rois[:, 1], rois[:, 3], spatial_scale, width, pooled_width), 2).tolist()
    cell_of = torch.arange(height * width).view(height, width)
    for k, image in enumerate(_images(rois, num_images, spatial_scale)):
        for p, (top, bottom) in enumerate(rows[k]):
            for q, (left, right) in enumerate(columns[k]):
                if image < 0 or bottom <= top or right <= left:
                    continue  # no cell: 0 and -1
                best = _argmax(input[image, :, top:bottom, left:right].flatten(1))
                cell = cell_of[top:bottom, left:right].flatten()[best]
                output[k, :, p, q] = bits[image].flatten(1).gather(1, cell.unsqueeze(1)).squeeze(1)
                argmax[k, :, p, q] = cell
    pooled = output.view(input.dtype)
    return (pooled, argmax) if return_argmax else pooled


def levels_of(boxes: Tensor, spatial_scales: Sequence[float], canonical_scale: float, canonical_level: int) -> Tensor:
    """(K,): the index of the map that each of boxes (K, 4), in image pixels, is pooled from."""
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = (canonical_level + (size / canonical_scale).log2() + 1e-6).floor()
    first_level = -round(math.log2(spatial_scales[0]))
    return (level - first_level).nan_to_num(nan=0).clamp(0, len(spatial_scales) - 1).long()


def multiscale_roi_pool(
    inputs: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scales: Sequence[float],
    *,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    return_argmax: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """What :func:`roipool.multiscale_roi_pool` computes, level by level. On the terms of :func:`roi_pool`."""
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
    """The gradient of ``input``, summed in the order that fixes its bits: ascending region, then row, then column."""
    num_images, channels, height, width = input_shape
    sums_dtype = torch.promote_types(grad_output.dtype, torch.float32)
    sums = torch.zeros(num_images, channels, height * width, dtype=sums_dtype)
    channel = torch.arange(channels)
    for k, image in enumerate(boxes[:, 0].tolist()):
        for p in range(argmax.shape[2]):
            for q in range(argmax.shape[3]):
                cell = argmax[k, :, p, q].long()
                hit = cell >= 0  # nowhere for a region that lies in no image
                if hit.any():
                    sums[int(image), channel[hit], cell[hit]] += grad_output[k, hit, p, q].to(sums_dtype)
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
    """The gradients of ``inputs``."""
    levels = levels_of(boxes[:, 1:], spatial_scales, canonical_scale, canonical_level)
    return [
        roi_pool_backward(grad_output[levels == level], boxes[levels == level], argmax[levels == level], shape)
        for level, shape in enumerate(input_shapes)
    ]
