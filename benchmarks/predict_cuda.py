"""Predicts how long the CUDA kernels take on an H100, from what they do for the boxes of a workload.

    python benchmarks/predict_cuda.py

A kernel takes the longest of these: the instructions of its warps, counted from the machine code for sm_90
(cuobjdump -sass) and from the cells of the boxes' bins; what the first-level caches get from the second ("cache"); what
memory must give and take at least; and, in the backward, the warp with the most bins, whose steps wait for one another
("chain"). The table has predictions for float32, and says what each is due to.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from gpu_times import FINEST
from workloads import WORKLOADS, Part, Workload

from roipool.reference import _bin_cells as bin_cells

MULTIPROCESSORS, GIGAHERTZ, INSTRUCTIONS_A_CYCLE = 132, 1.755, 2.5
MEMORY_GB, SECOND_LEVEL_GB = 3000, 5500  # a second
PLACING_US = 3.0  # place_regions_kernel, and the gap between two kernels in a graph
WARP, SECTOR, MAX_TILE_COLUMNS = 32, 32, 160
MAX_REGIONS = 500  # of a level that are looked at one by one


class ColumnInstructions(NamedTuple):
    """Counts instructions of forward_columns_kernel, of a warp."""

    channels: int  # of a group
    region: int
    tile: int
    turn: int  # of 32 columns
    row: int  # of cells, in a turn
    bins: int  # 32 of them
    column: int  # of cells, in a bin


INFERENCE = ColumnInstructions(channels=8, region=150, tile=110, turn=76, row=36, bins=145, column=17)
TRAINING = ColumnInstructions(channels=4, region=150, tile=75, turn=59, row=28, bins=130, column=26)
CELL_INSTRUCTIONS, CELL_CHANNELS = 21, 4  # forward_channels_last_kernel: of a cell, in 4 channels a lane
MIN_WARPS = 6 * MULTIPROCESSORS  # of plan_backward()


class SumInstructions(NamedTuple):
    """Counts instructions and limits of backward_kernel."""

    channels: int  # of a warp
    bins: int  # that it adds in a step
    step: int  # instructions
    step_cycles: int
    regions: int = 300  # instructions to look at 32 of them
    cells: int = 8  # instructions to clear and write 32 sums
    max_cells: int = 6524  # of a tile
    min_cells: int = 512


BINS = SumInstructions(channels=1, bins=WARP, step=90, step_cycles=200)
CHANNELS = SumInstructions(channels=WARP, bins=1, step=50, step_cycles=60, max_cells=209, min_cells=64)


def choose_inference(parts: list[Part]) -> ColumnInstructions:
    """Returns the counts for two vectors of channels, or for one where it holds them all."""
    return INFERENCE if parts[0].input.shape[1] > TRAINING.channels else TRAINING._replace(row=20, column=10)


def choose_sums(parts: list[Part]) -> SumInstructions:
    """Returns the counts for channels_last gradients: lanes are channels where there are enough."""
    return CHANNELS if parts[0].input.shape[1] >= WARP // 2 else BINS


class Windows(NamedTuple):
    """Holds the cells of regions' bins on a level, lo and hi: (K, PH) and (K, PW)."""

    rows: tuple[torch.Tensor, torch.Tensor]
    columns: tuple[torch.Tensor, torch.Tensor]


def find_windows(part: Part, output_size: tuple[int, int]) -> Windows:
    x1, y1, x2, y2 = part.rois[:, 1:].unbind(1)
    height, width = part.input.shape[2:]
    return Windows(
        bin_cells(y1, y2, part.spatial_scale, height, output_size[0]),
        bin_cells(x1, x2, part.spatial_scale, width, output_size[1]),
    )


def microseconds(instructions: float) -> float:
    return instructions / (MULTIPROCESSORS * INSTRUCTIONS_A_CYCLE * GIGAHERTZ * 1e3)


def count_columns(windows: Windows, output_size: tuple[int, int], costs: ColumnInstructions) -> tuple[float, float]:
    """Returns the instructions of an average region and channel group, and the bytes of cells that it reads."""
    (tops, bottoms), (lefts, rights) = windows.rows, windows.columns
    num_regions = min(MAX_REGIONS, len(tops))
    total = num_bytes = 0.0
    for k in range(num_regions):
        heights = (bottoms[k] - tops[k]).tolist()
        width = int(rights[k].max() - lefts[k].min())
        bin_columns = int((rights[k] - lefts[k]).max())
        total += costs.region
        rows_at_once = min(len(heights), max(1, MAX_TILE_COLUMNS // max(1, width)))
        for first in range(0, len(heights), rows_at_once):
            tile = heights[first : first + rows_at_once]
            total += costs.tile
            for turn in range(math.ceil(len(tile) * width / WARP)):
                top, bottom = turn * WARP // width, min(len(tile) - 1, ((turn + 1) * WARP - 1) // width)
                total += costs.turn + costs.row * max(tile[top : bottom + 1])
            turns = math.ceil(len(tile) * output_size[1] / WARP)
            total += turns * (costs.bins + costs.column * bin_columns)
        height = int(bottoms[k].max() - tops[k].min())
        num_bytes += height * math.ceil((4 * width + SECTOR - 4) / SECTOR) * SECTOR * costs.channels
    return total / num_regions, num_bytes / num_regions


def predict_columns(parts: list[Part], output_size: tuple[int, int], costs: ColumnInstructions) -> dict[str, float]:
    instructions = num_bytes = 0.0
    for part in parts:
        counted = count_columns(find_windows(part, output_size), output_size, costs)
        groups = len(part.rois) * math.ceil(part.input.shape[1] / costs.channels)
        instructions += groups * counted[0]
        num_bytes += groups * counted[1]
    return {"instructions": microseconds(instructions), "cache": num_bytes / SECOND_LEVEL_GB / 1e3}


def predict_channels_last(parts: list[Part], output_size: tuple[int, int]) -> dict[str, float]:
    instructions = bytes_read = 0.0
    for part in parts:
        (tops, bottoms), (lefts, rights) = find_windows(part, output_size)
        visits = ((bottoms - tops).sum(1) * (rights - lefts).sum(1)).sum().item()
        cells = ((bottoms.amax(1) - tops.amin(1)) * (rights.amax(1) - lefts.amin(1))).sum().item()
        channels = part.input.shape[1]
        instructions += visits * channels / CELL_CHANNELS / WARP * CELL_INSTRUCTIONS
        bytes_read += cells * channels * 4
    return {"instructions": microseconds(instructions), "cache": bytes_read / SECOND_LEVEL_GB / 1e3}


def cut(part: Part, max_cells: int) -> tuple[int, int]:
    """Returns the height and width of tiles, as cut_level() does."""
    height, width = part.input.shape[2:]
    max_width = max(math.isqrt(max_cells), max_cells // height)
    tile_width = math.ceil(width / math.ceil(width / max_width))
    return math.ceil(height / math.ceil(height / (max_cells // tile_width))), tile_width


def count_bins(part: Part, output_size: tuple[int, int], tile: tuple[int, int]) -> list[float]:
    """Returns the bins that each tile of each image meets."""
    windows = find_windows(part, output_size)
    num_bins = []  # on each axis: (tiles, regions)
    for (los, his), size, step in zip(windows, part.input.shape[2:], tile, strict=True):
        begins = torch.arange(0, size, step)[:, None, None]
        num_bins.append(((los < begins + step) & (his > begins) & (his > los)).sum(2))
    bins = []
    for image in range(part.input.shape[0]):
        down, across = (axis[:, part.rois[:, 0] == image].double() for axis in num_bins)
        bins += (down @ across.T).flatten().tolist()
    return bins


def predict_backward(parts: list[Part], output_size: tuple[int, int], costs: SumInstructions) -> dict[str, float]:
    batch_size, channels = parts[0].input.shape[:2]
    groups = math.ceil(channels / costs.channels)

    def count_tiles(max_cells: int) -> int:
        tiles = [cut(part, max_cells) for part in parts]
        sizes = [zip(part.input.shape[2:], tile, strict=True) for part, tile in zip(parts, tiles, strict=True)]
        return sum(math.prod(math.ceil(side / step) for side, step in size) for size in sizes)

    max_cells = costs.max_cells
    while batch_size * groups * count_tiles(max_cells) < MIN_WARPS and max_cells >= 2 * costs.min_cells:
        max_cells //= 2
    bins = [count_bins(part, output_size, cut(part, max_cells)) for part in parts]
    steps = [[math.ceil(count / costs.bins) for count in of_part] for of_part in bins]
    total = sum(map(sum, steps)) * costs.step
    for part, of_part in zip(parts, bins, strict=True):
        total += len(of_part) / batch_size * len(part.rois) / WARP * costs.regions
        total += batch_size * part.input[0, 0].numel() * costs.channels / WARP * costs.cells
    read = 8 * channels * sum(map(sum, bins))
    return {
        "instructions": microseconds(groups * total),
        "cache": read / SECOND_LEVEL_GB / 1e3,
        "chain": max(map(max, steps)) * costs.step_cycles / GIGAHERTZ / 1e3,
    }


def predict_memory(parts: list[Part], output_size: tuple[int, int], with_argmax: bool) -> float:
    num_values = sum(len(part.rois) for part in parts) * parts[0].input.shape[1] * output_size[0] * output_size[1]
    num_bytes = sum(part.input.nbytes for part in parts) + (8 if with_argmax else 4) * num_values
    return num_bytes / MEMORY_GB / 1e3


KERNELS: dict[str, tuple[Callable[..., dict[str, float]], bool]] = {
    "inference": (lambda parts, size: predict_columns(parts, size, choose_inference(parts)), False),
    "inference, channels_last": (predict_channels_last, False),
    "training forward": (lambda parts, size: predict_columns(parts, size, TRAINING), True),
    "backward": (lambda parts, size: predict_backward(parts, size, BINS), True),
    "backward, channels_last": (lambda parts, size: predict_backward(parts, size, choose_sums(parts)), True),
}


def predict(workload: Workload) -> Iterator[tuple[str, dict[str, float]]]:
    parts = [part for part in workload.make(torch.float32, torch.contiguous_format) if len(part.rois)]
    for name, (kernel, with_argmax) in KERNELS.items():
        times = kernel(parts, workload.output_size)
        yield name, times | {"memory": predict_memory(parts, workload.output_size, with_argmax)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name, workload in WORKLOADS.items() if not workload.for_gpus]
    parser.add_argument("--workload", nargs="+", default=[*names, "finest", "c5"], metavar="NAME", help="the problems")
    arguments = parser.parse_args()
    print("|", " | ".join(["us", *KERNELS]), "|")
    print("|", " | ".join(["---"] * (1 + len(KERNELS))), "|")
    for name in arguments.workload:
        cells = [name]
        for _, times in predict(FINEST if name == "finest" else WORKLOADS[name]):
            bound = max(times, key=lambda what: times[what])
            cells.append(f"{times[bound] + PLACING_US:.0f} {bound}")
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
