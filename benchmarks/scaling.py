"""Times how roipool and torchvision grow with one property of the problem at a time, and draws curves.

    python benchmarks/scaling.py --json benchmarks/results/cpu_scaling.json --plot benchmarks/results/cpu_scaling.png

Each curve varies one thing of the FPN workload: regions, channels, the side of the regions, the output size, threads.
Wall time is measured for as many threads as there are cores, at most, since it says nothing of more. The last panel has
up to 16 threads whatever the cores: the CPU time, user and system, that the process takes for one call of roipool. It
shows the work that threads add, and the time for which they wait in loops.
"""

import argparse
import dataclasses
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

import torch
from calls import MODES, make_call
from measure import Result, measure
from peers import load_peers, pool_roipool
from report import make_console, print_results, write_json
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FPN = WORKLOADS["fpn"]
NUM_THREADS = [1, 2, 4, 8, 16]
CPU_TIME_WORKLOADS = ["fpn", "vgg", "head"]
NUM_CALLS = 5  # in a row, behind one figure of CPU time


@dataclasses.dataclass
class CpuTime:
    """Says how much CPU time one call of roipool takes with a number of threads."""

    workload: str
    mode: str
    threads: int
    cpu_ms: float
    over_one_thread: float = 1.0


def make_variants() -> Iterable[tuple[str, float, Workload, int]]:
    """Yields the name of a curve, the value that is varied, the problem, and the number of threads."""
    num_threads = torch.get_num_threads()
    for num_regions in [1, 4, 16, 64, 256, 1000, 4000]:
        yield "regions", num_regions, dataclasses.replace(FPN, num_regions=num_regions), num_threads
    for channels in [1, 3, 8, 16, 32, 64, 128, 256, 512]:
        yield "channels", channels, dataclasses.replace(FPN, channels=channels), num_threads
    for side in [16, 32, 64, 128, 256, 512, 800]:
        yield "side of the regions, px", side, dataclasses.replace(FPN, box_sides=(side, side)), num_threads
    for side in [1, 2, 4, 7, 14, 28]:
        yield "output size", side, dataclasses.replace(FPN, output_size=(side, side)), num_threads
    for varied in NUM_THREADS:
        if varied <= len(os.sched_getaffinity(0)):
            yield "threads", varied, FPN, varied


def measure_cpu_times(workload: Workload, mode: str, num_rounds: int) -> list[CpuTime]:
    """Returns the median over the rounds for each number of threads, which take turns."""
    parts = workload.make(torch.float32, torch.contiguous_format)
    call = make_call(mode, pool_roipool, parts, workload.output_size)
    times: dict[int, list[float]] = {num_threads: [] for num_threads in NUM_THREADS}
    threads_before = torch.get_num_threads()
    for _ in range(num_rounds):
        for num_threads in NUM_THREADS:
            torch.set_num_threads(num_threads)
            call()  # starts the threads
            begin = process_time()
            for _ in range(NUM_CALLS):
                call()
            times[num_threads].append((process_time() - begin) / NUM_CALLS)
    torch.set_num_threads(threads_before)
    medians = {num_threads: statistics.median(seconds) for num_threads, seconds in times.items()}
    return [CpuTime(workload.name, mode, n, 1e3 * median, median / medians[1]) for n, median in medians.items()]


def print_cpu_times(cpu_times: list[CpuTime], console: Console) -> None:
    table = Table("workload", *[f"threads: {num_threads}" for num_threads in NUM_THREADS])
    table.title = "CPU time of one call of roipool, and how many times as much as with one thread"
    for name in CPU_TIME_WORKLOADS:
        line = [time for time in cpu_times if time.workload == name]
        table.add_row(name, *[f"{time.cpu_ms:.2f} ms ({time.over_one_thread:.2f}x)" for time in line])
    console.print(table)


def plot_cpu_times(cpu_times: list[CpuTime], axes: "Axes") -> None:
    for name, marker in zip(CPU_TIME_WORKLOADS, "o^s", strict=True):
        line = [(time.threads, time.cpu_ms) for time in cpu_times if time.workload == name]
        axes.plot(*zip(*line, strict=True), marker=marker, markersize=4, color="tab:blue", label=f"roipool, {name}")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("threads")
    axes.set_ylabel("CPU ms (median)")
    axes.grid(alpha=0.3)
    axes.legend()


def plot_curves(
    curves: dict[str, list[tuple[float, list[Result]]]], cpu_times: list[CpuTime], mode: str, path: Path
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    num_panels = len(curves) + 1
    figure, panels = plt.subplots(1, num_panels, figsize=(4 * num_panels, 3.6), layout="constrained")
    for axes, (name, points) in zip(panels[:-1], curves.items(), strict=True):
        for peer in ["roipool", "torchvision", "floor"]:
            line = [(value, r.median_ms) for value, results in points for r in results if r.peer == peer]
            axes.plot(*zip(*line, strict=True), marker="o", markersize=4, label=peer)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("ms (median)")
    panels[0].legend()
    plot_cpu_times(cpu_times, panels[-1])
    figure.suptitle(f"The FPN workload, {mode}, with one thing varied")
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, default="inference", help="what to time (%(default)s)")
    parser.add_argument("--curve", nargs="+", metavar="NAME", help="only these, threads say (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="of alternation (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw them there")
    arguments = parser.parse_args()

    peers = load_peers(["torchvision"])
    curves: dict[str, list[tuple[float, list[Result]]]] = {}
    all_results: list[Result] = []
    variants = [variant for variant in make_variants() if not arguments.curve or variant[0] in arguments.curve]
    with Progress(transient=True) as progress:
        for curve, value, workload, num_threads in progress.track(variants, description="timing"):
            threads_before = torch.get_num_threads()
            torch.set_num_threads(num_threads)
            named = dataclasses.replace(workload, name=f"{curve} = {value}")
            results = measure(named, "float32", "contiguous", arguments.mode, peers, arguments.rounds)
            torch.set_num_threads(threads_before)
            curves.setdefault(curve, []).append((value, results))
            all_results += results
    cpu_times = [
        time
        for name in CPU_TIME_WORKLOADS
        for time in measure_cpu_times(WORKLOADS[name], arguments.mode, arguments.rounds)
    ]
    console = make_console()
    print_results(all_results, console)
    print_cpu_times(cpu_times, console)
    if arguments.json:
        more = {"cpu_times": [dataclasses.asdict(time) for time in cpu_times]}
        write_json(all_results, arguments.json, **more)
    if arguments.plot:
        plot_curves(curves, cpu_times, arguments.mode, arguments.plot)


if __name__ == "__main__":
    main()
