"""Draws what ROI pooling does: a feature map, a region, its bins, the cells that win them, and the pooled output.

The picture has three regions, one to a row: one that its bins divide evenly; one whose corners are rounded to cells and
whose bins overlap; and one that reaches beyond the map, so that some of its bins are clipped and some empty. The bins
come from the formulas of docs/semantics.md, and what is drawn is checked against roipool.roi_pool() first.

    python examples/show_bins.py --out bins.png
"""

import argparse
import itertools
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from skimage.filters import gaussian
from torch import Tensor

import roipool

STRIDE = 16
HEIGHT, WIDTH = 12, 16
BINS = 3
REGIONS = {  # [x1, y1, x2, y2] in pixels of a 256x192 image
    "Corners on whole cells, which the bins share out evenly": [32, 48, 160, 128],
    "Corners are rounded to whole cells, bins outwards to whole cells: they overlap": [50, 40, 150, 155],
    "Partly outside the map: bins are clipped to it, and a bin with no cell gives 0": [190, -24, 300, 75],
}
COLUMNS = ["a region on the feature map", f"its {BINS}x{BINS} bins and the largest cell of each", "pooled"]

INK = "#22313f"
MAP_COLORS = LinearSegmentedColormap.from_list("map", ["#ffffff", "#cfe0f1", "#86b1dc"])
BIN_COLORS = ["#d62f4b", "#00856f", "#7a3fb0", "#d97b00"]


def round_half_away(value: float) -> int:
    """Rounds halves away from zero: 2.5 becomes 3, where Python's round() returns 2."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def bin_cells(first: float, last: float, spatial_scale: float, num_bins: int) -> list[range]:
    """Returns, on one axis, the cells of each bin between two corners in image pixels, not yet clipped to the map."""
    scale = np.float32(spatial_scale)
    start = round_half_away(float(np.float32(first) * scale))
    end = round_half_away(float(np.float32(last) * scale))
    bin_size = np.float32(max(end - start + 1, 1)) / np.float32(num_bins)
    edges = [np.float32(p) * bin_size for p in range(num_bins + 1)]
    return [range(start + math.floor(lo), start + math.ceil(hi)) for lo, hi in itertools.pairwise(edges)]


def clip(cells: range, num_cells: int) -> range:
    return range(min(max(cells.start, 0), num_cells), min(max(cells.stop, 0), num_cells))


def make_feature_map(seed: int) -> Tensor:
    """Returns a smooth map (1, 1, HEIGHT, WIDTH) of whole numbers from 1 to 99, which fit into drawn cells."""
    smooth = gaussian(np.random.default_rng(seed).standard_normal((HEIGHT, WIDTH)), sigma=0.8)
    ranks = smooth.ravel().argsort().argsort()
    return torch.from_numpy(1 + 98 * ranks // (ranks.size - 1)).float().view(1, 1, HEIGHT, WIDTH)


def check(feature_map: Tensor, rows: list[range], columns: list[range], pooled: Tensor, argmax: Tensor) -> None:
    """Asserts that what is drawn is what was pooled: the maximum of each bin over its cells, and where it lies."""
    for (p, row), (q, column) in itertools.product(enumerate(rows), enumerate(columns)):
        values = {y * WIDTH + x: feature_map[y, x].item() for y in clip(row, HEIGHT) for x in clip(column, WIDTH)}
        assert pooled[p, q] == max(values.values(), default=0), f"bin ({p}, {q}) has another maximum"
        assert argmax[p, q] == (max(values, key=values.__getitem__) if values else -1), f"bin ({p}, {q}): argmax"


def outline(axes: Axes, rows: range, columns: range, inset: float = 0.0, **style: object) -> None:
    corner = (columns.start - 0.5 + inset, rows.start - 0.5 + inset)
    axes.add_patch(Rectangle(corner, len(columns) - 2 * inset, len(rows) - 2 * inset, fill=False, **style))


def bin_color(p: int, q: int) -> str:
    """Returns a color that no neighbouring bin has."""
    return BIN_COLORS[2 * (p % 2) + q % 2]


def draw_map(axes: Axes, feature_map: Tensor) -> None:
    axes.imshow(feature_map, cmap=MAP_COLORS, vmin=0, vmax=99)
    outline(axes, range(HEIGHT), range(WIDTH), edgecolor="#9aa5b1", linewidth=0.8)
    axes.axis("off")


def draw_region(axes: Axes, region: list[int], rows: list[range], columns: list[range]) -> None:
    """Draws a region as it was asked for (dotted), and around the cells that it covers (solid)."""
    left, top, right, bottom = (corner / STRIDE for corner in region)
    asked = {"fill": False, "edgecolor": INK, "linestyle": ":", "linewidth": 1.3}
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, **asked))
    outline(
        axes,
        range(rows[0].start, rows[-1].stop),
        range(columns[0].start, columns[-1].stop),
        edgecolor=INK,
        linewidth=2,
    )
    axes.set_xlim(-0.6, WIDTH + 4)
    axes.set_ylim(HEIGHT - 0.4, -2.6)


def draw_bins(axes: Axes, rows: list[range], columns: list[range]) -> None:
    """Draws bins as they are clipped to the map (solid), and as they are beyond it (dashed)."""
    for (p, row), (q, column) in itertools.product(enumerate(rows), enumerate(columns)):
        inset = 0.08 if (p + q) % 2 else 0.17  # so that the lines of overlapping bins lie side by side
        on_map = clip(row, HEIGHT), clip(column, WIDTH)
        if on_map != (row, column):
            outline(axes, row, column, inset, edgecolor=bin_color(p, q), linestyle=(0, (2, 2)), linewidth=0.9)
        if all(on_map):
            outline(axes, *on_map, inset, edgecolor=bin_color(p, q), linewidth=1.8)
    # The limits show as many cells of each region, so that all cells are drawn in one size.
    x, y = (columns[0].start + columns[-1].stop) // 2, (rows[0].start + rows[-1].stop) // 2
    axes.set_xlim(x - 5.6, x + 5.6)
    axes.set_ylim(y + 4.6, y - 5.6)


def draw_winners(axes: Axes, feature_map: Tensor, argmax: Tensor) -> None:
    """Writes the value of each cell, on the colors of the bins that it won."""
    winners: dict[int, list[str]] = {}
    for (p, q), cell in np.ndenumerate(argmax.numpy()):
        winners.setdefault(int(cell), []).append(bin_color(p, q))
    for (y, x), value in np.ndenumerate(feature_map.numpy()):
        colors = winners.get(y * WIDTH + x, [])
        for i, color in enumerate(colors):
            width = 0.9 / len(colors)
            axes.add_patch(Rectangle((x - 0.45 + i * width, y - 0.45), width, 0.9, color=color, linewidth=0))
        style = {"color": "white", "weight": "bold"} if colors else {"color": INK}
        axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=7, clip_on=True, **style)


def draw_output(axes: Axes, pooled: Tensor) -> None:
    axes.imshow(pooled, cmap=MAP_COLORS, vmin=0, vmax=99)
    for (p, q), value in np.ndenumerate(pooled.numpy()):
        outline(axes, range(p, p + 1), range(q, q + 1), inset=0.05, edgecolor=bin_color(p, q), linewidth=2.2)
        axes.text(q, p, f"{value:.0f}", ha="center", va="center", fontsize=12, weight="bold", color=INK)
    axes.axis("off")


def draw(feature_map: Tensor, pooled: Tensor, argmax: Tensor, out: Path) -> None:
    figure = plt.figure(figsize=(9, 9), layout="constrained")
    header, *row_figures = figure.subfigures(4, height_ratios=[0.1, 1, 1, 1])
    for x, title in zip([0.21, 0.66, 0.92], COLUMNS, strict=True):
        header.text(x, 0.5, title, ha="center", va="center", fontsize=10, color=INK)
    for k, (row, (title, region)) in enumerate(zip(row_figures, REGIONS.items(), strict=True)):
        rows = bin_cells(region[1], region[3], 1 / STRIDE, BINS)
        columns = bin_cells(region[0], region[2], 1 / STRIDE, BINS)
        check(feature_map, rows, columns, pooled[k], argmax[k])

        row.suptitle(title, x=0.02, ha="left", color=INK, weight="bold", fontsize=11)
        whole, close, output = row.subplots(1, 3, width_ratios=[20, 13, 6.5])
        draw_map(whole, feature_map)
        draw_region(whole, region, rows, columns)
        draw_map(close, feature_map)
        draw_bins(close, rows, columns)
        draw_winners(close, feature_map, argmax[k])
        draw_output(output, pooled[k])
    figure.savefig(out, dpi=100, pil_kwargs={"optimize": True})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bins.png"), help="where to save the picture (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the feature map's values (%(default)s)")
    arguments = parser.parse_args()

    features = make_feature_map(arguments.seed)
    boxes = torch.tensor(list(REGIONS.values()), dtype=torch.float32)
    pooled, argmax = roipool.roi_pool(features, [boxes], BINS, 1 / STRIDE, return_argmax=True)
    draw(features[0, 0], pooled[:, 0], argmax[:, 0], arguments.out)
    print(f"picture saved to {arguments.out}")


if __name__ == "__main__":
    main()
