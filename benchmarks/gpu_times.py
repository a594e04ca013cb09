"""Times the CUDA kernels beside torchvision's, and a copy of as many bytes, as CUDA graphs.

    python benchmarks/gpu_times.py --results results.jsonl

A figure is the median over some rounds, in which all contenders take turns; in a round, a contender replays its graphs
for about 20 ms, 200 times at most. Eager calls are bound by the CPU where kernels take less than some 15 us, graphs are
not. Up to MAX_COPIES graphs of a contender, each with inputs of its own, take turns, so that the second-level cache
does not hold them all.

--pyramid times MultiScaleRoIPool beside loops over the levels instead, eagerly and in wall time (bench_pyramid.py).
--variants compares, for roipool alone, tiles of several sizes in the backward and shares of several sizes in the
forward. --rehearse times the CPU's kernels, on small problems, with the same script.
"""

import argparse
import dataclasses
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bench_pyramid
import torch
from calls import count_bytes_moved, make_floor
from gpu_results import Results
from measure import DTYPES, LAYOUTS
from report import describe_environment
from timing import GPU_MILLISECONDS, capture_graph, copy_beyond_the_cache, take_turns, time_in_turns, time_on_gpu
from torch import Tensor
from workloads import WORKLOADS, Part, Workload

import roipool

MODES = ["inference", "forward", "backward"]
WARM_UP_SECONDS = 0.5
MAX_COPIES = 16
# (workload, dtype, layout) in the order of their worth, should the time run out.
PROBLEMS = [
    *[(name, "float32", "contiguous") for name in ["fpn", "head", "vgg", "pyramid_proposals", "proposals", "c5"]],
    *[(name, "float32", "channels_last") for name in ["fpn", "head"]],
    *[("fpn", "bfloat16", layout) for layout in ["contiguous", "channels_last"]],
    *[(name, "float32", "contiguous") for name in ["pixels", "detections", "few", "dense", "huge", "finest", "large"]],
    *[(name, "float32", "channels_last") for name in ["vgg", "c5", "pixels", "dense", "huge", "finest", "large"]],
]
VARIANTS = {
    "ROIPOOL_CUDA_TILE_CELLS": ("backward", ["256", "512", "1024", "2048", "4096"]),
    "ROIPOOL_CUDA_SHARE_REGIONS": ("inference", ["8", "16", "32", "64", "128", "512"]),
}
# The finest level of head alone.
FINEST = dataclasses.replace(WORKLOADS["head"], name="finest", strides=(4,), num_regions=116, box_sides=(16, 224))

Operator = Callable[[], Any]


class Operators:
    """Makes calls of roipool's operators for a workload: of one map, or of a pyramid."""

    def __init__(self, parts: list[Part], output_size: tuple[int, int]) -> None:
        self.inputs = [part.input for part in parts]
        self.rois = torch.cat([part.rois for part in parts])
        self.sizes = output_size
        self.is_pyramid = len(parts) > 1
        self.scales: tuple[Any, ...] = (parts[0].spatial_scale,)
        if self.is_pyramid:
            self.scales = ([part.spatial_scale for part in parts], 224.0, 4)
        self.prefix = "multiscale_roi_pool" if self.is_pyramid else "roi_pool"

    def make(self, mode: str) -> Operator:
        given = self.inputs if self.is_pyramid else self.inputs[0]
        ops = torch.ops.roipool
        forward = getattr(ops, self.prefix if mode == "inference" else f"{self.prefix}_with_argmax")
        if mode != "backward":
            return lambda: forward(given, self.rois, *self.sizes, *self.scales)
        output, argmax = forward(given, self.rois, *self.sizes, *self.scales)
        grad_output = torch.ones_like(output)
        heights, widths = ([input.shape[i] for input in self.inputs] for i in [2, 3])
        sizes = (heights, widths) if self.is_pyramid else (heights[0], widths[0])
        backward = getattr(ops, f"{self.prefix}_backward")
        batch_size = len(self.inputs[0])
        return lambda: backward(grad_output, self.rois, argmax, batch_size, *sizes, *self.scales)


def make_torchvision(mode: str, parts: list[Part], output_size: tuple[int, int]) -> Operator:
    """Makes a call of torchvision's operators for each level, whose regions are picked beforehand.

    It has no bfloat16, and none of its operators leaves out argmax.
    """
    forward, backward = torch.ops.torchvision.roi_pool, torch.ops.torchvision._roi_pool_backward
    casts = parts[0].input.dtype == torch.bfloat16
    used = [part for part in parts if len(part.rois)]

    def pool(part: Part) -> tuple[Tensor, Tensor]:
        input = part.input.float() if casts else part.input
        output, argmax = forward(input, part.rois.to(input.dtype), part.spatial_scale, *output_size)
        return (output.bfloat16() if casts else output), argmax

    if mode != "backward":
        return lambda: [pool(part) for part in used]
    pooled = [pool(part) for part in used]
    grads = [torch.ones_like(output) for output, _ in pooled]

    def backward_of_all() -> list[Tensor]:
        results = []
        for part, grad, (_, argmax) in zip(used, grads, pooled, strict=True):
            grad = grad.float() if casts else grad
            rois = part.rois.to(grad.dtype)
            result = backward(grad, rois, argmax, part.spatial_scale, *output_size, *part.input.shape)
            results.append(result.bfloat16() if casts else result)
        return results

    return backward_of_all


def capture(call: Operator, device: str) -> Operator:
    """Returns the replay of a call as a CUDA graph; the call itself on the CPU."""
    return call if device == "cpu" else capture_graph(call)


def shrink(workload: Workload) -> Workload:
    """Returns a small problem of the same kind, for a rehearsal."""
    return dataclasses.replace(
        workload, channels=min(4, workload.channels), num_regions=min(20, workload.num_regions), batch_size=1
    )


def time_problem(
    workload: Workload, dtype: str, layout: str, num_rounds: int, device: str
) -> Iterator[dict[str, object]]:
    copies = copy_beyond_the_cache(workload.make(DTYPES[dtype], LAYOUTS[layout], device), MAX_COPIES)
    size = workload.output_size
    for mode in MODES:
        calls = {
            "roipool": take_turns([capture(Operators(copy, size).make(mode), device) for copy in copies]),
            "torchvision": take_turns([capture(make_torchvision(mode, copy, size), device) for copy in copies]),
            "floor": take_turns(
                [capture(make_floor(count_bytes_moved(mode, copy, size), device), device) for copy in copies]
            ),
        }
        times = time_in_turns(calls, num_rounds, device)
        medians = {name: 1e6 * statistics.median(seconds) for name, seconds in times.items()}
        yield {
            **{"workload": workload.name, "dtype": dtype, "layout": layout, "mode": mode},
            **{f"{name}_us": round(median, 2) for name, median in medians.items()},
            "spread_us": round(1e6 * (max(times["roipool"]) - min(times["roipool"])), 2),
            "torchvision_over_roipool": round(medians["torchvision"] / medians["roipool"], 2),
            "roipool_over_floor": round(medians["roipool"] / medians["floor"], 2),
        }
        del calls  # and with them the memory of their graphs


def try_problem(*arguments: Any) -> Iterator[dict[str, object]]:
    """Times a problem; says so where that fails, as one that does not fit into memory should hide no other."""
    try:
        yield from time_problem(*arguments)
    except RuntimeError as error:
        workload, *rest = arguments
        yield {"failed": ", ".join(map(str, [workload.name, *rest])), "error": str(error)[:300]}


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def time_variants(workload: Workload, num_rounds: int, device: str) -> Iterator[dict[str, object]]:
    """Times what a plan chooses beside what the variables make it choose; graphs keep what was chosen."""
    copies = copy_beyond_the_cache(workload.make(torch.float32, torch.contiguous_format, device), MAX_COPIES)
    for name, (mode, values) in VARIANTS.items():
        makers = [Operators(copy, workload.output_size).make(mode) for copy in copies]
        calls = {"default": take_turns([capture(make, device) for make in makers])}
        for value in values:
            with variable(name, value):
                calls[value] = take_turns([capture(make, device) for make in makers])
        times = time_in_turns(calls, num_rounds, device)
        medians = {value: 1e6 * statistics.median(seconds) for value, seconds in times.items()}
        yield {
            **{"variants": name, "workload": workload.name, "mode": mode},
            **{value: round(median, 2) for value, median in medians.items()},
        }


def time_pyramids(num_rounds: int, device: str) -> Iterator[dict[str, object]]:
    for workload in bench_pyramid.WORKLOADS:
        for mode in bench_pyramid.MODES:
            problem = shrink(workload) if device == "cpu" else workload
            for result in bench_pyramid.measure_pyramid(problem, "float32", "contiguous", mode, num_rounds, device):
                yield dataclasses.asdict(result)


def warm_up() -> None:
    """Works until the GPU's clocks have left their idle state."""
    square = torch.randn(4096, 4096, device="cuda")
    for _ in range(int(1e3 * WARM_UP_SECONDS / GPU_MILLISECONDS) + 1):
        time_on_gpu(lambda: square @ square)


def choose_timings(arguments: argparse.Namespace, device: str) -> Iterator[dict[str, object]]:
    workloads = {**WORKLOADS, "finest": FINEST}
    problems, varied = PROBLEMS, ["fpn", "head", "vgg", "pyramid_proposals", "huge", "large"]
    if arguments.rehearse:
        workloads = {name: shrink(workload) for name, workload in workloads.items()}
        problems = [problem for problem in PROBLEMS if problem[0] in ["fpn", "head", "vgg"]]
        varied = ["fpn", "head"]
    if arguments.pyramid:
        yield from time_pyramids(arguments.rounds, device)
    elif arguments.variants:
        for name in varied:
            yield from time_variants(workloads[name], arguments.rounds, device)
    else:
        for name, dtype, layout in problems:
            yield from try_problem(workloads[name], dtype, layout, arguments.rounds, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, metavar="PATH", help="add the results there, a line of JSON each")
    parser.add_argument("--pyramid", action="store_true", help="time whole heads instead, in wall time")
    parser.add_argument("--variants", action="store_true", help="compare plans instead")
    parser.add_argument("--rounds", type=int, default=3, help="of alternation (%(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, on small problems")
    arguments = parser.parse_args()
    import torchvision

    device = "cpu" if arguments.rehearse else "cuda"
    results = Results(arguments.results)
    results.add(describe_environment(device) | {"torchvision": torchvision.__version__})
    if device == "cuda":
        warm_up()
    for result in choose_timings(arguments, device):
        results.add(result)
    raise SystemExit(any("failed" in line for line in results.lines))


assert roipool.__version__  # its operators must be there


if __name__ == "__main__":
    main()
