"""Proposes regions on a photograph, pools them all, and draws what happened.

The regions come from classical computer vision (Felzenszwalb's segmentation at several scales). In one batch each, they
are pooled from the pixels to 64x64 (as R-CNN crops its proposals) and from a small convolutional feature map at 1/16 to
7x7 (as Fast R-CNN does). The picture shows the regions, the bins, the pooled crops and the cells that the maxima came
from.

    python examples/pool_regions.py --out regions.png
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import skimage
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from skimage.measure import regionprops
from skimage.segmentation import felzenszwalb
from torch import Tensor, nn

import roipool

STRIDE = 16
PIXEL_BINS = 64
FEATURE_BINS = 7


def load_image(path: Path | None) -> np.ndarray:
    """Returns a photograph: (H, W, 3), floats in 0..1."""
    image = skimage.data.coffee() if path is None else skimage.io.imread(path)
    if image.ndim == 3 and image.shape[2] in (2, 4):
        image = image[..., :-1]  # without alpha
    if image.ndim == 2 or image.shape[2] == 1:
        image = skimage.color.gray2rgb(image.reshape(image.shape[:2]))
    return skimage.util.img_as_float32(image)


def propose_regions(image: np.ndarray, num_regions: int) -> Tensor:
    """Returns boxes of segments found at several scales: (K, 4), rows [x1, y1, x2, y2], in pixels, largest first."""
    boxes = set()
    for scale in [50, 100, 200, 400, 800]:
        segments = felzenszwalb(image, scale=scale, sigma=0.8, min_size=100)
        for segment in regionprops(segments + 1):  # label 0 would count as background
            top, left, bottom, right = segment.bbox  # bottom and right are exclusive, boxes inclusive
            if min(bottom - top, right - left) >= STRIDE:
                boxes.add((left, top, right - 1, bottom - 1))
    by_area = sorted(boxes, key=lambda box: -(box[2] - box[0] + 1) * (box[3] - box[1] + 1))
    return torch.tensor(by_area[:num_regions], dtype=torch.float32).reshape(-1, 4)


def make_backbone(seed: int) -> nn.Module:
    """Returns four convolutions with random weights, each of stride 2, which make features at 1/16."""
    torch.manual_seed(seed)
    widths = [3, 16, 32, 64, 64]
    layers: list[nn.Module] = []
    for channels_in, channels_out in itertools.pairwise(widths):
        layers += [nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def draw_box(axes: Axes, box: Tensor, **style: object) -> None:
    left, top, right, bottom = box.tolist()
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, fill=False, **style))


def draw_bins(axes: Axes, box: Tensor, num_bins: int) -> None:
    """Draws the edges of the bins before they are rounded outwards to whole cells."""
    left, top, right, bottom = box.tolist()
    for x in np.linspace(left, right + 1, num_bins + 1) - 0.5:
        axes.plot([x, x], [top - 0.5, bottom + 0.5], color="white", linewidth=0.8)
    for y in np.linspace(top, bottom + 1, num_bins + 1) - 0.5:
        axes.plot([left - 0.5, right + 0.5], [y, y], color="white", linewidth=0.8)


def draw_argmax(axes: Axes, argmax: Tensor, width: int, size: float) -> None:
    cells = argmax[argmax >= 0].unique()
    axes.scatter(cells % width, cells // width, s=size, color="red", edgecolors="black", linewidths=0.3, zorder=3)


def draw_proposals(axes: Axes, image: np.ndarray, boxes: Tensor, k: int) -> None:
    axes.imshow(image)
    colors = plt.get_cmap("hsv")(np.linspace(0, 0.9, len(boxes)))
    for box, color in zip(boxes, colors, strict=True):
        draw_box(axes, box, edgecolor=color, linewidth=0.9)
    draw_box(axes, boxes[k], edgecolor="white", linewidth=3)
    axes.set_title(f"{len(boxes)} proposed regions")


def draw_pixels(axes: Axes, image: np.ndarray, boxes: Tensor, argmax: Tensor, k: int) -> None:
    left, top, right, bottom = boxes[k].int().tolist()
    axes.imshow(image)
    draw_argmax(axes, argmax[k, 0], image.shape[1], size=3)
    draw_box(axes, boxes[k], edgecolor="white", linewidth=2)
    axes.set_xlim(left - 4, right + 4)
    axes.set_ylim(bottom + 4, top - 4)
    axes.set_title(f"Region {k}: where the {PIXEL_BINS}x{PIXEL_BINS} maxima (red) lie")


def draw_crops(axes: Axes, crops: Tensor) -> None:
    side = 6
    tiles = torch.zeros(side * side, 3, PIXEL_BINS, PIXEL_BINS)
    tiles[: len(crops)] = crops[: side * side]
    grid = tiles.view(side, side, 3, PIXEL_BINS, PIXEL_BINS).permute(0, 3, 1, 4, 2).reshape(side * PIXEL_BINS, -1, 3)
    axes.imshow(grid)
    axes.set_title(f"Pooled from pixels to {PIXEL_BINS}x{PIXEL_BINS}: the largest {min(side**2, len(crops))}")


def draw_features(panels: Sequence[Axes], features: Tensor, box: Tensor, pooled: Tensor, argmax: Tensor) -> None:
    """Draws one region in the channel in which it has the largest maximum: on the map, its bins, and pooled."""
    map_axes, bins_axes, output_axes = panels
    channel = int(pooled.amax((1, 2)).argmax())
    feature_map = features[0, channel]
    colors = {"cmap": "viridis", "vmin": feature_map.min(), "vmax": feature_map.max()}
    scaled = (box / STRIDE + 0.5).floor()  # corners are not negative here, so this rounds as the operator does
    for axes in [map_axes, bins_axes]:
        axes.imshow(feature_map, **colors)
        draw_argmax(axes, argmax[channel], features.shape[3], size=16)
        draw_box(axes, scaled, edgecolor="white", linewidth=2)
    map_axes.set_title(f"Feature map at 1/{STRIDE}, channel {channel}, with the region")
    draw_bins(bins_axes, scaled, FEATURE_BINS)
    bins_axes.set_xlim(scaled[0] - 1.5, scaled[2] + 1.5)
    bins_axes.set_ylim(scaled[3] + 1.5, scaled[1] - 1.5)
    bins_axes.set_title(f"Its {FEATURE_BINS}x{FEATURE_BINS} bins and their argmax cells")

    output_axes.imshow(pooled[channel], **colors)
    output_axes.set_title(f"Pooled to {FEATURE_BINS}x{FEATURE_BINS}")


def draw(
    image: np.ndarray,
    features: Tensor,
    boxes: Tensor,
    crops: Tensor,
    crop_argmax: Tensor,
    pooled: Tensor,
    argmax: Tensor,
    out: Path,
) -> None:
    k = len(boxes) // 4  # a region of middling size, to be shown in detail
    figure, panels = plt.subplots(2, 3, figsize=(16.5, 9), layout="constrained")
    draw_proposals(panels[0, 0], image, boxes, k)
    draw_pixels(panels[0, 1], image, boxes, crop_argmax, k)
    draw_crops(panels[0, 2], crops)
    draw_features(panels[1], features, boxes[k], pooled[k], argmax[k])
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(out, dpi=100)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a photograph (default: scikit-image's coffee cup)")
    parser.add_argument("--out", type=Path, default=Path("regions.png"), help="where to save the picture (%(default)s)")
    parser.add_argument("--regions", type=int, default=120, help="how many regions at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the backbone's weights (%(default)s)")
    arguments = parser.parse_args()

    image = load_image(arguments.image)
    boxes = propose_regions(image, arguments.regions)
    if len(boxes) == 0:
        parser.error(f"no region of at least {STRIDE} x {STRIDE} pixels was found in this image")
    input = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    features = make_backbone(arguments.seed)(input)
    print(f"image {tuple(input.shape)}, features {tuple(features.shape)}, {len(boxes)} regions")

    start = time.perf_counter()
    crops, crop_argmax = roipool.roi_pool(input, [boxes], PIXEL_BINS, return_argmax=True)
    middle = time.perf_counter()
    pooled, argmax = roipool.roi_pool(features, [boxes], FEATURE_BINS, 1 / STRIDE, return_argmax=True)
    end = time.perf_counter()
    print(f"from pixels (R-CNN)         {tuple(crops.shape)!s:<20} {1e3 * (middle - start):.1f} ms")
    print(f"from features (Fast R-CNN)  {tuple(pooled.shape)!s:<20} {1e3 * (end - middle):.1f} ms")

    draw(image, features, boxes, crops, crop_argmax, pooled, argmax, arguments.out)
    print(f"picture saved to {arguments.out}")


if __name__ == "__main__":
    main()
