"""For code that comes from MXNet: ``mx.npx.roi_pooling`` and ``mx.nd.ROIPooling`` under their own signature."""

from collections.abc import Sequence

import torch
from torch import Tensor

from roipool._library import FEATURE_DTYPES, ROI_DTYPES, dtype_name
from roipool.functional import is_int, is_real, roi_pool


def roi_pooling(
    data: Tensor,
    rois: Tensor,
    pooled_size: Sequence[int],
    spatial_scale: float,
    out: Tensor | None = None,
    name: str | None = None,
) -> Tensor:
    """MXNet's ``roi_pooling``: :func:`roipool.roi_pool` with MXNet's argument names and limits.

    Args:
        data: feature maps of shape ``(N, C, H, W)``.
        rois: regions of shape ``(K, 5)``, rows ``[batch_index, x1, y1, x2, y2]`` in image pixels.
        pooled_size: bins per region, ``(PH, PW)``.
        spatial_scale: feature cells per image pixel, in ``[0, 1]``.
        out: a tensor of the shape, dtype and device of the result, to write it to.
        name: accepted for MXNet's sake; a symbol's name has no meaning here.

    Returns:
        ``(K, C, PH, PW)`` in the dtype of ``data``; ``out`` itself where it was given.

    Raises:
        TypeError, ValueError: as :func:`roipool.roi_pool`, and where ``pooled_size`` is not a pair, ``rois`` not a
            tensor, ``spatial_scale`` not in ``[0, 1]``, or ``out`` does not fit the result.
        RuntimeError: ``out`` is given and a derivative is asked for.
    """
    _check(data, rois, pooled_size, spatial_scale, out)
    if spatial_scale == 0:  # MXNet takes it: every region is then cell (0, 0)
        rois, spatial_scale = rois * rois.new_tensor([1, 0, 0, 0, 0]), 1.0

    if out is None:
        return roi_pool(data, rois, pooled_size, spatial_scale)
    if torch.is_grad_enabled() and (data.requires_grad or out.requires_grad):
        raise RuntimeError(
            "roi_pooling(): functions with out=... arguments don't support automatic differentiation, "
            "but one of the arguments requires grad."
        )
    result = roi_pool(data, rois, pooled_size, spatial_scale)
    if (out.shape, out.dtype, out.device) != (result.shape, result.dtype, result.device):
        raise ValueError(
            f"out must be a tensor of shape {tuple(result.shape)}, dtype {result.dtype} and device {result.device}, "
            f"got shape {tuple(out.shape)}, dtype {out.dtype} and device {out.device}"
        )
    return out.copy_(result)


def _check(data: object, rois: object, pooled_size: object, spatial_scale: object, out: object) -> None:
    """What roi_pool() would refuse as well, but under other names, and MXNet's limits."""
    for name, tensor in [("data", data), ("rois", rois), ("out", out)]:
        if not isinstance(tensor, Tensor) and (tensor is not None or name != "out"):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    assert isinstance(data, Tensor)
    assert isinstance(rois, Tensor)
    if data.ndim != 4:
        raise ValueError(f"data must be a 4-D tensor (N, C, H, W), got shape {tuple(data.shape)}")
    if data.dtype not in FEATURE_DTYPES:
        raise TypeError(f"data must be float16, bfloat16, float32 or float64, got {dtype_name(data.dtype)}")
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(
            f"rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape {tuple(rois.shape)}"
        )
    if rois.dtype not in ROI_DTYPES:
        raise TypeError(
            f"rois must be float16, bfloat16, float32, float64, int32 or int64, got {dtype_name(rois.dtype)}"
        )
    if rois.device != data.device:
        raise ValueError(f"rois must be on the device of data ({data.device}), got {rois.device}")
    if not isinstance(pooled_size, (tuple, list)) or not all(is_int(size) for size in pooled_size):
        raise TypeError(f"pooled_size must be a pair of ints (PH, PW), got {pooled_size!r}")
    if len(pooled_size) != 2 or min(pooled_size) < 1:
        raise ValueError(f"pooled_size must be a pair of ints (PH, PW), each at least 1, got {pooled_size!r}")
    if not is_real(spatial_scale):
        raise TypeError(f"spatial_scale must be a float, got {type(spatial_scale).__name__}")
    if not 0 <= spatial_scale <= 1:
        raise ValueError(f"spatial_scale must be in [0, 1], got {spatial_scale}")
