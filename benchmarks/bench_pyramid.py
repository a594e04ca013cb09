"""Times MultiScaleRoIPool beside what people write: a loop over the levels of a feature pyramid.

    THP_MEM_ALLOC_ENABLE=1 python benchmarks/bench_pyramid.py --json result.json

Each contender gets a dictionary of four maps (strides 4 to 32) of 800x1344 images and a list of boxes, as the head of a
Faster R-CNN does, and chooses the levels itself: all that it takes from there to the pooled regions. The loops pick the
regions of a level, pool them, and put them where they belong, as torchvision's MultiScaleRoIAlign does. That is timed
as well, though it computes something else: bilinear samples, averaged.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from peers import available
from rich.console import Console
from rich.progress import Progress
from run import DTYPES, LAYOUTS, Result, bytes_moved, make_floor, share_of_same_bits, show, write_json
from torch import Tensor
from torch.utils.benchmark import Timer
from workloads import Part, Workload

import roipool
from roipool.reference import levels_of

STRIDES = (4, 8, 16, 32)
SCALES = [1 / stride for stride in STRIDES]
NAMES = ["0", "1", "2", "3"]
WORKLOADS = [
    Workload("training, 2 x 512 boxes", 2, 256, STRIDES, 1024, (7, 7)),
    Workload("inference, 1 x 1000 boxes", 1, 256, STRIDES, 1000, (7, 7)),
    Workload("masks 14x14, 2 x 64 boxes", 2, 256, STRIDES, 128, (14, 14)),
]
MODES = ["inference", "forward", "forward_backward"]

Head = Callable[[dict[str, Tensor], list[Tensor], tuple[int, int]], Tensor]


def make_loop(pool: Callable[..., Tensor]) -> Head:
    """`pool` is called as in peers.py, once for each level."""

    def loop(features: dict[str, Tensor], boxes: list[Tensor], output_size: tuple[int, int]) -> Tensor:
        rois = torch.cat([torch.nn.functional.pad(of_image, (1, 0), value=i) for i, of_image in enumerate(boxes)])
        levels = levels_of(rois[:, 1:], SCALES, 224, 4)
        maps = list(features.values())
        output = maps[0].new_zeros(len(rois), maps[0].shape[1], *output_size)
        for level, map in enumerate(maps):
            here = torch.where(levels == level)[0]
            output[here] = pool(Part(map, rois[here], SCALES[level]), output_size)
        return output

    return loop


def make_contenders(image_size: tuple[int, int]) -> dict[str, Head]:
    pools = available(["torchvision"])

    def multiscale(features: dict[str, Tensor], boxes: list[Tensor], output_size: tuple[int, int]) -> Tensor:
        return roipool.MultiScaleRoIPool(NAMES, output_size)(features, boxes, [image_size] * len(boxes))

    contenders = {"roipool": multiscale, "loop of roipool": make_loop(pools["roipool"])}
    if "torchvision" in pools:
        from torchvision.ops import MultiScaleRoIAlign

        def align(features: dict[str, Tensor], boxes: list[Tensor], output_size: tuple[int, int]) -> Tensor:
            return MultiScaleRoIAlign(NAMES, output_size, 2)(features, boxes, [image_size] * len(boxes))

        contenders |= {"loop of torchvision": make_loop(pools["torchvision"]), "MultiScaleRoIAlign": align}
    return contenders


def make_call(mode: str, head: Head, parts: list[Part], output_size: tuple[int, int]) -> Callable[[], list[Tensor]]:
    inputs = [part.input.detach().requires_grad_(mode != "inference") for part in parts]
    features = dict(zip(NAMES, inputs, strict=True))
    rois = torch.cat([part.rois for part in parts])
    boxes = [rois[rois[:, 0] == i, 1:] for i in range(len(inputs[0]))]

    def forward() -> list[Tensor]:
        return [head(features, boxes, output_size)]

    if mode != "forward_backward":
        return forward
    grads = [torch.ones_like(output) for output in forward()]
    return lambda: list(torch.autograd.grad(forward(), inputs, grads))


def measure(workload: Workload, dtype: str, layout: str, mode: str, rounds: int, device: str) -> list[Result]:
    parts = workload.make(DTYPES[dtype], LAYOUTS[layout], device)
    calls = {
        name: make_call(mode, head, parts, workload.output_size)
        for name, head in make_contenders(workload.image_size).items()
    }
    expected = calls["roipool"]()
    equal = {
        name: None if name == "MultiScaleRoIAlign" else share_of_same_bits(call(), expected)
        for name, call in calls.items()
    }
    calls["floor"] = make_floor(bytes_moved(mode, parts, workload.output_size), device)
    threads = torch.get_num_threads()
    timers = {name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer.timeit(1 if device == "cpu" else 20).mean)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    quartiles = {name: statistics.quantiles(seconds, n=4) for name, seconds in times.items()}
    return [
        Result(
            workload.name,
            dtype,
            layout,
            mode,
            threads,
            name,
            equal.get(name),
            1e3 * medians[name],
            1e3 * (quartiles[name][2] - quartiles[name][0]),
            medians[name] / medians["roipool"],
            medians[name] / medians["floor"],
        )
        for name in times
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the features (%(default)s)")
    parser.add_argument("--layout", choices=list(LAYOUTS), default="contiguous", help="of the features (%(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of alternation (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    arguments = parser.parse_args()

    console = Console() if Console().is_terminal else Console(width=140)
    results: list[Result] = []
    problems = [(workload, mode) for workload in WORKLOADS for mode in MODES]
    with Progress(console=console, transient=True) as progress:
        for workload, mode in progress.track(problems, description="timing"):
            results += measure(workload, arguments.dtype, arguments.layout, mode, arguments.rounds, arguments.device)
    show(results, console)
    if arguments.json:
        write_json(results, arguments.json, arguments.device)


if __name__ == "__main__":
    main()
