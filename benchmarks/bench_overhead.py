"""Times what a call costs beside its work: one region on a 1x8x8x8 map, roipool's function beside torchvision's.

    python benchmarks/bench_overhead.py --json benchmarks/results/cpu_overhead.json

A figure is the median over the rounds, in which both take turns in one process. On CUDA, inference is timed as a CUDA
graph as well, and compiled by torch.compile(mode="reduce-overhead").
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from calls import Call, make_call
from peers import load_peers
from report import describe_environment
from rich.console import Console
from rich.table import Table
from timing import capture_graph
from torch.utils.benchmark import Timer
from workloads import Part

NUM_CALLS = 2000  # in a row
MODES = ["inference", "forward", "forward_backward"]


def compile_call(call: Call) -> Call:
    compiled = torch.compile(call, mode="reduce-overhead")
    for _ in range(3):  # the first call compiles, the second records, the third replays
        compiled()
    return compiled


# Names the modes that only CUDA has: what makes them from inference.
CUDA_MODES: dict[str, Callable[[Call], Callable[[], object]]] = {"graph": capture_graph, "compiled": compile_call}


def time_in_rounds(calls: dict[str, Callable[[], object]], num_rounds: int) -> dict[str, float]:
    """Returns the median of each call over the rounds, in microseconds."""
    timers = {name: Timer("call()", globals={"call": call}) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(num_rounds):
        for name, timer in timers.items():
            times[name].append(1e6 * timer.timeit(NUM_CALLS).mean)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="of alternation (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    arguments = parser.parse_args()

    peers = load_peers(["torchvision"])
    input, rois = torch.randn(1, 8, 8, 8), torch.tensor([[0.0, 0, 0, 6, 6]])
    parts = [Part(input.to(arguments.device), rois.to(arguments.device), 1.0)]
    table = Table("mode", *[f"{name}, us" for name in peers], "torchvision / roipool")
    results = []
    for mode in MODES + (list(CUDA_MODES) if arguments.device == "cuda" else []):
        calls: dict[str, Callable[[], object]] = {}
        for name, peer in peers.items():
            call = make_call(mode if mode in MODES else "inference", peer, parts, (2, 2))
            calls[name] = CUDA_MODES[mode](call) if mode in CUDA_MODES else call
        medians = time_in_rounds(calls, arguments.rounds)
        ratio = medians.get("torchvision", float("nan")) / medians["roipool"]
        results.append({"mode": mode, "us": medians, "torchvision_over_roipool": ratio})
        table.add_row(mode, *[f"{median:.1f}" for median in medians.values()], f"{ratio:.2f}")
    Console().print(table)
    if arguments.json:
        report = {"environment": describe_environment(arguments.device), "results": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
