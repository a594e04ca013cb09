"""What a call costs beside its work: one region on a 1x8x8x8 map, roipool's function beside torchvision's.

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
from peers import available
from report import environment
from rich.console import Console
from rich.table import Table
from torch.utils.benchmark import Timer
from workloads import Part

CALLS = 2000  # in a row


def capture(call: Call) -> Callable[[], None]:
    """The call as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # once before it is captured, as PyTorch asks for
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def compiled(call: Call) -> Call:
    faster = torch.compile(call, mode="reduce-overhead")
    for _ in range(3):  # it compiles, records, and replays
        faster()
    return faster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="of alternation (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    arguments = parser.parse_args()

    pools = available(["torchvision"])
    parts = [Part(torch.randn(1, 8, 8, 8), torch.tensor([[0.0, 0, 0, 6, 6]]), 1.0)]
    parts = [Part(part.input.to(arguments.device), part.rois.to(arguments.device), 1.0) for part in parts]
    table = Table("mode", *[f"{name}, us" for name in pools], "torchvision / roipool")
    results = []
    modes = ["inference", "forward", "forward_backward"]
    for mode in modes + (["graph", "compiled"] if arguments.device == "cuda" else []):
        make = {"graph": capture, "compiled": compiled}.get(mode, lambda call: call)
        calls = {
            name: make(make_call(mode if mode in modes else "inference", pool, parts, (2, 2)))
            for name, pool in pools.items()
        }
        timers = {name: Timer("call()", globals={"call": call}) for name, call in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in timers}
        for _ in range(arguments.rounds):
            for name, timer in timers.items():
                times[name].append(1e6 * timer.timeit(CALLS).mean)
        medians = {name: statistics.median(values) for name, values in times.items()}
        ratio = medians.get("torchvision", float("nan")) / medians["roipool"]
        results.append({"mode": mode, "us": medians, "torchvision_over_roipool": ratio})
        table.add_row(mode, *[f"{median:.1f}" for median in medians.values()], f"{ratio:.2f}")
    Console().print(table)
    if arguments.json:
        report = {"environment": environment(arguments.device), "results": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
