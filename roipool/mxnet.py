"""For code that comes from MXNet: ``mx.npx.roi_pooling`` and ``mx.nd.ROIPooling`` under their own signature."""

from collections.abc import Sequence

from torch import Tensor

from roipool.functional import check_boxes, check_input, check_spatial_scale, is_int, is_real, roi_pool


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

    if out is not None:
        expected = (rois.shape[0], data.shape[1], *pooled_size)
        if (tuple(out.shape), out.dtype, out.device) != (expected, data.dtype, data.device):
            raise ValueError(
                f"out must be a tensor of shape {expected}, dtype {data.dtype} and device {data.device}, "
                f"got shape {tuple(out.shape)}, dtype {out.dtype} and device {out.device}"
            )
    return roi_pool(data, rois, pooled_size, spatial_scale, out=out)


def _check(data: object, rois: object, pooled_size: object, spatial_scale: object, out: object) -> None:
    """What roi_pool() would refuse as well, but under other names, and MXNet's limits."""
    check_input(data, "data")
    assert isinstance(data, Tensor)
    if data.ndim != 4:
        raise ValueError(f"data must be a 4-D tensor (N, C, H, W), got shape {tuple(data.shape)}")
    check_boxes(rois, "rois", data, "data")
    assert isinstance(rois, Tensor)
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(
            f"rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape {tuple(rois.shape)}"
        )
    if out is not None and not isinstance(out, Tensor):
        raise TypeError(f"out must be a torch.Tensor, got {type(out).__name__}")
    if not isinstance(pooled_size, (tuple, list)) or not all(is_int(size) for size in pooled_size):
        raise TypeError(f"pooled_size must be a pair of ints (PH, PW), got {pooled_size!r}")
    if len(pooled_size) != 2 or min(pooled_size) < 1:
        raise ValueError(f"pooled_size must be a pair of ints (PH, PW), each at least 1, got {pooled_size!r}")
    check_spatial_scale(spatial_scale)
    assert is_real(spatial_scale)
    if not 0 <= spatial_scale <= 1:
        raise ValueError(f"spatial_scale must be in [0, 1], got {spatial_scale}")
