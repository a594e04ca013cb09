"""Times how roipool and torchvision grow with one property of the problem at a time, and draws curves.

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
from peers import load_peers
from report import print_results, write_json
from rich.console import Console
from rich.progress import Progress
from workloads import WORKLOADS, Workload

FPN = WORKLOADS["fpn"]


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
    for varied in [1, 2]:
        yield "threads", varied, FPN, varied


def plot_curves(curves: dict[str, list[tuple[float, list[Result]]]], mode: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.6), layout="constrained")
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        for peer in ["roipool", "torchvision", "floor"]:
            line = [(value, r.median_ms) for value, results in points for r in results if r.peer == peer]
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

    peers = load_peers(["torchvision"])
    curves: dict[str, list[tuple[float, list[Result]]]] = {}
    all_results: list[Result] = []
    with Progress(transient=True) as progress:
        for curve, value, workload, num_threads in progress.track(list(make_variants()), description="timing"):
            threads_before = torch.get_num_threads()
            torch.set_num_threads(num_threads)
            named = dataclasses.replace(workload, name=f"{curve} = {value}")
            results = measure(named, "float32", "contiguous", arguments.mode, peers, arguments.rounds)
            torch.set_num_threads(threads_before)
            curves.setdefault(curve, []).append((value, results))
            all_results += results
    print_results(all_results, Console())
    if arguments.json:
        write_json(all_results, arguments.json)
    if arguments.plot:
        plot_curves(curves, arguments.mode, arguments.plot)


if __name__ == "__main__":
    main()
