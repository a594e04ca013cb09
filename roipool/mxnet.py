"""Serves code from MXNet: ``roi_pooling`` under its own signature."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from roipool._ops.arguments import make_scale_positive
from roipool._ops.checks import (
    check_is_box_tensor,
    check_is_feature_tensor,
    check_is_scale,
    check_is_tensor,
    check_rank_of_features,
    check_shape_of_rois,
    is_int,
)
from roipool._ops.script import not_scriptable
from roipool.functional import roi_pool


@not_scriptable
def roi_pooling(
    data: Tensor,
    rois: Tensor,
    pooled_size: Sequence[int],
    spatial_scale: float,
    out: Tensor | None = None,
    name: str | None = None,
) -> Tensor:
    """:func:`roipool.roi_pool` with MXNet's argument names and limits.

    Args:
        data: feature maps of shape ``(N, C, H, W)``.
        rois: regions of shape ``(K, 5)``, rows
            ``[batch_index, x1, y1, x2, y2]`` in image pixels.
        pooled_size: bins per region, ``(PH, PW)``.
        spatial_scale: feature cells per image pixel, in ``[0, 1]``.
        out: a tensor of the shape, dtype and device of the result, to write it
            to.
        name: accepted for MXNet's sake; a symbol's name has no meaning here.

    Returns:
        ``(K, C, PH, PW)`` in the dtype of ``data``; ``out`` itself where it was
        given.

    Raises:
        TypeError, ValueError: as :func:`roipool.roi_pool`, and where
            ``pooled_size`` is not a pair, ``rois`` not a tensor,
            ``spatial_scale`` not in ``[0, 1]``, or ``out`` does not fit the
            result.
        RuntimeError: ``out`` is given and a derivative is asked for.

    Example:
        >>> import torch, roipool
        >>> data = torch.arange(48.0).view(1, 1, 8, 6)
        >>> roipool.mxnet.roi_pooling(data, torch.tensor([[0.0, 0, 0, 4, 4]]), (2, 2), 0.7)
        tensor([[[[ 7.,  9.],
                  [19., 21.]]]])
    """
    _check(data, rois, pooled_size, spatial_scale, out)
    rois, spatial_scale = make_scale_positive(rois, spatial_scale)  # MXNet takes 0: every region is the cell (0, 0)
    if out is not None:
        expected = (rois.shape[0], data.shape[1], *pooled_size)
        if (tuple(out.shape), out.dtype, out.device) != (expected, data.dtype, data.device):
            raise ValueError(
                f"out must be a tensor of shape {expected}, dtype {data.dtype} and device {data.device}, "
                f"got shape {tuple(out.shape)}, dtype {out.dtype} and device {out.device}"
            )
    return roi_pool(data, rois, pooled_size, spatial_scale, out=out)


def _check(data: Any, rois: Any, pooled_size: Any, spatial_scale: Any, out: Any) -> None:
    """Refuses, under MXNet's names, what roi_pool() would refuse, and what is beyond MXNet's limits."""
    check_is_feature_tensor(data, "data")
    check_rank_of_features(data, "data", "(N, C, H, W)")
    check_is_box_tensor(rois, "rois", data, "data")
    check_shape_of_rois(rois)
    if out is not None:
        check_is_tensor(out, "out")
    if not isinstance(pooled_size, (tuple, list)) or not all(is_int(size) for size in pooled_size):
        raise TypeError(f"pooled_size must be a pair of ints (PH, PW), got {pooled_size!r}")
    if len(pooled_size) != 2 or min(pooled_size) < 1:
        raise ValueError(f"pooled_size must be a pair of ints (PH, PW), each at least 1, got {pooled_size!r}")
    check_is_scale(spatial_scale, "spatial_scale")
    if not 0 <= spatial_scale <= 1:
        raise ValueError(f"spatial_scale must be in [0, 1], got {spatial_scale}")
