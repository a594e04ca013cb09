"""Loads the native library and tells PyTorch what it cannot: the operators' fake kernels and their derivatives.

The checks in the fake kernels repeat those of csrc/roi_pool_op.h word for word, so that an argument is refused in the
same way in eager mode, under torch.compile and in export.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._prims_common.wrappers import _maybe_resize_out
from torch.fx.experimental.symbolic_shapes import statically_known_true

try:
    importlib.import_module("roipool._C")
except ImportError as error:
    raise ImportError(
        f"roipool's native library roipool._C is missing or does not load ({error}): reinstall roipool from where you "
        "installed it, or, in a checkout of the source, build it with `pip install --no-build-isolation -e .`"
    ) from error

from roipool import autograd, vmap

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


def _memory_format(tensor: Tensor) -> torch.memory_format:
    """memory_format_of() of csrc/roi_pool_op.h: as PyTorch's, but whatever N is, which may depend on data."""
    one_image = torch.empty_strided((1, *tensor.shape[1:]), tensor.stride(), device="meta")
    return suggest_memory_format(one_image)


@torch.library.register_fake("roipool::roi_pool")
def _(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float) -> Tensor:
    _check_features(input, "input", "(N, C, H, W)")
    _check_map_size("input", input.shape[2], input.shape[3])
    _check_rois(rois, input, "input")
    _check_output_size(pooled_height, pooled_width)
    _check_spatial_scale("spatial_scale", spatial_scale)
    size = (rois.shape[0], input.shape[1], pooled_height, pooled_width)
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=_memory_format(input))


@torch.library.register_fake("roipool::roi_pool.out")
def _(
    input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float, *, out: Tensor
) -> Tensor:
    output = torch.ops.roipool.roi_pool.default(input, rois, pooled_height, pooled_width, spatial_scale)
    _check(
        out.dtype == input.dtype,
        lambda: f"out must be {dtype_name(input.dtype)} as input, got {dtype_name(out.dtype)}",
    )
    _check_same_device(out, "out", input, "input")
    _check(
        all(stride != 0 or size <= 1 for stride, size in zip(out.stride(), out.shape, strict=True)),
        lambda: "out must not have elements that share memory: clone() it first",
    )
    _maybe_resize_out(out, output.shape)
    return out


@torch.library.register_fake("roipool::roi_pool_with_argmax")
def _(
    input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> tuple[Tensor, Tensor]:
    output = torch.ops.roipool.roi_pool.default(input, rois, pooled_height, pooled_width, spatial_scale)
    return output, torch.empty_like(output, dtype=torch.int32)


@torch.library.register_fake("roipool::roi_pool_backward")
def _(grad_output: Tensor, rois: Tensor, argmax: Tensor, batch_size: int, height: int, width: int) -> Tensor:
    _check_features(grad_output, "grad_output", "(K, C, PH, PW)")
    _check_rois(rois, grad_output, "grad_output")
    _check_argmax(argmax, rois, grad_output, "grad_output")
    _check_same_shape(grad_output, "grad_output", argmax, "argmax")
    _check(
        batch_size >= 0 and height >= 0 and width >= 0,
        lambda: f"batch_size, height and width must not be negative, got {batch_size}, {height} and {width}",
    )
    _check_map_size("grad_input", height, width)
    size = (batch_size, argmax.shape[1], height, width)
    return torch.empty(size, dtype=grad_output.dtype, device=argmax.device, memory_format=_memory_format(argmax))


@torch.library.register_fake("roipool::roi_pool_gather")
def _(input: Tensor, rois: Tensor, argmax: Tensor) -> Tensor:
    _check_features(input, "input", "(N, C, H, W)")
    _check_map_size("input", input.shape[2], input.shape[3])
    _check_rois(rois, input, "input")
    _check_argmax(argmax, rois, input, "input")
    return torch.empty(argmax.shape, dtype=input.dtype, device=argmax.device, memory_format=_memory_format(argmax))


@torch.library.register_fake("roipool::multiscale_roi_pool")
def _(
    inputs: Sequence[Tensor],
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scales: Sequence[float],
    canonical_scale: float,
    canonical_level: int,
) -> Tensor:
    _check_inputs(inputs)
    first = inputs[0]
    _check_rois(rois, first, "inputs[0]")
    _check_output_size(pooled_height, pooled_width)
    _check_pyramid(spatial_scales, canonical_scale, "inputs", len(inputs))
    size = (rois.shape[0], first.shape[1], pooled_height, pooled_width)
    return torch.empty(size, dtype=first.dtype, device=first.device, memory_format=_memory_format(first))


@torch.library.register_fake("roipool::multiscale_roi_pool_with_argmax")
def _(inputs: Sequence[Tensor], rois: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    output = torch.ops.roipool.multiscale_roi_pool.default(inputs, rois, *arguments)
    return output, torch.empty_like(output, dtype=torch.int32)


@torch.library.register_fake("roipool::multiscale_roi_pool_backward")
def _(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    batch_size: int,
    heights: Sequence[int],
    widths: Sequence[int],
    spatial_scales: Sequence[float],
    canonical_scale: float,
    canonical_level: int,
) -> list[Tensor]:
    _check_features(grad_output, "grad_output", "(K, C, PH, PW)")
    _check_rois(rois, grad_output, "grad_output")
    _check_argmax(argmax, rois, grad_output, "grad_output")
    _check_same_shape(grad_output, "grad_output", argmax, "argmax")
    _check_num_levels("heights", len(heights))
    _check(
        len(widths) == len(heights),
        lambda: f"widths must hold as many numbers as heights, {len(heights)}, got {len(widths)}",
    )
    for height, width in zip(heights, widths, strict=True):
        _check(
            batch_size >= 0 and height >= 0 and width >= 0,
            lambda height=height, width=width: (
                f"batch_size, heights and widths must not be negative, got {batch_size}, {height} and {width}"
            ),
        )
        _check_map_size("grad_inputs", height, width)
    _check_pyramid(spatial_scales, canonical_scale, "heights", len(heights))
    memory_format = _memory_format(argmax)
    return [
        torch.empty(
            (batch_size, argmax.shape[1], height, width),
            dtype=grad_output.dtype,
            device=argmax.device,
            memory_format=memory_format,
        )
        for height, width in zip(heights, widths, strict=True)
    ]


@torch.library.register_fake("roipool::multiscale_roi_pool_gather")
def _(
    inputs: Sequence[Tensor],
    rois: Tensor,
    argmax: Tensor,
    spatial_scales: Sequence[float],
    canonical_scale: float,
    canonical_level: int,
) -> Tensor:
    _check_inputs(inputs)
    _check_rois(rois, inputs[0], "inputs[0]")
    _check_argmax(argmax, rois, inputs[0], "inputs[0]")
    _check_pyramid(spatial_scales, canonical_scale, "inputs", len(inputs))
    return torch.empty(argmax.shape, dtype=inputs[0].dtype, device=argmax.device, memory_format=_memory_format(argmax))


# Every operator, and what runs at its Autograd key.
_AUTOGRAD_KERNELS: dict[str, Callable[..., object]] = {
    "roi_pool": autograd.roi_pool,
    "roi_pool.out": autograd.roi_pool_out,
    "roi_pool_with_argmax": autograd.roi_pool_with_argmax,
    "roi_pool_backward": autograd.roi_pool_backward,
    "roi_pool_gather": autograd.roi_pool_gather,
    "multiscale_roi_pool": autograd.multiscale_roi_pool,
    "multiscale_roi_pool_with_argmax": autograd.multiscale_roi_pool_with_argmax,
    "multiscale_roi_pool_backward": autograd.multiscale_roi_pool_backward,
    "multiscale_roi_pool_gather": autograd.multiscale_roi_pool_gather,
}


def _register_autograd() -> torch.library.Library:
    library = torch.library.Library("roipool", "IMPL")
    for name, kernel in _AUTOGRAD_KERNELS.items():
        library.impl(name, kernel, "Autograd")
    library.impl("roi_pool.out", autograd.roi_pool_out_in_place, "ADInplaceOrView")
    return library  # the registrations last as long as it does


_autograd = _register_autograd()

torch.library.register_vmap("roipool::roi_pool", vmap.roi_pool)
torch.library.register_vmap("roipool::roi_pool_with_argmax", vmap.roi_pool_with_argmax)
torch.library.register_vmap("roipool::roi_pool_backward", vmap.roi_pool_backward)
torch.library.register_vmap("roipool::roi_pool_gather", vmap.roi_pool_gather)
torch.library.register_vmap("roipool::multiscale_roi_pool", vmap.multiscale_roi_pool)
torch.library.register_vmap("roipool::multiscale_roi_pool_with_argmax", vmap.multiscale_roi_pool_with_argmax)
torch.library.register_vmap("roipool::multiscale_roi_pool_backward", vmap.multiscale_roi_pool_backward)
torch.library.register_vmap("roipool::multiscale_roi_pool_gather", vmap.multiscale_roi_pool_gather)


# ---- CUDA. roipool._C_cuda needs a torch with CUDA to load; it is a library of operators, not a Python module.


def _load_cuda_kernels() -> bool:
    """Whether there are any to load, and a torch that can run them."""
    spec = importlib.util.find_spec("roipool._C_cuda")
    if torch.version.cuda is None or spec is None or spec.origin is None:
        return False
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        raise ImportError(
            f"roipool's CUDA library {spec.origin} does not load beside torch {torch.__version__} "
            f"({error.__cause__ or error}): reinstall roipool, or install it with ROIPOOL_CUDA=0 to do without CUDA"
        ) from error
    return True


def _no_cuda_kernels(*_: object) -> NoReturn:
    raise NotImplementedError(
        "roipool was given CUDA tensors, but built without CUDA kernels: install the CUDA toolkit (nvcc), then "
        "reinstall roipool with FORCE_CUDA=1"
    )


def _refuse_cuda() -> torch.library.Library:
    library = torch.library.Library("roipool", "IMPL")
    for name in _AUTOGRAD_KERNELS:
        library.impl(name, _no_cuda_kernels, "CUDA")
    return library


cuda_is_loaded = _load_cuda_kernels()
if not cuda_is_loaded:
    _cuda = _refuse_cuda()
