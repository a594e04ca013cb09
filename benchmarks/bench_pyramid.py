"""Times MultiScaleRoIPool beside what people write by hand: a loop over the levels of a feature pyramid.

    python benchmarks/bench_pyramid.py --json result.json

Each contender gets a dictionary of four maps (strides 4 to 32) of 800x1344 images and a list of boxes, as the head of a
Faster R-CNN does, and chooses the levels itself: what is timed is all that it does from there to the pooled regions.
The loops pick the regions of a level, pool them, and put them where they belong, as torchvision's MultiScaleRoIAlign
does. That one is timed as well, though it computes something else: bilinear samples, averaged.

The sides of boxes are uniform between 16 and 600 px. Those of proposals are log-uniform between 8 and 800 px, as in a
detector: most proposals lie on the levels of strides 4 and 8. Figures are those of the default settings of the
allocator, unless --settings names others, as for run.py.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from calls import Call, count_bytes_moved, make_floor
from measure import DTYPES, LAYOUTS, Result, make_results, share_of_same_bits
from peers import Peer, load_peers
from report import make_console, print_results, write_json
from rich.progress import Progress
from settings import add_settings, measure_in_settings
from timing import count_page_faults, time_in_turns
from torch import Tensor
from workloads import Part, Workload

import roipool
from roipool.reference import levels_of

STRIDES = (4, 8, 16, 32)
SCALES = [1 / stride for stride in STRIDES]
NAMES = ["0", "1", "2", "3"]
WORKLOADS = [
    Workload("pyramid, 2 x 512 boxes", 2, 256, STRIDES, 1024, (7, 7)),
    Workload("pyramid, 2 x 512 proposals", 2, 256, STRIDES, 1024, (7, 7), (8, 800), side_distribution="log_uniform"),
    Workload("pyramid, 1 x 1000 boxes", 1, 256, STRIDES, 1000, (7, 7)),
    Workload("pyramid, 2 x 64 masks", 2, 256, STRIDES, 128, (14, 14)),
]
MODES = ["inference", "forward", "forward_backward"]

Head = Callable[[dict[str, Tensor], list[Tensor]], Tensor]


def make_loop(peer: Peer, output_size: tuple[int, int]) -> Head:
    """Returns a head that calls the peer once for each level."""

    def loop(features: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        rois = torch.cat([torch.nn.functional.pad(of_image, (1, 0), value=i) for i, of_image in enumerate(boxes)])
        levels = levels_of(rois[:, 1:], SCALES, 224, 4)
        maps = list(features.values())
        output = maps[0].new_zeros(len(rois), maps[0].shape[1], *output_size)
        for level, input in enumerate(maps):
            of_level = torch.where(levels == level)[0]
            output[of_level] = peer(Part(input, rois[of_level], SCALES[level]), output_size)
        return output

    return loop


def make_contenders(workload: Workload) -> dict[str, Head]:
    peers = load_peers(["torchvision"])
    image_shapes = [workload.image_size] * workload.batch_size
    multiscale = roipool.MultiScaleRoIPool(NAMES, workload.output_size)
    contenders = {
        "roipool": lambda features, boxes: multiscale(features, boxes, image_shapes),
        "loop of roipool": make_loop(peers["roipool"], workload.output_size),
    }
    if "torchvision" in peers:
        from torchvision.ops import MultiScaleRoIAlign

        align = MultiScaleRoIAlign(NAMES, workload.output_size, 2)
        contenders["loop of torchvision"] = make_loop(peers["torchvision"], workload.output_size)
        contenders["MultiScaleRoIAlign"] = lambda features, boxes: align(features, boxes, image_shapes)
    return contenders


def make_head_call(mode: str, head: Head, parts: list[Part]) -> Call:
    inputs = [part.input.detach().requires_grad_(mode != "inference") for part in parts]
    features = dict(zip(NAMES, inputs, strict=True))
    rois = torch.cat([part.rois for part in parts])
    boxes = [rois[rois[:, 0] == i, 1:] for i in range(len(inputs[0]))]

    def forward() -> list[Tensor]:
        return [head(features, boxes)]

    if mode != "forward_backward":
        return forward
    grads = [torch.ones_like(output) for output in forward()]
    return lambda: list(torch.autograd.grad(forward(), inputs, grads))


def measure_pyramid(
    workload: Workload, dtype: str, layout: str, mode: str, num_rounds: int, device: str
) -> list[Result]:
    parts = workload.make(DTYPES[dtype], LAYOUTS[layout], device)
    calls = {name: make_head_call(mode, head, parts) for name, head in make_contenders(workload).items()}
    expected = calls["roipool"]()
    equal = {
        name: None if name == "MultiScaleRoIAlign" else share_of_same_bits(call(), expected)
        for name, call in calls.items()
    }
    calls["floor"] = make_floor(count_bytes_moved(mode, parts, workload.output_size), device)
    equal["floor"] = None
    times = time_in_turns(calls, num_rounds, device)
    page_faults = count_page_faults(calls) if device == "cpu" else {}
    return make_results((workload.name, dtype, layout, mode), times, equal, page_faults)


def measure_problems(arguments: argparse.Namespace) -> list[Result]:
    """Measures all problems in the setting that this process has."""
    results: list[Result] = []
    problems = [(workload, mode) for workload in WORKLOADS for mode in MODES]
    with Progress(console=make_console(), transient=True) as progress:
        for workload, mode in progress.track(problems, description="timing"):
            results += measure_pyramid(
                workload, arguments.dtype, arguments.layout, mode, arguments.rounds, arguments.device
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the features (%(default)s)")
    parser.add_argument("--layout", choices=list(LAYOUTS), default="contiguous", help="of the features (%(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of alternation (%(default)s)")
    add_settings(parser)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    arguments = parser.parse_args()

    results = measure_in_settings(arguments.settings, measure_problems, arguments)
    print_results(results, make_console())
    if arguments.json:
        write_json(results, arguments.json, arguments.device, arguments.settings)


if __name__ == "__main__":
    main()
