"""Refuses arguments, in one sentence each: here is what several files refuse, and what the native operators do.

The first part is for the functions that users call: what is no tensor, no number, or a tensor of another dtype is a
TypeError. The second part repeats the checks of the native operators, so that an argument is refused in the same words
in eager mode, under torch.compile and in export: csrc/ has each of its sentences, and the tests compare them.
"""

import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeGuard

import torch
from torch import Tensor

from roipool._ops.torch_private import are_transforms_active, check_value, is_statically_true

FEATURE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ROI_DTYPES = (*FEATURE_DTYPES, torch.int32, torch.int64)
INT32_MAX = 2**31 - 1
MAX_LEVELS = 8


def name_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- Types, as the functions check them.


def is_int(value: object) -> TypeGuard[int]:
    """Returns whether a value is a Python or NumPy int, or torch.compile's symbol for one."""
    return type(value) is int or (isinstance(value, (numbers.Integral, torch.SymInt)) and not isinstance(value, bool))


def is_real(value: object) -> TypeGuard[float]:
    """Returns whether a value is a Python or NumPy number, or torch.compile's symbol for one."""
    return type(value) is float or (
        isinstance(value, (numbers.Real, torch.SymInt, torch.SymFloat)) and not isinstance(value, bool)
    )


def check_is_tensor(value: Any, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")


def check_is_feature_tensor(value: Any, name: str) -> None:
    check_is_tensor(value, name)
    check_feature_dtype(value, name, TypeError)


def check_is_box_tensor(value: Any, name: str, input: Tensor, input_name: str) -> None:
    check_is_tensor(value, name)
    check_roi_dtype(value, name, TypeError)
    check_same_device(value, name, input, input_name)


def check_is_scale(value: Any, name: str) -> None:
    """Refuses what cannot become a float; check_scale refuses floats."""
    if not is_real(value):
        raise TypeError(f"{name} must be a float, got {type(value).__name__}")
    if isinstance(value, int) and value.bit_length() > 1023:
        refuse_scale(name, "an int beyond the range of floats")


def check_is_dense(tensor: Tensor, name: str) -> None:
    if tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a NestedTensor")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")


# ---- Values, as the operators check them. Conditions on sizes go through check_value, since these may be symbols.


def check_feature_dtype(tensor: Tensor, name: str, error: type[Exception] = ValueError) -> None:
    if tensor.dtype not in FEATURE_DTYPES:
        raise error(f"{name} must be float16, bfloat16, float32 or float64, got {name_dtype(tensor.dtype)}")


def check_roi_dtype(tensor: Tensor, name: str, error: type[Exception] = ValueError) -> None:
    if tensor.dtype not in ROI_DTYPES:
        raise error(
            f"{name} must be float16, bfloat16, float32, float64, int32 or int64, got {name_dtype(tensor.dtype)}"
        )


def has_memory(tensor: Tensor) -> bool:
    """Returns whether a tensor has values: those of the compiler and on the meta device have none."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__ and not tensor.is_meta


def check_storage(tensor: Tensor, name: str) -> None:
    """Refuses a tensor whose storage was made smaller behind its back, untyped_storage().resize_(0) say.

    Only tensors that have memory are looked at. Those of torch.func's transforms have none either.
    """
    check_is_dense(tensor, name)
    if not has_memory(tensor) or are_transforms_active() or tensor.numel() == 0:
        return
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed_bytes = (tensor.storage_offset() + last + 1) * tensor.element_size()
    num_bytes = tensor.untyped_storage().nbytes()
    if needed_bytes > num_bytes:
        raise ValueError(f"{name} must lie within its storage, of which it needs {needed_bytes} bytes, got {num_bytes}")


def check_rank_of_features(tensor: Tensor, name: str, dimensions: str) -> None:
    if tensor.ndim != 4:
        raise ValueError(f"{name} must be a 4-D tensor {dimensions}, got shape {tuple(tensor.shape)}")


def check_features(tensor: Tensor, name: str, dimensions: str) -> None:
    check_rank_of_features(tensor, name, dimensions)
    check_feature_dtype(tensor, name)
    check_storage(tensor, name)


def check_map_size(name: str, height: int, width: int) -> None:
    """Refuses maps whose cells an int32 cannot number.

    Sizes that are symbols are left to the native kernel: a guard would be one more limit on them in an export.
    """
    if is_statically_true(height * width > INT32_MAX):
        raise ValueError(f"{name} must have at most {INT32_MAX} cells in a plane (H*W), got {height} x {width}")


def check_same_device(tensor: Tensor, name: str, other: Tensor, other_name: str) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name} ({other.device}), got {tensor.device}")


def check_same_shape(tensor: Tensor, name: str, other: Tensor, other_name: str) -> None:
    check_value(
        tensor.shape == other.shape,
        lambda: f"{name} must have the shape of {other_name} {tuple(other.shape)}, got shape {tuple(tensor.shape)}",
    )


def check_shape_of_rois(rois: Tensor) -> None:
    check_value(
        rois.ndim == 2 and rois.shape[1] == 5,
        lambda: f"rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape {tuple(rois.shape)}",
    )


def check_rois(rois: Tensor, other: Tensor, other_name: str) -> None:
    check_shape_of_rois(rois)
    check_roi_dtype(rois, "rois")
    check_same_device(rois, "rois", other, other_name)
    check_storage(rois, "rois")


def check_output_size(pooled_height: int, pooled_width: int) -> None:
    check_value(
        1 <= pooled_height <= INT32_MAX and 1 <= pooled_width <= INT32_MAX,
        lambda: (
            f"output_size must be at least 1 (and at most {INT32_MAX}) in both dimensions, "
            f"got ({pooled_height}, {pooled_width})"
        ),
    )


def check_scale(name: str, scale: float) -> None:
    if not 0 < scale < math.inf:
        refuse_scale(name, f"{scale:g}")


def refuse_scale(name: str, got: str) -> NoReturn:
    raise ValueError(f"{name} must be finite and greater than 0, got {got}")


def check_argmax(argmax: Tensor, rois: Tensor, other: Tensor, other_name: str) -> None:
    check_value(
        argmax.ndim == 4 and argmax.shape[0] == rois.shape[0] and argmax.shape[1] == other.shape[1],
        lambda: (
            f"argmax must have shape (K, C, PH, PW) with K = {rois.shape[0]} as in rois and C = {other.shape[1]} "
            f"as in {other_name}, got shape {tuple(argmax.shape)}"
        ),
    )
    if argmax.dtype != torch.int32:
        raise ValueError(f"argmax must be int32, got {name_dtype(argmax.dtype)}")
    check_same_device(argmax, "argmax", other, other_name)
    check_storage(argmax, "argmax")


def check_gradient(grad_output: Tensor, rois: Tensor, argmax: Tensor) -> None:
    check_features(grad_output, "grad_output", "(K, C, PH, PW)")
    check_rois(rois, grad_output, "grad_output")
    check_argmax(argmax, rois, grad_output, "grad_output")
    check_same_shape(grad_output, "grad_output", argmax, "argmax")


def check_sizes_of_gradient(names: str, grad_name: str, batch_size: int, height: int, width: int) -> None:
    check_value(
        batch_size >= 0 and height >= 0 and width >= 0,
        lambda: f"batch_size, {names} must not be negative, got {batch_size}, {height} and {width}",
    )
    check_map_size(grad_name, height, width)


def check_num_levels(name: str, num_levels: int) -> None:
    if not 1 <= num_levels <= MAX_LEVELS:
        raise ValueError(f"{name} must hold 1 to {MAX_LEVELS} levels, got {num_levels}")


def check_inputs(inputs: Sequence[Tensor]) -> None:
    check_num_levels("inputs", len(inputs))
    for level, input in enumerate(inputs):
        check_input_of_level(input, f"inputs[{level}]", inputs[0])


def check_input_of_level(input: Tensor, name: str, first: Tensor) -> None:
    check_features(input, name, "(N, C, H, W)")
    check_map_size(name, input.shape[2], input.shape[3])
    check_value(
        input.shape[:2] == first.shape[:2],
        lambda: f"{name} must have the N and C of inputs[0], {tuple(first.shape[:2])}, got shape {tuple(input.shape)}",
    )
    if input.dtype != first.dtype:
        raise ValueError(f"{name} must be {name_dtype(first.dtype)} as inputs[0], got {name_dtype(input.dtype)}")
    check_same_device(input, name, first, "inputs[0]")


def check_pyramid(spatial_scales: Sequence[float], canonical_scale: float, of: str, num_levels: int) -> None:
    if len(spatial_scales) != num_levels:
        raise ValueError(f"spatial_scales must hold as many numbers as {of}, {num_levels}, got {len(spatial_scales)}")
    for level, spatial_scale in enumerate(spatial_scales):
        check_scale(f"spatial_scales[{level}]", spatial_scale)
    check_scale("canonical_scale", canonical_scale)


# ---- Operators: all checks of the arguments of each, in the order of the native ones.


def check_roi_pool(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float) -> None:
    check_features(input, "input", "(N, C, H, W)")
    check_map_size("input", input.shape[2], input.shape[3])
    check_rois(rois, input, "input")
    check_output_size(pooled_height, pooled_width)
    check_scale("spatial_scale", spatial_scale)


def check_roi_pool_out(
    input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float, *, out: Tensor
) -> None:
    check_roi_pool(input, rois, pooled_height, pooled_width, spatial_scale)
    if out.dtype != input.dtype:
        raise ValueError(f"out must be {name_dtype(input.dtype)} as input, got {name_dtype(out.dtype)}")
    check_same_device(out, "out", input, "input")
    check_value(
        all(stride != 0 or size <= 1 for stride, size in zip(out.stride(), out.shape, strict=True)),
        lambda: "out must not have elements that share memory: clone() it first",
    )
    if out.shape == (rois.shape[0], input.shape[1], pooled_height, pooled_width):  # else it is resized
        check_storage(out, "out")


def check_roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, batch_size: int, height: int, width: int, spatial_scale: float
) -> None:
    check_gradient(grad_output, rois, argmax)
    check_sizes_of_gradient("height and width", "grad_input", batch_size, height, width)
    check_scale("spatial_scale", spatial_scale)


def check_roi_pool_gather(input: Tensor, rois: Tensor, argmax: Tensor, spatial_scale: float) -> None:
    check_features(input, "input", "(N, C, H, W)")
    check_map_size("input", input.shape[2], input.shape[3])
    check_rois(rois, input, "input")
    check_argmax(argmax, rois, input, "input")
    check_scale("spatial_scale", spatial_scale)


def check_multiscale_roi_pool(
    inputs: Sequence[Tensor],
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scales: Sequence[float],
    canonical_scale: float,
    canonical_level: int,
) -> None:
    check_inputs(inputs)
    check_rois(rois, inputs[0], "inputs[0]")
    check_output_size(pooled_height, pooled_width)
    check_pyramid(spatial_scales, canonical_scale, "inputs", len(inputs))


def check_multiscale_roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    batch_size: int,
    heights: Sequence[int],
    widths: Sequence[int],
    spatial_scales: Sequence[float],
    canonical_scale: float,
    canonical_level: int,
) -> None:
    check_gradient(grad_output, rois, argmax)
    check_num_levels("heights", len(heights))
    if len(widths) != len(heights):
        raise ValueError(f"widths must hold as many numbers as heights, {len(heights)}, got {len(widths)}")
    for height, width in zip(heights, widths, strict=True):
        check_sizes_of_gradient("heights and widths", "grad_inputs", batch_size, height, width)
    check_pyramid(spatial_scales, canonical_scale, "heights", len(heights))


def check_multiscale_roi_pool_gather(
    inputs: Sequence[Tensor],
    rois: Tensor,
    argmax: Tensor,
    spatial_scales: Sequence[float],
    canonical_scale: float,
    canonical_level: int,
) -> None:
    check_inputs(inputs)
    check_rois(rois, inputs[0], "inputs[0]")
    check_argmax(argmax, rois, inputs[0], "inputs[0]")
    check_pyramid(spatial_scales, canonical_scale, "inputs", len(inputs))


OPERATOR_CHECKS: dict[str, Callable[..., None]] = {
    "roipool::roi_pool": check_roi_pool,
    "roipool::roi_pool.out": check_roi_pool_out,
    "roipool::roi_pool_with_argmax": check_roi_pool,
    "roipool::roi_pool_backward": check_roi_pool_backward,
    "roipool::roi_pool_gather": check_roi_pool_gather,
    "roipool::multiscale_roi_pool": check_multiscale_roi_pool,
    "roipool::multiscale_roi_pool_with_argmax": check_multiscale_roi_pool,
    "roipool::multiscale_roi_pool_backward": check_multiscale_roi_pool_backward,
    "roipool::multiscale_roi_pool_gather": check_multiscale_roi_pool_gather,
}


def check_operator(name: str, *arguments: Any, **keywords: Any) -> None:
    """Checks the arguments of an operator as its native kernel does.

    PyTorch hands a None to the native kernel as a tensor of shape (0,), and so does this.
    """
    given = [torch.empty(0) if argument is None else argument for argument in arguments]
    OPERATOR_CHECKS[name](*given, **keywords)


def check_layouts(name: str, *arguments: Any, **keywords: Any) -> None:
    """Refuses the tensors that an operator has no kernel for: those that are not dense."""
    given = inspect.signature(OPERATOR_CHECKS[name]).bind(*arguments, **keywords).arguments
    for argument, value in given.items():
        tensors = enumerate(value) if isinstance(value, (list, tuple)) else [(None, value)]
        for index, tensor in tensors:
            if isinstance(tensor, Tensor):
                check_is_dense(tensor, argument if index is None else f"{argument}[{index}]")
