"""Compares the kernels that are installed with roipool.reference, in a second: `python -m roipool --selftest`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roipool import _ops, reference
from roipool.functional import multiscale_roi_pool, roi_pool

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SHAPES = [(2, 19, 17, 13), (2, 19, 9, 7)]  # of the maps of a pyramid; 19 channels fill no vector
SCALES = [1 / 4, 1 / 8]
OUTPUT_SIZE = (3, 2)
CANONICAL: dict[str, Any] = {"canonical_scale": 32, "canonical_level": 3}  # with which BOXES are of both levels

# Rows [batch_index, x1, y1, x2, y2] in image pixels: of ordinary regions, large and small, then of one that leaves the
# map, one whose corners are the wrong way round, one of no image, and one with a coordinate that is no number.
BOXES = [
    [0, 3, 5, 41, 60],
    [1, 0, 0, 51, 67],
    [1, 20.5, 11.25, 22, 12],
    [0, 8, 8, 8, 8],
    [1, 30, 40, 90, 130],
    [0, 25, 30, 10, 4],
    [2, 0, 0, 20, 20],
    [0, 0, float("nan"), 20, 20],
]


def list_devices() -> list[torch.device]:
    """Lists the CPU, and each GPU where the CUDA kernels are loaded."""
    num_gpus = torch.cuda.device_count() if _ops.cuda_is_loaded else 0
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in range(num_gpus))]


def make_problem(dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Draws the maps of a pyramid, with ties and a NaN among their values, and a gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randint(-20, 20, shape, generator=generator).to(dtype) for shape in SHAPES]
    maps[0][1, 2, 3, 4] = float("nan")
    grad_output = torch.randn(len(BOXES), SHAPES[0][1], *OUTPUT_SIZE, generator=generator)
    return maps, grad_output.to(dtype)


def name_results(name: str, output: Tensor, argmax: Tensor, gradients: Sequence[Tensor]) -> dict[str, Tensor]:
    """Names the results of the operator `name`. The gradients are those of its maps."""
    named = {f"{name}: output": output, f"{name}: argmax": argmax}
    return named | {f"{name}: gradient of map {index}": gradient for index, gradient in enumerate(gradients)}


def ask_reference(maps: list[Tensor], boxes: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    """Returns what the reference computes on CPU."""
    output, argmax = reference.roi_pool(maps[0], boxes, OUTPUT_SIZE, SCALES[0], return_argmax=True)
    gradient = reference.roi_pool_backward(grad_output, boxes, argmax, maps[0].shape)
    results = name_results("roi_pool", output, argmax, [gradient])

    output, argmax = reference.multiscale_roi_pool(maps, boxes, OUTPUT_SIZE, SCALES, **CANONICAL, return_argmax=True)
    shapes = [map.shape for map in maps]
    gradients = reference.multiscale_roi_pool_backward(grad_output, boxes, argmax, shapes, SCALES, **CANONICAL)
    return results | name_results("multiscale_roi_pool", output, argmax, gradients)


def ask_kernels(maps: list[Tensor], boxes: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    """Returns what the kernels of a device compute: also in inference, where they record no argmax."""
    maps = [map.requires_grad_() for map in maps]
    results = {}
    with torch.no_grad():
        results["roi_pool: output in inference"] = roi_pool(maps[0], boxes, OUTPUT_SIZE, SCALES[0])
        pooled = multiscale_roi_pool(maps, boxes, OUTPUT_SIZE, SCALES, **CANONICAL)
        results["multiscale_roi_pool: output in inference"] = pooled

    output, argmax = roi_pool(maps[0], boxes, OUTPUT_SIZE, SCALES[0], return_argmax=True)
    gradients = torch.autograd.grad(output, maps[:1], grad_output)
    results |= name_results("roi_pool", output, argmax, gradients)
    output, argmax = multiscale_roi_pool(maps, boxes, OUTPUT_SIZE, SCALES, **CANONICAL, return_argmax=True)
    gradients = torch.autograd.grad(output, maps, grad_output)
    return results | name_results("multiscale_roi_pool", output, argmax, gradients)


def have_same_bits(actual: Tensor, expected: Tensor) -> bool:
    if (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
        return False
    return torch.equal(*(tensor.detach().cpu().contiguous().view(torch.uint8) for tensor in (actual, expected)))


def find_differences(device: torch.device) -> tuple[int, list[str]]:
    """Returns how many results of the kernels were compared, and the names of those that differ in any bit."""
    num_compared = 0
    different = []
    for dtype in DTYPES:
        maps, grad_output = make_problem(dtype)
        boxes = torch.tensor(BOXES)
        expected = ask_reference(maps, boxes, grad_output)
        for layout, memory_format in LAYOUTS.items():
            maps_there = [map.to(device, memory_format=memory_format, copy=True) for map in maps]
            for name, result in ask_kernels(maps_there, boxes.to(device), grad_output.to(device)).items():
                num_compared += 1
                if not have_same_bits(result, expected[name.removesuffix(" in inference")]):
                    different.append(f"{str(dtype).removeprefix('torch.')}, {layout}, {name}")
    return num_compared, different


def run_selftest() -> bool:
    """Prints what differs on each device, and returns whether nothing does."""
    passed = True
    for device in list_devices():
        num_compared, different = find_differences(device)
        for name in different:
            print(f"{device}: {name} differs from the reference")
        print(f"{device}: {num_compared - len(different)} of {num_compared} results have the bits of the reference")
        passed = passed and not different
    return passed
