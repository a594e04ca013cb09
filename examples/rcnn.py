"""Pools regions from the pixels of their images to 64x64, as R-CNN does, and classifies each by itself.

In MXNet, this was npx.roi_pooling(images, rois, (64, 64), 1.0). There are two images, four regions, ten classes and
background, and the weights are random; fast_rcnn.py pools from features instead, and trains.

    python examples/rcnn.py --out crops.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import skimage
import torch
from matplotlib.patches import Rectangle
from torch import Tensor, nn

import roipool

NUM_CLASSES = 10
SIDE = 128
CROP = 64
ROIS = torch.tensor(  # rows [batch_index, x1, y1, x2, y2], in pixels, both corners inclusive
    [
        [0, 36, 6, 74, 54],
        [0, 84, 14, 127, 75],
        [1, 0, 4, 127, 118],
        [1, 12, 30, 56, 66],
    ],
    dtype=torch.float32,
)


def load_images() -> Tensor:
    """Returns two photographs: (2, 3, SIDE, SIDE), in 0..1."""
    photographs = [skimage.data.astronaut(), skimage.data.cat()[:, 60:360]]
    resized = [skimage.transform.resize(photograph, (SIDE, SIDE), anti_aliasing=True) for photograph in photographs]
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in resized]).float()


def make_classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (CROP // 4) ** 2, NUM_CLASSES + 1),
    )


def draw(images: Tensor, crops: Tensor, out: Path) -> None:
    figure, panels = plt.subplots(len(images), 3, figsize=(9, 6), layout="constrained")
    colors = ["tab:red", "tab:cyan", "tab:orange", "yellow"]
    for n, (image, (whole, *crop_panels)) in enumerate(zip(images, panels, strict=True)):
        whole.imshow(image.permute(1, 2, 0))
        whole.set_title(f"image {n}, {SIDE}x{SIDE}")
        for k, axes in zip((ROIS[:, 0] == n).nonzero().flatten().tolist(), crop_panels, strict=True):
            left, top, right, bottom = ROIS[k, 1:].tolist()
            box = (left - 0.5, top - 0.5), right - left + 1, bottom - top + 1
            whole.add_patch(Rectangle(*box, fill=False, edgecolor=colors[k], linewidth=2.5))
            axes.imshow(crops[k].permute(1, 2, 0))
            axes.set_title(f"region {k}, pooled to {CROP}x{CROP}")
            axes.spines[:].set(color=colors[k], linewidth=3)
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(out, dpi=80)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("crops.png"), help="where to save the picture (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the classifier's weights (%(default)s)")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    classifier = make_classifier()
    images = load_images()
    crops = roipool.roi_pool(images, ROIS, CROP, spatial_scale=1.0)
    logits = classifier(crops)
    print(f"images {tuple(images.shape)}, crops {tuple(crops.shape)}, logits {tuple(logits.shape)}")
    for k, probabilities in enumerate(logits.softmax(1)):
        print(f"region {k}: class {int(probabilities.argmax())}, probability {probabilities.max():.4f}")

    draw(images, crops, arguments.out)
    print(f"picture saved to {arguments.out}")


if __name__ == "__main__":
    main()
