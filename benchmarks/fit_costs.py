"""Fits the prices by which the CPU's forward chooses its way (csrc/cpu/forward_costs.h) to measurements.

    python benchmarks/fit_costs.py --plot benchmarks/results/cpu_costs.png

Times every way (ROIPOOL_CPU_FORWARD) on random problems of sweep.py, on one thread, and finds the prices, none below 0,
that are closest to the measurements in relative terms. Prints them, how far they are off, and how much longer the way
that they choose takes than the fastest one, on problems that they were not fitted to.
"""

import argparse
import itertools
import math
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from report import write_json
from scipy.optimize import nnls
from sweep import Problem, draw_problems
from torch import Tensor
from workloads import Part

WAYS = ["packed_maps", "packed_parts", "in_place", "rows", "cells"]
MAX_BYTES = 32 << 20
MAX_VISITS = {"packed_maps": 1 << 26, "packed_parts": 1 << 26, "in_place": 1 << 26, "rows": 1 << 26, "cells": 1 << 24}
VECTOR_BYTES = 64  # of the widest register
GROUP_BYTES = 256  # of a channel group

# Names the things to do whose price depends on more than their number: on argmax, on half precision.
EXTRAS = {
    "packed_maps": {"cell": "h", "visit": "ah", "bin": "ah", "group_bin": "a"},
    "packed_parts": {"square": "ah", "visit": "ah", "bin": "ah", "group_bin": "a"},
    "in_place": {"visit": "ah", "bin": "ah", "group_bin": "a"},
    "rows": {"row_vector": "a", "row_square": "a", "column_vector": "a", "bin": "a"},
    "cells": {"vector": "ah", "bin": "ah"},
}


@dataclass
class Timing:
    """Says how long a way takes for a problem, and what it has to do."""

    problem: int
    way: str
    argmax: bool
    half_precision: bool
    work: dict[str, float]
    nanoseconds: float
    predicted: float = math.nan


@dataclass
class AxisWork:
    """Counts, for each region, the cells of its bins along one axis."""

    visits: Tensor  # once for each bin that a cell is in
    hull: Tensor  # once
    vectors: Tensor  # of lanes cells side by side, once for each bin


def place_axis(first: Tensor, last: Tensor, num_cells: int, num_bins: int, lanes: int) -> AxisWork:
    """Does what csrc/geometry.h does, for regions that lie on the map."""
    start = first.round()
    bin_size = (last.round() - start + 1).clamp(min=1) / num_bins
    index = torch.arange(num_bins)
    low = (torch.floor(index * bin_size[:, None]) + start[:, None]).clamp(0, num_cells)
    high = (torch.ceil((index + 1) * bin_size[:, None]) + start[:, None]).clamp(0, num_cells)
    sizes = high - low
    return AxisWork(sizes.sum(1), high.amax(1) - low.amin(1), torch.ceil(sizes / lanes).sum(1))


def count_work(problem: Problem, part: Part) -> dict[str, dict[str, float]]:
    """Returns the number of things that each way has to do: what work_of() in csrc/cpu/forward.cpp counts."""
    item_bytes = part.input.element_size()
    lanes, row_lanes = VECTOR_BYTES // item_bytes, VECTOR_BYTES // max(4, item_bytes)
    left, top, right, bottom = part.rois[:, 1:].T
    x = place_axis(left, right, problem.width, problem.output_size[1], lanes)
    y = place_axis(top, bottom, problem.height, problem.output_size[0], lanes)
    channels_last = problem.layout == "channels_last" and problem.channels > 1
    channels = problem.channels
    vectors, groups = math.ceil(channels / lanes), math.ceil(channels * item_bytes / GROUP_BYTES)
    regions = problem.num_regions
    bins = regions * math.prod(problem.output_size)
    part_cells = float((x.hull * y.hull).sum())
    map_cells = problem.batch_size * problem.height * problem.width
    visits = float((x.visits * y.visits).sum())
    row_vectors = torch.ceil(x.hull / row_lanes)
    row_blocks = math.ceil(problem.output_size[0] / row_lanes)
    pooling = {
        "visit": vectors * visits,
        "bin": vectors * bins,
        "group_bin": groups * bins,
        "region": groups * regions,
    }
    bin_vectors = float((y.visits * x.vectors).sum())
    part_squares = float((y.hull * torch.ceil(x.hull / lanes)).sum())
    return {
        "packed_maps": pooling | {"channels_last_cell" if channels_last else "cell": vectors * map_cells},
        "packed_parts": pooling
        | ({"channels_last_cell": vectors * part_cells} if channels_last else {"square": vectors * part_squares}),
        "in_place": pooling,
        "rows": {
            "channels_last_cell" if channels_last else "cell": channels * min(part_cells, map_cells),
            "row_vector": channels * float((y.visits * row_vectors).sum()),
            "row_square": channels * row_blocks * float(row_vectors.sum()),
            "column_vector": channels * row_blocks * float(x.visits.sum()),
            "bin": channels * bins,
            "region": channels * regions,
        },
        "cells": {
            "visit" if channels_last else "vector": channels * (visits if channels_last else bin_vectors),
            "channels_last_bin" if channels_last else "bin": channels * bins,
            "region": channels * regions,
        },
    }


def can_pool(way: str, problem: Problem) -> bool:
    if problem.num_visits() > MAX_VISITS[way]:  # takes too long
        return False
    if way == "in_place":
        return problem.layout == "channels_last" and problem.channels > 1 and problem.height * problem.width > 1
    return way != "rows" or problem.width >= 16


def time_way(way: str, part: Part, output_size: tuple[int, int], argmax: bool) -> float:
    """Returns the least nanoseconds of several calls."""
    os.environ["ROIPOOL_CPU_FORWARD"] = way
    pool = torch.ops.roipool.roi_pool_with_argmax if argmax else torch.ops.roipool.roi_pool
    times: list[float] = []
    while len(times) < 4 or (sum(times) < 8e-3 and len(times) < 30):
        begin = perf_counter()
        pool(part.input, part.rois, *output_size, part.spatial_scale)
        times.append(perf_counter() - begin)
    return 1e9 * min(times)


def time_problems(seed: int, count: int) -> list[Timing]:
    torch.set_num_threads(1)
    timings = []
    small = (problem for problem in draw_problems(seed) if problem.num_bytes() <= MAX_BYTES)
    for index, problem in enumerate(itertools.islice(small, count)):
        part = problem.make_part()
        work = count_work(problem, part)
        for way, argmax in itertools.product(WAYS, [False, True]):
            if can_pool(way, problem):
                nanoseconds = time_way(way, part, problem.output_size, argmax)
                half = problem.dtype == "bfloat16"
                timings.append(Timing(index, way, argmax, half, work[way] | {"call": 1}, nanoseconds))
    return timings


def terms_of(timing: Timing) -> dict[tuple[str, str], float]:
    """Returns the number that each price is multiplied with; a price has a base, and may have extras."""
    terms = {}
    for name, number in timing.work.items():
        terms[name, ""] = number
        for extra in EXTRAS[timing.way].get(name, ""):
            terms[name, extra] = number * (timing.argmax if extra == "a" else timing.half_precision)
    return terms


def fit_way(timings: list[Timing]) -> dict[tuple[str, str], float]:
    """Returns the prices of one way."""
    all_terms = [terms_of(timing) for timing in timings]
    names = list(dict.fromkeys(name for terms in all_terms for name in terms))
    matrix = np.array([[terms.get(name, 0) for name in names] for terms in all_terms])
    nanoseconds = np.array([timing.nanoseconds for timing in timings])
    prices, _ = nnls(matrix / nanoseconds[:, None], np.ones(len(timings)))
    return dict(zip(names, prices, strict=True))


def print_prices(way: str, prices: dict[tuple[str, str], float]) -> None:
    print(way)
    for name in dict.fromkeys(name for name, _ in prices):
        base, argmax, half = (prices.get((name, extra), 0) for extra in ["", "a", "h"])
        print(f"    {name:20} {{{base:.2g}, {argmax:.2g}, {half:.2g}}}")


def print_regret(timings: list[Timing]) -> None:
    """Says how good the choices are: the time of the way that is predicted to be fastest over that of the fastest."""
    problems: dict[tuple[int, bool], list[Timing]] = {}
    for timing in timings:
        problems.setdefault((timing.problem, timing.argmax), []).append(timing)
    regrets = sorted(
        min(ways, key=lambda timing: timing.predicted).nanoseconds / min(timing.nanoseconds for timing in ways)
        for ways in problems.values()
    )
    print(
        f"chosen over fastest: {statistics.geometric_mean(regrets):.3f} on average, "
        f"{regrets[int(0.95 * len(regrets))]:.2f} at the 95th percentile, {regrets[-1]:.2f} at most"
    )
    for way in WAYS:
        errors = sorted(timing.predicted / timing.nanoseconds for timing in timings if timing.way == way)
        quantiles = ", ".join(f"{errors[int(share * len(errors))]:.2f}" for share in [0.1, 0.5, 0.9])
        print(f"{way:12} predicted over measured: {quantiles} (10th, 50th, 90th percentile)")


def plot_timings(timings: list[Timing], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (4 * len(WAYS), 4)
    figure, panels = plt.subplots(1, len(WAYS), figsize=size, layout="constrained", sharex=True, sharey=True)
    for axes, way in zip(panels, WAYS, strict=True):
        points = [(timing.nanoseconds / 1e3, timing.predicted / 1e3) for timing in timings if timing.way == way]
        axes.scatter(*zip(*points, strict=True), s=5)
        axes.plot([5, 1e5], [5, 1e5], color="black", linewidth=0.8)
        axes.set(xscale="log", yscale="log", title=way.replace("_", " "), xlabel="measured, us")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("predicted, us")
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400, help="of problems to fit to, and to check with (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the timings there")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw what is predicted over what was measured there")
    arguments = parser.parse_args()

    fitted, checked = (time_problems(seed, arguments.count) for seed in [1, 2])
    for way in WAYS:
        prices = fit_way([timing for timing in fitted if timing.way == way])
        print_prices(way, prices)
        for timing in checked:
            if timing.way == way:
                timing.predicted = sum(prices.get(name, 0) * number for name, number in terms_of(timing).items())
    print_regret(checked)
    if arguments.json:
        write_json(checked, arguments.json)
    if arguments.plot:
        plot_timings(checked, arguments.plot)


if __name__ == "__main__":
    main()
