"""Takes the forms that arguments may have, and gives the operators the one that they take: sizes, scales and boxes."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from roipool._ops.checks import (
    check_is_box_tensor,
    check_is_dense,
    check_is_scale,
    check_output_size,
    check_rank_of_features,
    check_scale,
    check_shape_of_rois,
    is_int,
    is_real,
    refuse_scale,
)
from roipool._ops.torch_private import get_jit_trace, is_captured

# Repeats the limit of scale_coordinate() in csrc/geometry.h, in feature cells, to which coordinates are clamped.
FARTHEST_CELL = 2.0**29


class Array(Protocol):
    """Has numbers, as a tensor or NumPy's array."""

    def tolist(self) -> Any: ...


Number = float | Array
Scale = Number | Sequence[Number]  # of both axes, or (y, x)
Size = int | Array | Sequence[int | Array]  # PH = PW, or (PH, PW)


# ---- Numbers, which may be in tensors and arrays.


def unwrap_array(value: Any) -> Any:
    """Returns what a tensor or an array holds, a number or nested lists, and any other value as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def unwrap_number(value: Any) -> Any:
    """Does what unwrap_array() does, but gives the number itself where a tensor or an array has a single one."""
    held = value if is_real(value) else unwrap_array(value)
    while held is not value and isinstance(held, list) and len(held) == 1:
        held = held[0]
    return held


def unwrap_numbers(value: Any) -> tuple[Any, ...]:
    """Returns the numbers in a list, a tensor or an array of them, or a single number."""
    items = unwrap_number(value)
    return tuple(map(unwrap_number, items)) if isinstance(items, (tuple, list)) else (items,)


# ---- Sizes.


def parse_output_size(output_size: Any) -> tuple[int, int]:
    """Returns (PH, PW) of any form of output_size."""
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,)
    if not all(map(is_int, sizes)):
        sizes = unwrap_numbers(output_size)
        if not all(map(is_int, sizes)):
            raise TypeError(f"output_size must be an int or a pair of ints (PH, PW), got {output_size!r}")
    if len(sizes) not in (1, 2):
        raise ValueError(f"output_size must be an int or a pair of ints (PH, PW), got {output_size!r}")
    height, width = sizes[0], sizes[-1]
    if max(height, width) >= 2**63:  # the operator refuses the smaller ones that are out of range, but takes 64 bits
        check_output_size(int(height), int(width))
    return height, width


# ---- Scales.


def split_scale(scales: Sequence[Any], name: str) -> tuple[Any, Any]:
    """Returns (y, x) of one or two scales."""
    if len(scales) not in (1, 2):
        raise ValueError(f"{name} must be a float or a pair of floats (y, x), got {len(scales)} numbers")
    return scales[0], scales[-1]


def convert_to_float(scale: Any, name: str) -> Any:
    """Returns a number of any kind as a float, and the compiler's symbol for one as it is."""
    check_is_scale(scale, name)
    if isinstance(scale, (float, torch.SymFloat, torch.SymInt)):
        return scale
    try:
        return float(scale)
    except OverflowError:
        refuse_scale(name, f"{type(scale).__name__} beyond the range of floats")


def parse_scale(spatial_scale: Any, name: str) -> tuple[float, float]:
    """Returns the scales (y, x) of any form of spatial_scale."""
    return split_scale([convert_to_float(scale, name) for scale in unwrap_numbers(spatial_scale)], name)


def parse_scales(spatial_scales: Any, name: str = "spatial_scales") -> list[Any]:
    """Returns the scales of the levels of a pyramid, from fine to coarse: floats, and pairs (y, x) where these differ.

    Floats that are no scales are left to the operators, which refuse them.
    """
    items = unwrap_array(spatial_scales)
    if not isinstance(items, (list, tuple)):
        raise TypeError(f"{name} must be a list of floats, got {type(spatial_scales).__name__}")
    scales = [
        item if type(item) is float else parse_float_or_pair(item, f"{name}[{level}]")
        for level, item in enumerate(items)
    ]
    # Cells per square pixel, or negative for what is no scale.
    fineness = [math.prod(scale) if isinstance(scale, tuple) else scale * abs(scale) for scale in scales]
    for finer, coarser in pairwise(fineness):
        if coarser > finer * (1 + 1e-9) and finer > 0:  # products are rounded
            raise ValueError(f"maps must go from fine to coarse, got the scales {list(items)} (1/stride)")
    return scales


def parse_float_or_pair(spatial_scale: Any, name: str) -> Any:
    """Returns the scale of both axes, or the pair (y, x) where they differ."""
    scale_y, scale_x = parse_scale(spatial_scale, name)
    if scale_y is scale_x or scale_y == scale_x:  # the first also holds for a NaN, and asks no symbol for its value
        return scale_y
    check_scale(f"{name}[0]", scale_y)
    check_scale(f"{name}[1]", scale_x)
    return scale_y, scale_x


def flatten_scale(spatial_scale: Any) -> list[Any]:
    """Returns the numbers of a scale; those in tensors as tensors without a dimension, which widen no others."""
    items = spatial_scale if isinstance(spatial_scale, (tuple, list)) else [spatial_scale]
    numbers = [item.reshape(-1).unbind() if isinstance(item, Tensor) else [item] for item in items]
    return [number for numbers_of_item in numbers for number in numbers_of_item]


def apply_scale(rois: Tensor, spatial_scale: Any) -> tuple[Tensor, float]:
    """Returns rois and the one scale that an operator takes, from rois and any form of spatial_scale.

    Rois are scaled here, and the scale of the operator is 1, where there is a scale for each axis, or one in a tensor
    whose value may be another when a captured call is run.
    """
    if is_captured():
        numbers = flatten_scale(spatial_scale)
        if any(isinstance(number, Tensor) for number in numbers):
            return scale_rois(rois, *split_scale(numbers, "spatial_scale")), 1.0
    scale = parse_float_or_pair(spatial_scale, "spatial_scale")
    return (scale_rois(rois, *scale), 1.0) if isinstance(scale, tuple) else (rois, scale)


def make_scale_positive(rois: Tensor, spatial_scale: float) -> tuple[Tensor, float]:
    """Returns rois and a scale above 0 that place the regions where the given ones do, as other systems take any scale.

    The products of coordinates and scale have the same bits: a negative scale leaves its sign to the coordinates, and
    a scale of 0 leaves all of them 0.
    """
    if spatial_scale > 0 or not math.isfinite(spatial_scale):  # what is not finite is the operator's to refuse
        return rois, spatial_scale
    check_shape_of_rois(rois)
    sign, scale = (-1, -spatial_scale) if spatial_scale else (0, 1.0)
    return rois * rois.new_tensor([1, sign, sign, sign, sign]), scale


def scale_rois(rois: Tensor, scale_y: Any, scale_x: Any) -> Tensor:
    """Returns rois in feature cells, with the bits that the operators compute: one product in the type of the rois.

    Products are clamped here, since the operators would take an infinite one for a coordinate that is not finite.
    """
    wide = widen(rois)
    corners = wide[:, 1:]
    x1, y1, x2, y2 = corners.unbind(1)
    scaled = torch.stack([x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y], 1)
    clamped = scaled.clamp(-FARTHEST_CELL, FARTHEST_CELL)
    return torch.cat([wide[:, :1], torch.where(corners.isfinite(), clamped, corners)], 1)


# ---- Boxes.


def widen(boxes: Tensor) -> Tensor:
    """Returns boxes in the type in which the operators place them."""
    return boxes if boxes.dtype == torch.float64 else boxes.float()


def convert_boxes_to_rois(boxes: Any, input: Tensor, input_name: str = "input") -> Tensor:
    """Returns rois (K, 5), rows [batch_index, x1, y1, x2, y2], of any form of boxes."""
    knows_sizes = get_jit_trace() is None  # in torch.jit.trace, sizes are tensors, whose comparison it warns of
    if isinstance(boxes, Tensor):
        check_is_box_tensor(boxes, "boxes", input, input_name)
        if boxes.layout is not torch.strided and not boxes.is_nested:
            check_is_dense(boxes, "boxes")
        if boxes.ndim == 2 and (not knows_sizes or boxes.shape[1] == 5):
            return boxes
        if not boxes.is_nested:
            check_rank_of_features(input, input_name, "(N, C, H, W)")
            raise ValueError(
                "boxes must be a tensor (K, 5), rows [batch_index, x1, y1, x2, y2], or a list of N tensors (L_i, 4), "
                f"got shape {tuple(boxes.shape)}"
            )
        boxes = boxes.unbind()
    if not isinstance(boxes, (list, tuple)):
        raise TypeError(f"boxes must be a tensor (K, 5) or a list of N tensors (L_i, 4), got {type(boxes).__name__}")
    if knows_sizes and input.ndim == 4 and len(boxes) != input.shape[0]:
        raise ValueError(
            f"boxes must hold one tensor (L_i, 4) for each of the {input.shape[0]} images of {input_name}, "
            f"got {len(boxes)}"
        )
    parts = [
        add_batch_index(image_boxes, image_index, input, input_name, knows_sizes)
        for image_index, image_boxes in enumerate(boxes)
    ]
    return torch.cat(parts) if parts else torch.empty(0, 5, dtype=torch.float32, device=input.device)


def add_batch_index(boxes: Any, image_index: int, input: Tensor, input_name: str, knows_sizes: bool) -> Tensor:
    """Returns rois (L, 5) of the boxes (L, 4) of one image."""
    name = f"boxes[{image_index}]"
    check_is_box_tensor(boxes, name, input, input_name)
    check_is_dense(boxes, name)
    if boxes.ndim != 2 or (knows_sizes and boxes.shape[1] != 4):
        check_rank_of_features(input, input_name, "(N, C, H, W)")
        raise ValueError(f"{name} must have shape (L, 4), rows [x1, y1, x2, y2], got shape {tuple(boxes.shape)}")
    # Boxes are widened before the image's index joins them: float16 cannot hold 2049, nor bfloat16 257.
    return torch.constant_pad_nd(widen(boxes), (1, 0), image_index)


def lengths_of(boxes: Any) -> Sequence[int] | None:
    """Returns how many regions each image has, or None where boxes are one tensor (K, 5)."""
    if isinstance(boxes, Tensor):
        if not boxes.is_nested:
            return None
        boxes = boxes.unbind()
    return [len(image_boxes) for image_boxes in boxes]
