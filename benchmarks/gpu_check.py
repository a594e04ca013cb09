"""Checks that the CUDA kernels give the bits of the CPU's: 40 problems, each through all
operators, that reach every kernel, dtype and layout.

    python benchmarks/gpu_check.py --results results.jsonl

Each result is printed, and added to the results, as it is made. --rehearse runs the kernels in host execution
(tests/cuda_host), on smaller problems.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_results import Results
from torch import Tensor

import roipool

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import DTYPES, channels_last, contiguous, features, random_rois, same_bits


class Case(NamedTuple):
    """Names a problem: maps of each level, from the finest to the coarsest, and regions on them."""

    name: str
    shapes: list[tuple[int, int, int, int]]
    num_rois: int
    output_size: tuple[int, int] = (7, 7)
    kind: str = "distinct"


CASES = [
    Case("detector", [(2, 64, 50, 84)], 200),
    Case("odd channels, special values", [(2, 37, 23, 31)], 60, kind="nonfinite"),
    Case("pyramid", [(2, 24, 100, 168), (2, 24, 50, 84), (2, 24, 25, 42)], 150, kind="ties"),
    Case("wide bins", [(1, 6, 40, 700)], 30, (2, 3), kind="ties"),
    Case("many regions", [(3, 2, 9, 11)], 5000, (2, 2)),
]
SMALL_CASES = [
    Case("detector", [(2, 24, 20, 24)], 20),
    Case("odd channels, special values", [(2, 5, 13, 11)], 10, kind="nonfinite"),
    Case("pyramid", [(2, 4, 24, 28), (2, 4, 12, 14), (2, 4, 6, 7)], 15, kind="ties"),
]
SUFFIXES = ["", "_with_argmax", "_backward", "_gather"]


def load_kernels(rehearse: bool) -> tuple[Any, torch.device]:
    """Returns the operators under test, and the device of their tensors."""
    if not rehearse:
        return torch.ops.roipool, torch.device("cuda")
    from cuda_host.build import build, load

    return load(build(Path(tempfile.mkdtemp()))), torch.device("cpu")


def call_all(ops: Any, maps: list[Tensor], rois: Tensor, output_size: tuple[int, int]) -> list[Tensor]:
    """Returns the results of the forwards, the backward and the gather."""
    is_pyramid = len(maps) > 1
    prefix = "multiscale_roi_pool" if is_pyramid else "roi_pool"
    forward, with_argmax, backward, gather = (getattr(ops, prefix + suffix) for suffix in SUFFIXES)
    scales = ([1 / 2**level for level in range(len(maps))], 40.0, 1) if is_pyramid else (1.0,)
    given = maps if is_pyramid else maps[0]
    heights, widths = ([map.shape[i] for map in maps] for i in [2, 3])
    sizes = (heights, widths) if is_pyramid else (heights[0], widths[0])
    output, argmax = with_argmax(given, rois, *output_size, *scales)
    grad_output = features(output.shape, output.dtype, seed=1).to(output.device)
    grads = backward(grad_output, rois, argmax, len(maps[0]), *sizes, *scales)
    results = [output, argmax, forward(given, rois, *output_size, *scales), gather(given, rois, argmax, *scales)]
    return [*results, *(grads if is_pyramid else [grads])]


def check_cases(cases: list[Case], ops: Any, device: torch.device) -> Iterator[dict[str, object]]:
    for case in cases:
        batch_size, _, height, width = case.shapes[0]
        rois = random_rois(case.num_rois, batch_size, height, width, seed=0, wild=case.kind == "nonfinite").float()
        for dtype in DTYPES:
            for layout in [contiguous, channels_last]:
                maps = [layout(features(shape, dtype, seed=i, kind=case.kind)) for i, shape in enumerate(case.shapes)]
                name = f"{case.name}, {str(dtype).removeprefix('torch.')}, {layout.__name__}"
                expected = call_all(torch.ops.roipool, maps, rois, case.output_size)
                try:
                    actual = call_all(ops, [map.to(device) for map in maps], rois.to(device), case.output_size)
                    equal = all(same_bits(a, e) for a, e in zip(actual, expected, strict=True))
                    yield {"check": name, "same bits as on the CPU": equal}
                except RuntimeError as error:
                    yield {"check": name, "same bits as on the CPU": False, "error": str(error)[:300]}


def check_runs(ops: Any, device: torch.device, layout: Callable[[Tensor], Tensor], num_runs: int) -> dict[str, object]:
    maps = [layout(features((2, 64, 50, 84), torch.float32, seed=0, kind="ties")).to(device)]
    rois = random_rois(300, 2, 50.0, 84.0, seed=0).float().to(device)
    first = call_all(ops, maps, rois, (7, 7))
    runs = [call_all(ops, maps, rois, (7, 7)) for _ in range(num_runs)]
    equal = all(same_bits(a, b) for run in runs for a, b in zip(run, first, strict=True))
    return {"check": f"{num_runs} runs, {layout.__name__}", "same bits as in the first": equal}


FIRST_CALL_IN_A_CAPTURE = """
import torch, roipool
x, rois = torch.randn(1, 8, 20, 20, device="cuda"), torch.tensor([[0.0, 1, 1, 15, 15]], device="cuda")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    output = torch.ops.roipool.roi_pool(x, rois, 7, 7, 1.0)
graph.replay()
assert torch.equal(output, roipool.roi_pool(x, rois, 7))
"""


def try_first_call_in_a_capture() -> dict[str, object]:
    """Says whether a kernel may be used for the first time while a CUDA graph is captured; PyTorch warms up first."""
    run = subprocess.run([sys.executable, "-c", FIRST_CALL_IN_A_CAPTURE], capture_output=True, text=True)
    said = (run.stderr.strip().splitlines() or [""])[-1]
    return {"check": "first call within the capture of a graph", "works": "yes" if run.returncode == 0 else said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, metavar="PATH", help="add the results there, a line of JSON each")
    parser.add_argument("--rehearse", action="store_true", help="in host execution, without a GPU")
    arguments = parser.parse_args()
    results = Results(arguments.results)
    ops, device = load_kernels(arguments.rehearse)
    for result in check_cases(SMALL_CASES if arguments.rehearse else CASES, ops, device):
        results.add(result)
    if not arguments.rehearse:
        for layout in [contiguous, channels_last]:
            results.add(check_runs(ops, device, layout, num_runs=20))
        results.add(try_first_call_in_a_capture())
    wrong = [line for line in results.lines if False in line.values()]
    print(f"{len(results.lines) - len(wrong)} right, {len(wrong)} wrong")
    raise SystemExit(bool(wrong))


assert roipool.__version__  # its operators must be there


if __name__ == "__main__":
    main()
