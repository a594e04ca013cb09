"""Comparison by bits, awkward inputs, and the check that all kernels must pass."""

import math
import random
from typing import Any, NamedTuple

import cached_reference
import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


class Backend(NamedTuple):
    """Holds operators, and the device that their tensors are on."""

    name: str  # cpu, cuda, cuda_host: the CUDA kernels on the CPU, or emulated: the CPU kernels on another processor
    ops: Any
    device: torch.device


CPU = Backend("cpu", torch.ops.roipool, torch.device("cpu"))


class RaisesRuntimeErrors:
    """An operator whose native kernel's exceptions arrive as from torch 2.15 on: as RuntimeErrors of the same words."""

    def __init__(self, op: Any) -> None:
        self.op = op
        self.name = op.name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return self.op(*arguments, **keywords)
        except ValueError as error:
            raise RuntimeError(str(error)) from None


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Compares as torch.equal, but NaN equals itself and the two zeros differ, and the devices may differ."""
    a, b = a.cpu(), b.cpu()
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.detach().contiguous().view(bits), b.detach().contiguous().view(bits))


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert same_bits(actual, expected), f"{actual}\nis not, bit for bit,\n{expected}"


def to_device(arguments: Any, device: torch.device) -> Any:
    """Moves the CPU tensors among the arguments to another device, within lists and tuples too."""
    if isinstance(arguments, list | tuple) and not isinstance(arguments, torch.Size):
        return type(arguments)(to_device(argument, device) for argument in arguments)
    if not isinstance(arguments, Tensor) or not arguments.is_cpu:
        return arguments
    if arguments.numel() > 0 and 0 in arguments.stride():  # to() would copy what is expanded, which may be huge
        kept = tuple(slice(None) if stride else slice(1) for stride in arguments.stride())
        return arguments[kept].to(device).expand(arguments.shape)
    return arguments.to(device)


# ---- Memory layouts. Each gives a tensor of the same values in other strides.


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def sliced(x: Tensor) -> Tensor:
    """Gives every second column of a map twice as wide, behind a storage offset."""
    n, c, h, w = x.shape
    wide = x.new_full((n, c, h + 1, 2 * w), 7.0)
    wide[:, :, 1:, ::2] = x
    return wide[:, :, 1:, ::2]


def sliced_channels_last(x: Tensor) -> Tensor:
    """Gives the middle channels of a wider channels_last map, which are dense in no format."""
    n, c, h, w = x.shape
    wide = x.new_full((n, c + 2, h, w), 7.0).contiguous(memory_format=torch.channels_last)
    wide[:, 1:-1] = x
    return wide[:, 1:-1]


def transposed(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous().transpose(2, 3)


LAYOUTS = [contiguous, channels_last, sliced, sliced_channels_last, transposed]


# ---- Inputs.


def features(shape: tuple[int, ...], dtype: torch.dtype, seed: int, kind: str = "distinct") -> Tensor:
    """Makes "distinct" numbers, "ties" of a few values and both zeros, or these with "nonfinite" values besides."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "distinct":
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0], dtype=dtype)
    if kind == "nonfinite":
        nan, inf = (torch.tensor([value], dtype=dtype) for value in [math.nan, math.inf])
        values = torch.cat([values, inf, -inf, -inf, nan, -nan])  # -nan has its sign bit set, as 0/0 has on x86
    return values[torch.randint(len(values), shape, generator=generator)]


def random_rois(num_rois: int, num_images: int, height: float, width: float, seed: int, wild: bool = False) -> Tensor:
    """Makes boxes around an image of so many pixels, partly outside of it. Half of the wild ones may be anything."""
    rng = random.Random(seed)
    awkward = [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 2.0**31, -(2.0**29), 1e-40, -0.0, 0.5, 1.5]

    def number(low: float, high: float) -> float:
        if anything and rng.random() < 0.15:
            return rng.choice(awkward)
        value = rng.uniform(low, high)
        return rng.choice([value, float(round(value)), round(2 * value) / 2])  # whole and half cells are the edge cases

    rows = []
    for _ in range(num_rois):
        anything = wild and rng.random() < 0.5
        image = number(-2, num_images + 1) if anything else float(rng.randrange(num_images))
        xs = [number(-0.3 * width - 2, 1.3 * width + 2) for _ in range(2)]
        ys = [number(-0.3 * height - 2, 1.3 * height + 2) for _ in range(2)]
        if rng.random() < 0.8:  # the others may be reversed
            xs.sort()
            ys.sort()
        rows.append([image, xs[0], ys[0], xs[1], ys[1]])
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)


# ---- Problems, and the check that all kernels must pass.


def check_against_reference(backend, x, rois, output_size, spatial_scale):
    """Checks forward, argmax, gradient and gather of the operators on x as it lies in memory."""
    ops = backend.ops
    x, rois = x.to(backend.device), rois.to(backend.device)  # strides of a map that is dense are kept
    output, argmax = ops.roi_pool_with_argmax(x, rois, *output_size, spatial_scale)
    expected, expected_argmax = cached_reference.roi_pool(
        x.cpu(), rois.cpu(), output_size, spatial_scale, return_argmax=True
    )
    assert_same_bits(output, expected)
    assert_same_bits(argmax, expected_argmax)
    assert_same_bits(ops.roi_pool(x, rois, *output_size, spatial_scale), expected)

    n, _, h, w = x.shape
    grad_output = features(output.shape, x.dtype, seed=len(rois))
    grad_input = ops.roi_pool_backward(grad_output.to(backend.device), rois, argmax, n, h, w, spatial_scale)
    assert_same_bits(grad_input, cached_reference.roi_pool_backward(grad_output, rois.cpu(), expected_argmax, x.shape))

    assert_same_bits(ops.roi_pool_gather(x, rois, argmax, spatial_scale), expected)

    is_channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    if is_channels_last and output.numel() > 0:
        assert output.is_contiguous(memory_format=torch.channels_last)
        assert argmax.is_contiguous(memory_format=torch.channels_last)


@st.composite
def problems(draw):
    shape = (
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 2, 3, 5, 16, 31, 64, 67, 130])),
        draw(st.integers(1, 20)),
        draw(st.integers(1, 20)),
    )
    spatial_scale = draw(st.sampled_from([1.0, 0.5, 1 / 16, 0.7, 0.1, 3.0, 1e-3]) | st.floats(1e-3, 4.0))
    seed = draw(st.integers(0, 2**32 - 1))
    dtype = draw(st.sampled_from(DTYPES))
    x = features(shape, dtype, seed, draw(st.sampled_from(["distinct", "ties", "nonfinite"])))
    layout = draw(st.sampled_from(LAYOUTS))
    rois = random_rois(
        draw(st.integers(0, 9)),
        shape[0],
        shape[2] / spatial_scale,
        shape[3] / spatial_scale,
        seed,
        wild=draw(st.booleans()),
    )
    rois = rois.to(draw(st.sampled_from(DTYPES)))
    return x, layout, rois, (draw(st.integers(1, 8)), draw(st.integers(1, 8))), spatial_scale


# ---- Problems on feature pyramids, and their check.


def check_pyramid_against_reference(backend, maps, rois, output_size, pyramid):
    """Checks the operators on a pyramid, which is (spatial_scales, canonical_scale, canonical_level)."""
    ops = backend.ops
    maps, rois = [x.to(backend.device) for x in maps], rois.to(backend.device)
    spatial_scales, canonical_scale, canonical_level = pyramid
    canonical = {"canonical_scale": canonical_scale, "canonical_level": canonical_level}
    expected, expected_argmax = cached_reference.multiscale_roi_pool(
        [x.cpu() for x in maps], rois.cpu(), output_size, spatial_scales, **canonical, return_argmax=True
    )
    output, argmax = ops.multiscale_roi_pool_with_argmax(maps, rois, *output_size, *pyramid)
    assert_same_bits(output, expected)
    assert_same_bits(argmax, expected_argmax)
    assert_same_bits(ops.multiscale_roi_pool(maps, rois, *output_size, *pyramid), expected)

    n = maps[0].shape[0]
    heights, widths = [x.shape[2] for x in maps], [x.shape[3] for x in maps]
    grad_output = features(output.shape, maps[0].dtype, seed=len(rois))
    grads = ops.multiscale_roi_pool_backward(grad_output.to(backend.device), rois, argmax, n, heights, widths, *pyramid)
    expected_grads = cached_reference.multiscale_roi_pool_backward(
        grad_output, rois.cpu(), expected_argmax, [x.shape for x in maps], spatial_scales, **canonical
    )
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert_same_bits(grad, expected_grad)

    assert_same_bits(ops.multiscale_roi_pool_gather(maps, rois, argmax, *pyramid), expected)


@st.composite
def pyramid_problems(draw):
    """Draws maps of an image of 64 x 80 pixels, and some whose sizes have little to do with it."""
    num_levels = draw(st.integers(1, 8))
    batch_size, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 16, 20, 67]))
    first_level = draw(st.integers(0, 3))
    seed = draw(st.integers(0, 2**32 - 1))
    dtype = draw(st.sampled_from(DTYPES))
    kind = draw(st.sampled_from(["distinct", "ties", "nonfinite"]))
    maps = []
    for i in range(num_levels):
        stride = 2 ** (first_level + i)
        size = (-(-64 // stride), -(-80 // stride)) if draw(st.booleans()) else (3, 5)
        maps.append(draw(st.sampled_from(LAYOUTS))(features((batch_size, channels, *size), dtype, seed + i, kind)))
    rois = random_rois(draw(st.integers(0, 30)), batch_size, 64.0, 80.0, seed, wild=draw(st.booleans()))
    rois = rois.to(draw(st.sampled_from(DTYPES)))
    scales = [2.0 ** -(first_level + i) * draw(st.sampled_from([1.0, 1.0, 0.7, 2.0])) for i in range(num_levels)]
    pyramid = (scales, draw(st.sampled_from([224.0, 16.0, 5.0])), draw(st.integers(1, 5)))
    return maps, rois, (draw(st.integers(1, 8)), draw(st.integers(1, 8))), pyramid
