"""Finds the levels of regions, and pools level by level, out of PyTorch's own functions and roi_pool.

That is for what the operator multiscale_roi_pool cannot say: maps with a scale for each axis, and ONNX.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from roipool import _C
from roipool._ops.arguments import widen
from roipool._ops.torch_private import assume_constant_result


@assume_constant_result
def find_least_area(level: int, canonical_scale: float, canonical_level: int, rois_are_double: bool) -> float:
    """Returns the least area, in image pixels, of the regions of a level; or NaN where no region is of that level."""
    return _C.level_bound(level, canonical_scale, canonical_level, rois_are_double)


def find_levels(
    rois: Tensor, first_scale: tuple[Any, Any], num_levels: int, canonical_scale: float, canonical_level: int
) -> Tensor:
    """Returns (K,), the index of the map that each region is pooled from: that which the operator chooses.

    The geometric mean of the first map's scales (y, x) decides its level.
    """
    wide = widen(rois)
    area = (wide[:, 3] - wide[:, 1]) * (wide[:, 4] - wide[:, 2])
    scale_y, scale_x = first_scale
    first_level = -round((math.log2(scale_y) + math.log2(scale_x)) / 2)
    levels = torch.zeros_like(area, dtype=torch.int32)
    for level in range(first_level + 1, first_level + num_levels):
        least_area = find_least_area(level, canonical_scale, canonical_level, rois.dtype == torch.float64)
        levels = levels + (area >= least_area).int()
    return levels


def pool_level_by_level(
    pool: Callable[[Tensor, Tensor, tuple[Any, Any]], Any],
    inputs: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[tuple[Any, Any]],
    canonical_scale: float,
    canonical_level: int,
) -> Any:
    """Pools each region from the map of its level.

    Sizes depend on no data, so nothing waits for the device: each level pools all regions, those of other levels from a
    single cell. But each level writes an output for all regions, so it takes several times as long as the operator.

    Args:
        pool: pools regions (K, 5) from maps (N, C, H, W) of a scale (y, x), and returns one tensor (K, C, PH, PW) or
            several.
        inputs: maps (N, C, H, W), finest first.
        rois: regions (K, 5) in image pixels.
        scales: (y, x) of each map, feature cells per image pixel.
        canonical_scale: as in :func:`roipool.multiscale_roi_pool`.
        canonical_level: likewise.

    Returns:
        What ``pool`` returns, put together from all levels.
    """
    wide = widen(rois)
    levels = find_levels(rois, scales[0], len(inputs), canonical_scale, canonical_level)
    result = pool(inputs[0], torch.where((levels == 0)[:, None], wide, 0.0), scales[0])
    for level in range(1, len(inputs)):
        here = levels == level
        pooled = pool(inputs[level], torch.where(here[:, None], wide, 0.0), scales[level])
        result = choose(here[:, None, None, None], pooled, result)
    return result


def choose(condition: Tensor, ours: Any, others: Any) -> Any:
    """Does what torch.where does, for tuples of tensors as well."""
    if isinstance(ours, Tensor):
        return torch.where(condition, ours, others)
    return tuple(choose(condition, *pair) for pair in zip(ours, others, strict=True))
