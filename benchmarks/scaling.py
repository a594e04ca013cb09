"""How the time grows with one property of the problem at a time, roipool beside torchvision, with plots.

    python benchmarks/scaling.py --json benchmarks/results/cpu_scaling.json --plot benchmarks/results/cpu_scaling.png

Each curve varies one thing of the FPN workload: regions, channels, the side of the regions, the output size, threads.
"""

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path

import torch
from calls import MODES
from measure import Result, measure
from peers import available
from report import show, write_json
from rich.console import Console
from rich.progress import Progress
from workloads import WORKLOADS, Workload

FPN = WORKLOADS["fpn"]


def variants() -> Iterable[tuple[str, float, Workload, int]]:
    """The curve, where on it, the problem, and the threads."""
    threads = torch.get_num_threads()
    for regions in [1, 4, 16, 64, 256, 1000, 4000]:
        yield "regions", regions, dataclasses.replace(FPN, num_regions=regions), threads
    for channels in [1, 3, 8, 16, 32, 64, 128, 256, 512]:
        yield "channels", channels, dataclasses.replace(FPN, channels=channels), threads
    for side in [16, 32, 64, 128, 256, 512, 800]:
        yield "side of the regions, px", side, dataclasses.replace(FPN, box_sides=(side, side)), threads
    for bins in [1, 2, 4, 7, 14, 28]:
        yield "output size", bins, dataclasses.replace(FPN, output_size=(bins, bins)), threads
    for count in [1, 2]:
        yield "threads", count, FPN, count


def plot(curves: dict[str, list[tuple[float, list[Result]]]], mode: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.6), layout="constrained")
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        for peer in ["roipool", "torchvision", "floor"]:
            line = [(at, r.median_ms) for at, results in points for r in results if r.peer == peer]
            axes.plot(*zip(*line, strict=True), marker="o", markersize=4, label=peer)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("ms (median)")
    panels[0].legend()
    figure.suptitle(f"The FPN workload, {mode}, with one thing varied")
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, default="inference", help="what to time (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of alternation (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw them there")
    arguments = parser.parse_args()

    pools = available(["torchvision"])
    curves: dict[str, list[tuple[float, list[Result]]]] = {}
    everything: list[Result] = []
    with Progress(transient=True) as progress:
        for curve, at, workload, threads in progress.track(list(variants()), description="timing"):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            named = dataclasses.replace(workload, name=f"{curve} = {at}")
            results = measure(named, "float32", "contiguous", arguments.mode, pools, arguments.rounds)
            torch.set_num_threads(before)
            curves.setdefault(curve, []).append((at, results))
            everything += results
    show(everything, Console())
    if arguments.json:
        write_json(everything, arguments.json)
    if arguments.plot:
        plot(curves, arguments.mode, arguments.plot)


if __name__ == "__main__":
    main()
