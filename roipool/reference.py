"""What roipool computes, in plain PyTorch: slow and obvious. The tests hold the native kernels to it, bit for bit."""

from collections.abc import Sequence

import torch
from torch import Tensor

from roipool.functional import pair, rois_of


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
    pooled_height, pooled_width = pair(output_size)
    rois = rois_of(boxes, input)
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
