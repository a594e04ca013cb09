"""Compares the kernels that are installed with roipool.reference, in seconds: `python -m roipool --selftest`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from roipool import _ops, reference
from roipool._ops.bad_boxes import set_detect_bad_boxes
from roipool._ops.load import ops
from roipool.functional import multiscale_roi_pool, roi_pool

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SHAPES = [(2, 19, 17, 13), (2, 19, 9, 7)]  # of the maps of a pyramid; 19 channels fill no vector
SCALES = [1 / 4, 1 / 8]
OUTPUT_SIZES = [(3, 2), (1, 13), (7, 5)]
CANONICAL: dict[str, Any] = {"canonical_scale": 32, "canonical_level": 3}  # with which BOXES are of both levels
CPU_WAYS = ["packed_maps", "packed_parts", "in_place", "rows", "cells"]  # of csrc/cpu/forward.h

# Rows [batch_index, x1, y1, x2, y2] in image pixels.
BOXES = [
    [0, 3, 5, 41, 60],
    [1, 0, 0, 51, 67],
    [1, 20.5, 11.25, 22, 12],
    [0, 8, 8, 8, 8],
    [0, 2, 10, 42, 58],  # corners between two cells of the first map
    [1, 0, 0, 32, 31.75],  # just below the bound between the levels
    [1, 0, 0, 32, 32],  # at it
    [0, -2, -14, 30, 40],  # reaches beyond the map, as do the next two
    [1, 30, 40, 90, 130],
    [0, -90, -90, -50, -50],
    [0, 25, 30, 10, 4],  # has its corners the wrong way round, as has the next one
    [0, 8, 8, 4, 4],
    [2, 0, 0, 20, 20],  # is of no image
    [-0.5, 0, 0, 20, 20],  # is of the first
    [0, 0, float("nan"), 20, 20],
    [0, 0, 0, float("inf"), 20],
]


def list_devices() -> list[torch.device]:
    """Lists the CPU, and each GPU where the CUDA kernels are loaded."""
    num_gpus = torch.cuda.device_count() if _ops.cuda_is_loaded else 0
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in range(num_gpus))]


def make_maps(dtype: torch.dtype) -> list[Tensor]:
    """Draws the maps of a pyramid, with ties, zeros of both signs and NaNs of both signs among their values."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randint(-20, 20, shape, generator=generator).to(dtype) for shape in SHAPES]
    for map in maps:
        map[0, 1].clamp_(max=0)
        map[0, 1, ::2] *= -1
        map[1, 2, 3, 4] = float("nan")
        map[1, 2, 5, 3] = -torch.tensor(float("nan"))
    return maps


def name_results(name: str, output: Tensor, argmax: Tensor, gradients: Sequence[Tensor]) -> dict[str, Tensor]:
    """Names the results of the operator `name`. The gradients are those of its maps."""
    named = {f"{name}: output": output, f"{name}: argmax": argmax}
    return named | {f"{name}: gradient of map {index}": gradient for index, gradient in enumerate(gradients)}


class Problem:
    """Holds the inputs of the operators, and what the reference makes of them on CPU."""

    def __init__(self, dtype: torch.dtype, output_size: tuple[int, int]) -> None:
        self.output_size = output_size
        self.maps, self.boxes = make_maps(dtype), torch.tensor(BOXES)
        generator = torch.Generator().manual_seed(1)
        self.grad_output = torch.randn(len(BOXES), SHAPES[0][1], *output_size, generator=generator).to(dtype)
        self.expected = self.ask_reference()

    def ask_reference(self) -> dict[str, Tensor]:
        maps, boxes = self.maps, self.boxes
        output, argmax = reference.roi_pool(maps[0], boxes, self.output_size, SCALES[0], return_argmax=True)
        gradient = reference.roi_pool_backward(self.grad_output, boxes, argmax, maps[0].shape)
        results = name_results("roi_pool", output, argmax, [gradient])

        output, argmax = reference.multiscale_roi_pool(
            maps, boxes, self.output_size, SCALES, **CANONICAL, return_argmax=True
        )
        gradients = reference.multiscale_roi_pool_backward(
            self.grad_output, boxes, argmax, [map.shape for map in maps], SCALES, **CANONICAL
        )
        return results | name_results("multiscale_roi_pool", output, argmax, gradients)

    def ask_kernels(self, device: torch.device, memory_format: torch.memory_format) -> dict[str, Tensor]:
        """Returns what the kernels of a device compute: also in inference, where they record no argmax."""
        maps = [map.to(device, memory_format=memory_format, copy=True).requires_grad_() for map in self.maps]
        boxes, grad_output = self.boxes.to(device), self.grad_output.to(device)
        results = {}
        with torch.no_grad():
            results["roi_pool: output in inference"] = roi_pool(maps[0], boxes, self.output_size, SCALES[0])
            pooled = multiscale_roi_pool(maps, boxes, self.output_size, SCALES, **CANONICAL)
            results["multiscale_roi_pool: output in inference"] = pooled

        output, argmax = roi_pool(maps[0], boxes, self.output_size, SCALES[0], return_argmax=True)
        gradients = torch.autograd.grad(output, maps[:1], grad_output)
        results |= name_results("roi_pool", output, argmax, gradients)
        gathered = ops.roi_pool_gather.default(maps[0], boxes, argmax, SCALES[0])
        results["roi_pool: output of gather"] = gathered
        output, argmax = multiscale_roi_pool(maps, boxes, self.output_size, SCALES, **CANONICAL, return_argmax=True)
        gradients = torch.autograd.grad(output, maps, grad_output)
        return results | name_results("multiscale_roi_pool", output, argmax, gradients)


def is_as_expected(result: Tensor, expected: Tensor, memory_format: torch.memory_format) -> bool:
    """Returns whether a result has the bits that are expected, in the memory format of the maps."""
    if (result.shape, result.dtype) != (expected.shape, expected.dtype):
        return False
    bits = [tensor.detach().cpu().contiguous().view(torch.uint8) for tensor in (result, expected)]
    return torch.equal(*bits) and result.is_contiguous(memory_format=memory_format)


@contextmanager
def choose_cpu_way(way: str) -> Iterator[None]:
    """Lets the CPU's forward go one way where it can, as it looks at this variable in each call."""
    before = os.environ.get("ROIPOOL_CPU_FORWARD")
    os.environ["ROIPOOL_CPU_FORWARD"] = way
    try:
        yield
    finally:
        del os.environ["ROIPOOL_CPU_FORWARD"]
        if before is not None:
            os.environ["ROIPOOL_CPU_FORWARD"] = before


def find_differences(problem: Problem, device: torch.device) -> tuple[int, list[str]]:
    """Returns how many results of the kernels were compared, and the names of those that differ."""
    num_compared = 0
    different = []
    for way in CPU_WAYS if device.type == "cpu" else [""]:
        for layout, memory_format in LAYOUTS.items():
            with choose_cpu_way(way), set_detect_bad_boxes(False):
                results = problem.ask_kernels(device, memory_format)
            num_compared += len(results)
            for name, result in results.items():
                expected = problem.expected[name.removesuffix(" in inference").removesuffix(" of gather")]
                if not is_as_expected(result, expected, memory_format):
                    dtype = str(problem.maps[0].dtype).removeprefix("torch.")
                    different.append(f"{dtype}, {layout}, {way + ', ' if way else ''}{name}")
    return num_compared, different


def run_selftest() -> bool:
    """Prints what differs on each device, and returns whether nothing does."""
    problems = [Problem(dtype, output_size) for dtype in DTYPES for output_size in OUTPUT_SIZES]
    passed = True
    for device in list_devices():
        num_compared = num_different = 0
        for problem in problems:
            number, different = find_differences(problem, device)
            num_compared += number
            num_different += len(different)
            for name in different:
                print(f"{device}: {name} differs from the reference")
        print(f"{device}: {num_compared - num_different} of {num_compared} results have the bits of the reference")
        passed = passed and num_different == 0
    return passed
