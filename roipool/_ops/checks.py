"""The checks of the operators' arguments.

The checks in the fake kernels repeat those of csrc/roi_pool_op.h word for word, so that an argument is refused in the
same way in eager mode, under torch.compile and in export.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

FEATURE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ROI_DTYPES = (*FEATURE_DTYPES, torch.int32, torch.int64)
_INT32_MAX = 2**31 - 1
_MAX_LEVELS = 8

_check = torch._check_value


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_features(tensor: Tensor, name: str, dimensions: str) -> None:
    _check(tensor.ndim == 4, lambda: f"{name} must be a 4-D tensor {dimensions}, got shape {tuple(tensor.shape)}")
    _check(
        tensor.dtype in FEATURE_DTYPES,
        lambda: f"{name} must be float16, bfloat16, float32 or float64, got {dtype_name(tensor.dtype)}",
    )


def _check_map_size(name: str, height: int, width: int) -> None:
    # Of sizes that are symbols, the native kernel will judge: a guard would be one more limit on them in an export.
    _check(
        not statically_known_true(height * width > _INT32_MAX),
        lambda: f"{name} must have at most 2147483647 cells in a plane (H*W), got {height} x {width}",
    )


def _check_same_device(tensor: Tensor, name: str, other: Tensor, other_name: str) -> None:
    _check(
        tensor.device == other.device,
        lambda: f"{name} must be on the device of {other_name} ({other.device}), got {tensor.device}",
    )


def _check_same_shape(tensor: Tensor, name: str, other: Tensor, other_name: str) -> None:
    _check(
        tensor.shape == other.shape,
        lambda: f"{name} must have the shape of {other_name} {tuple(other.shape)}, got shape {tuple(tensor.shape)}",
    )


def _check_rois(rois: Tensor, other: Tensor, other_name: str) -> None:
    _check(
        rois.ndim == 2 and rois.shape[1] == 5,
        lambda: f"rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape {tuple(rois.shape)}",
    )
    _check(
        rois.dtype in ROI_DTYPES,
        lambda: f"rois must be float16, bfloat16, float32, float64, int32 or int64, got {dtype_name(rois.dtype)}",
    )
    _check_same_device(rois, "rois", other, other_name)


def _check_output_size(pooled_height: int, pooled_width: int) -> None:
    _check(
        1 <= pooled_height <= _INT32_MAX and 1 <= pooled_width <= _INT32_MAX,
        lambda: (
            "output_size must be at least 1 (and at most 2147483647) in both dimensions, "
            f"got ({pooled_height}, {pooled_width})"
        ),
    )


def _check_spatial_scale(name: str, spatial_scale: float) -> None:
    _check(
        0 < spatial_scale < math.inf,
        lambda: f"{name} must be finite and greater than 0, got {spatial_scale:g}",
    )


def _check_argmax(argmax: Tensor, rois: Tensor, other: Tensor, other_name: str) -> None:
    _check(
        argmax.ndim == 4 and argmax.shape[0] == rois.shape[0] and argmax.shape[1] == other.shape[1],
        lambda: (
            f"argmax must have shape (K, C, PH, PW) with K = {rois.shape[0]} as in rois and C = {other.shape[1]} "
            f"as in {other_name}, got shape {tuple(argmax.shape)}"
        ),
    )
    _check(argmax.dtype == torch.int32, lambda: f"argmax must be int32, got {dtype_name(argmax.dtype)}")
    _check_same_device(argmax, "argmax", other, other_name)


def _check_num_levels(name: str, num_levels: int) -> None:
    _check(1 <= num_levels <= _MAX_LEVELS, lambda: f"{name} must hold 1 to {_MAX_LEVELS} levels, got {num_levels}")


def _check_inputs(inputs: Sequence[Tensor]) -> None:
    _check_num_levels("inputs", len(inputs))
    first = inputs[0]
    for i, input in enumerate(inputs):
        _check_features(input, f"inputs[{i}]", "(N, C, H, W)")
        _check_map_size(f"inputs[{i}]", input.shape[2], input.shape[3])
        _check(
            input.shape[:2] == first.shape[:2],
            lambda i=i, input=input: (
                f"inputs[{i}] must have the N and C of inputs[0], {tuple(first.shape[:2])}, "
                f"got shape {tuple(input.shape)}"
            ),
        )
        _check(
            input.dtype == first.dtype,
            lambda i=i, input=input: (
                f"inputs[{i}] must be {dtype_name(first.dtype)} as inputs[0], got {dtype_name(input.dtype)}"
            ),
        )
        _check_same_device(input, f"inputs[{i}]", first, "inputs[0]")


def _check_pyramid(spatial_scales: Sequence[float], canonical_scale: float, of: str, num_levels: int) -> None:
    _check(
        len(spatial_scales) == num_levels,
        lambda: f"spatial_scales must hold as many numbers as {of}, {num_levels}, got {len(spatial_scales)}",
    )
    for i, spatial_scale in enumerate(spatial_scales):
        _check_spatial_scale(f"spatial_scales[{i}]", spatial_scale)
    _check_spatial_scale("canonical_scale", canonical_scale)
