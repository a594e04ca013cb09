"""Times a head of torchvision as it is and under roipool.torchvision.accelerate(), which it knows nothing of.

    python benchmarks/bench_accelerate.py --json benchmarks/results/cpu_accelerate.json

The head is that of Fast R-CNN: torchvision's RoIPool (7x7 bins, stride 16), then two linear layers of 1024 features.
The pool is timed without them as well, and for one small region, where a call costs more than its work. All run in
eager mode and scripted, in one process, in turns: a figure is the median over the rounds. Results must be equal before
anything is timed.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from calls import Call
from measure import LAYOUTS
from report import make_console, write_json
from rich.progress import Progress
from rich.table import Table
from timing import time_in_turns
from torch import Tensor, nn
from workloads import WORKLOADS, Part, Workload

from roipool.torchvision import accelerate

PROBLEMS = {"fpn": WORKLOADS["fpn"], "one small region": Workload("one", 1, 8, (16,), 1, (2, 2), map_size=(8, 8))}
HIDDEN_FEATURES = 1024
NUM_CALLS = {"fpn": 1, "one small region": 200}  # in a row, whose mean is one figure
MODES = ["inference", "training step"]
CASES = [("fpn", "head"), ("fpn", "pool"), ("one small region", "pool")]


@dataclass
class Result:
    """Holds the medians of one model in one mode, in milliseconds."""

    workload: str
    model: str
    execution: str  # eager or scripted
    mode: str
    layout: str
    torchvision_ms: float
    accelerated_ms: float
    torchvision_over_accelerated: float


def make_model(name: str, workload: Workload) -> nn.Module:
    pool = torchvision.ops.RoIPool(list(workload.output_size), 1 / workload.strides[0])
    if name == "pool":
        return pool

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            num_values = workload.channels * workload.output_size[0] * workload.output_size[1]
            self.pool = pool
            self.layers = nn.Sequential(
                nn.Linear(num_values, HIDDEN_FEATURES),
                nn.ReLU(),
                nn.Linear(HIDDEN_FEATURES, HIDDEN_FEATURES),
                nn.ReLU(),
            )

        def forward(self, features: Tensor, rois: Tensor) -> Tensor:
            return self.layers(self.pool(features, rois).flatten(1))

    torch.manual_seed(0)
    return Head()


def make_call(mode: str, model: nn.Module, part: Part) -> Call:
    if mode == "inference":

        def infer() -> list[Tensor]:
            with torch.no_grad():
                return [model(part.input, part.rois)]

        return infer
    features = part.input.detach().requires_grad_()
    inputs = [features, *model.parameters()]
    grad = torch.ones_like(model(features, part.rois))
    return lambda: list(torch.autograd.grad(model(features, part.rois), inputs, grad))


def repeat(call: Call, num_calls: int) -> Callable[[], list[Tensor]]:
    def repeated() -> list[Tensor]:
        for _ in range(num_calls - 1):
            call()
        return call()

    return repeated


def accelerated(call: Call) -> Callable[[], list[Tensor]]:
    def in_block() -> list[Tensor]:
        with accelerate():
            return call()

    return in_block


def check_equal(calls: dict[str, Call]) -> None:
    """Raises unless the results are equal, or nearly: torchvision sums gradients on CUDA in no fixed order."""
    for before, after in zip(calls["torchvision"](), calls["accelerated"](), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def measure(workload_name: str, model_name: str, mode: str, layout: str, num_rounds: int, device: str) -> list[Result]:
    workload = PROBLEMS[workload_name]
    (part,) = workload.make(torch.float32, LAYOUTS[layout], device)
    model = make_model(model_name, workload).to(device)
    num_calls = NUM_CALLS[workload_name]
    results = []
    for execution, module in {"eager": model, "scripted": torch.jit.script(model)}.items():
        call = repeat(make_call(mode, module, part), num_calls)
        calls: dict[str, Call] = {"torchvision": call, "accelerated": accelerated(call)}
        check_equal(calls)
        times = time_in_turns(calls, num_rounds, device)
        before, after = (1e3 * statistics.median(times[name]) / num_calls for name in calls)
        results.append(Result(workload_name, model_name, execution, mode, layout, before, after, before / after))
    return results


def print_table(results: list[Result]) -> None:
    table = Table("workload", "model", "execution", "mode")
    for title in ["torchvision, ms", "accelerated, ms", "torchvision / accelerated"]:
        table.add_column(title)
    for r in results:
        times = [f"{r.torchvision_ms:.3f}", f"{r.accelerated_ms:.3f}", f"{r.torchvision_over_accelerated:.2f}"]
        table.add_row(r.workload, r.model, r.execution, r.mode, *times)
    make_console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (%(default)s)")
    parser.add_argument("--layout", choices=list(LAYOUTS), default="contiguous", help="of the features (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of alternation (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    arguments = parser.parse_args()

    results: list[Result] = []
    problems = [(*case, mode) for case in CASES for mode in MODES]
    with Progress(console=make_console(), transient=True) as progress:
        for problem in progress.track(problems, description="timing"):
            results += measure(*problem, arguments.layout, arguments.rounds, arguments.device)
    print_table(results)
    if arguments.json:
        write_json(results, arguments.json, arguments.device)


if __name__ == "__main__":
    main()
