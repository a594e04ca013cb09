"""Times roipool beside torchvision on random problems: what users have, not what benchmarks choose.

    python benchmarks/sweep.py --json benchmarks/results/cpu_sweep.json --plot benchmarks/results/cpu_sweep.png

Sizes are log-uniform: images, channels, the sides of maps, regions, their sides from one cell to the map's, bins.
Dtype, layout, mode and threads are drawn as well. The seed fixes them all. A figure is the least of several calls that
take turns in one process, so that what else the machine does shows least; --busy shows the opposite: a process that
keeps one core busy runs beside it, and a figure is the median. --load shows what was measured before.
"""

import argparse
import dataclasses
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import torch
from calls import Call, make_call
from measure import DTYPES, LAYOUTS
from peers import load_peers
from report import write_json
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from summary import list_worst, summarize_sweep
from workloads import Part

MAX_BYTES = 128 << 20  # of the maps, and of the output
MAX_VISITS = 1 << 29  # of cells by bins: about a second of torchvision's
MIN_CALLS = 5
MAX_CALLS = 30
MIN_SECONDS = 0.1  # that the calls of one contender take together, unless they are MAX_CALLS


@dataclasses.dataclass
class Problem:
    """Describes a random problem, and how long each contender takes for it."""

    batch_size: int
    channels: int
    height: int
    width: int
    num_regions: int
    output_size: tuple[int, int]
    dtype: str
    layout: str
    mode: str
    threads: int
    seed: int
    roipool_ms: float = math.nan
    torchvision_ms: float = math.nan

    @property
    def ratio(self) -> float:
        return self.torchvision_ms / self.roipool_ms

    def num_bytes(self) -> int:
        """Counts the bytes of the maps or of the output in float32, whichever are more."""
        num_values = self.num_regions * self.channels * math.prod(self.output_size)
        return 4 * max(self.batch_size * self.channels * self.height * self.width, num_values)

    def num_visits(self) -> float:
        """Estimates how many cells all bins have, which may share a row and a column with the next."""
        mean_sides = ((side - 1) / math.log(side) for side in (self.height, self.width))  # of what make_part() draws
        rows, columns = (mean + size for mean, size in zip(mean_sides, self.output_size, strict=True))
        return self.num_regions * self.channels * rows * columns

    def make_part(self) -> Part:
        generator = torch.Generator().manual_seed(self.seed)
        input = torch.randn(self.batch_size, self.channels, self.height, self.width, generator=generator)
        map_sides = torch.tensor([self.width, self.height])
        sides = map_sides ** torch.rand(self.num_regions, 2, generator=generator)
        corners = torch.rand(self.num_regions, 2, generator=generator) * (map_sides - sides)
        images = torch.randint(self.batch_size, (self.num_regions, 1), generator=generator)
        rois = torch.cat([images, corners, corners + sides - 1], 1)
        return Part(input.to(DTYPES[self.dtype], memory_format=LAYOUTS[self.layout]), rois, 1.0)


def draw_problems(seed: int) -> Iterator[Problem]:
    """Yields problems without end. Those that are too large for a benchmark are left out."""
    rng = random.Random(seed)

    def draw(lowest: float, highest: float) -> float:
        return math.exp(rng.uniform(math.log(lowest), math.log(highest)))

    def draw_int(lowest: int, highest: int) -> int:
        return min(highest, int(draw(lowest, highest + 1)))

    while True:
        problem = Problem(
            batch_size=draw_int(1, 4),
            channels=draw_int(1, 1024),
            height=draw_int(7, 800),
            width=draw_int(7, 800),
            num_regions=draw_int(1, 1500),
            output_size=(draw_int(1, 28), draw_int(1, 28)),
            dtype=rng.choice(["float32", "bfloat16"]),
            layout=rng.choice(list(LAYOUTS)),
            mode=rng.choice(["inference", "forward_backward"]),
            threads=rng.choice([1, 2]),
            seed=rng.getrandbits(32),
        )
        if problem.num_bytes() <= MAX_BYTES and problem.num_visits() <= MAX_VISITS:
            yield problem


def time_calls(calls: dict[str, Call]) -> dict[str, list[float]]:
    """Returns the milliseconds of each call. The calls take turns; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(MAX_CALLS + 1):
        for name, call in calls.items():
            begin = perf_counter()
            call()
            if turn > 0:
                times[name].append(1e3 * (perf_counter() - begin))
        if turn >= MIN_CALLS and all(sum(values) >= 1e3 * MIN_SECONDS for values in times.values()):
            break
    return times


def time_problem(problem: Problem, busy: bool) -> Problem:
    torch.set_num_threads(problem.threads)
    part = problem.make_part()
    peers = load_peers(["torchvision"])
    calls = {name: make_call(problem.mode, peer, [part], problem.output_size) for name, peer in peers.items()}
    typical = statistics.median if busy else min
    times = {name: typical(values) for name, values in time_calls(calls).items()}
    return dataclasses.replace(problem, roipool_ms=times["roipool"], torchvision_ms=times["torchvision"])


def print_summary(problems: list[Problem], console: Console) -> None:
    results = [dataclasses.asdict(problem) for problem in problems]
    for columns in [summarize_sweep(results), list_worst(results, 10)]:
        table = Table(*columns)
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
        console.print(table)


def plot_problems(problems: list[Problem], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for mode, color in [("inference", "tab:blue"), ("forward_backward", "tab:orange")]:
        for layout, marker in [("contiguous", "o"), ("channels_last", "^")]:
            drawn = [p for p in problems if (p.mode, p.layout) == (mode, layout)]
            axes.scatter(
                [p.torchvision_ms for p in drawn],
                [p.ratio for p in drawn],
                s=16,
                color=color,
                marker=marker,
                label=f"{mode.replace('_', ' and ')}, {layout}",
            )
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda milliseconds, _: f"{milliseconds:g} ms"))
    axes.yaxis.set_major_locator(LogLocator(subs=[1, 2, 5]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}x"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("time of torchvision for a problem")
    axes.set_ylabel("roipool is faster by")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=125)


def load_problems(path: Path) -> list[Problem]:
    results = json.loads(path.read_text())["results"]
    return [Problem(**{**result, "output_size": tuple(result["output_size"])}) for result in results]


def time_problems(arguments: argparse.Namespace, console: Console) -> list[Problem]:
    source = itertools.islice(draw_problems(arguments.seed), arguments.count)
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if arguments.busy else None
    try:
        with Progress(console=console, transient=True) as progress:
            drawn = progress.track(source, arguments.count, description="timing")
            return [time_problem(problem, arguments.busy) for problem in drawn]
    finally:
        if neighbour:
            neighbour.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400, help="of problems (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the problems (%(default)s)")
    parser.add_argument("--busy", action="store_true", help="keep one core busy beside it, and show medians")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--load", type=Path, metavar="PATH", help="time nothing, and show what --json wrote there")
    where.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw them there")
    arguments = parser.parse_args()

    console = Console() if Console().is_terminal else Console(width=160)
    problems = load_problems(arguments.load) if arguments.load else time_problems(arguments, console)
    print_summary(problems, console)
    if arguments.json:
        write_json(problems, arguments.json)
    if arguments.plot:
        plot_problems(problems, arguments.plot)


if __name__ == "__main__":
    main()
