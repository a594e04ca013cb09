"""Makes a detection data set without a download: coloured shapes on photographs of installed packages.

Every image is drawn when it is asked for, and depends on the seed and its index alone, so that any worker, process or
resumed run gets the same one. Shapes overlap and leave the image in part, but at least `MIN_VISIBLE` of each shows; its
box encloses the visible pixels, as in COCO. Held-out images have other shapes on other photographs.

    python examples/shapes.py --out shapes.png
"""

import argparse
import functools
from pathlib import Path

import matplotlib.cbook
import numpy as np
import skimage
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import find_objects
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.utils import draw_bounding_boxes, make_grid, save_image

CLASSES = ["background", "ellipse", "rectangle", "triangle", "star", "ring", "cross"]
TRAINING_PHOTOGRAPHS = ["astronaut", "brick", "camera", "cat", "grass", "hubble_deep_field", "immunohistochemistry"]
HELD_OUT_PHOTOGRAPHS = ["coffee", "grace_hopper", "gravel", "rocket"]
MIN_SIDE, MAX_SIDE = 16, 200  # of a shape before it is rotated, in pixels
MIN_VISIBLE = 0.6  # of a shape's area
SUPERSAMPLING = 2

Target = dict[str, Tensor]


@functools.cache
def load_photograph(name: str) -> Image.Image:
    if name == "grace_hopper":
        return Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def make_background(rng: np.random.Generator, photographs: list[str], size: int) -> Image.Image:
    """Crops a photograph at random, mirrors half of the crops, and makes them darker or lighter."""
    photograph = load_photograph(str(rng.choice(photographs)))
    side = rng.uniform(0.4, 1) * min(photograph.size)
    left = rng.uniform(0, photograph.width - side)
    top = rng.uniform(0, photograph.height - side)
    crop = photograph.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gain = rng.uniform(0.6, 1.2)
    return crop.point(lambda value: min(int(gain * value), 255))


def on_circle(num_points: int, radius: float | np.ndarray = 1.0) -> np.ndarray:
    """Returns points (num_points, 2) around a circle, the first one at the top."""
    angles = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return np.stack([radius * np.sin(angles), -radius * np.cos(angles)], axis=1)


def make_outlines(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """Returns polygons within -1..1: the outer one and, for a ring, the hole."""
    match name:
        case "ellipse":
            return [on_circle(72)]
        case "rectangle":
            return [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])]
        case "triangle":
            return [np.array([[rng.uniform(-0.6, 0.6), -1], [1, 1], [-1, 1]])]
        case "star":
            num_spikes = int(rng.integers(5, 8))
            return [on_circle(2 * num_spikes, np.tile([1, rng.uniform(0.4, 0.55)], num_spikes))]
        case "ring":
            return [on_circle(72), on_circle(72, rng.uniform(0.45, 0.7))]
        case "cross":
            arm = rng.uniform(0.2, 0.4)
            quarter = np.array([[-arm, -1], [arm, -1], [arm, -arm]])
            rotation = np.array([[0, 1], [-1, 0]])  # of rows, from the upper arm to the right one
            return [np.concatenate([quarter @ np.linalg.matrix_power(rotation, i) for i in range(4)])]
    raise ValueError(f"name: got {name!r}, expected one of {CLASSES[1:]}")


def draw_shape(rng: np.random.Generator, name: str, max_side: float) -> Image.Image:
    """Draws an RGBA image that the shape fills."""
    longer = np.exp(rng.uniform(np.log(MIN_SIDE), np.log(max_side)))
    shorter = max(longer * rng.uniform(0.5, 1), MIN_SIDE)
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outlines = [outline * [longer / 2, shorter / 2] @ rotation for outline in make_outlines(rng, name)]

    low, high = outlines[0].min(0), outlines[0].max(0)
    width, height = np.ceil(high - low).astype(int).tolist()
    shape = Image.new("RGBA", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    opacity = int(rng.uniform(180, 256))
    color, edge_color = [(*rng.integers(0, 256, 3).tolist(), opacity) for _ in range(2)]
    edge_width = int(SUPERSAMPLING * shorter * rng.uniform(0.02, 0.08)) if rng.random() < 0.5 else 0
    outer, *holes = [[tuple(point) for point in (outline - low) * SUPERSAMPLING] for outline in outlines]
    canvas = ImageDraw.Draw(shape)
    canvas.polygon(outer, fill=color, outline=edge_color if edge_width else None, width=edge_width)
    for hole in holes:
        canvas.polygon(hole, fill=(0, 0, 0, 0))
    return shape.reduce(SUPERSAMPLING)


class Shapes(Dataset[tuple[Tensor, Target]]):
    """Yields images (3, size, size) in 0..1, with targets as torchvision has them: boxes (L, 4) and labels (L,)."""

    def __init__(self, length: int, *, train: bool = True, size: int = 256, seed: int = 0, max_shapes: int = 8) -> None:
        self.length = length
        self.train = train
        self.size = size
        self.seed = seed
        self.max_shapes = max_shapes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        if not 0 <= index < self.length:
            raise IndexError(f"index: got {index}, expected 0..{self.length - 1}")
        rng = np.random.default_rng([self.seed, int(self.train), index])
        image = make_background(rng, TRAINING_PHOTOGRAPHS if self.train else HELD_OUT_PHOTOGRAPHS, self.size)
        labels, boxes = self.draw_shapes(rng, image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255, {"boxes": boxes, "labels": labels}

    def draw_shapes(self, rng: np.random.Generator, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Draws onto `image` and returns the labels and boxes of what it drew."""
        owner = np.zeros((self.size, self.size), dtype=np.int64)  # of each pixel: 1 + the index of the topmost shape
        labels: list[int] = []
        areas = [0]  # of the background, which may be covered altogether, then of the shapes
        for _ in range(rng.integers(2, self.max_shapes, endpoint=True)):
            label = int(rng.integers(1, len(CLASSES)))
            shape = draw_shape(rng, CLASSES[label], min(MAX_SIDE, 0.8 * self.size))
            left, top = (int(rng.integers(-extent // 4, self.size - 3 * extent // 4 + 1)) for extent in shape.size)
            alpha = shape.getchannel("A")
            canvas = Image.new("L", image.size)
            canvas.paste(alpha, (left, top))  # what is outside is cut off
            threshold = alpha.getextrema()[1] // 2  # the pixels along an edge are transparent in part
            covered = np.asarray(canvas) > threshold
            area = int((np.asarray(alpha) > threshold).sum())

            visible = np.bincount(owner[~covered], minlength=len(areas))
            if covered.sum() < MIN_VISIBLE * area or (visible < MIN_VISIBLE * np.array(areas)).any():
                continue
            image.paste(shape, (left, top), shape)
            labels.append(label)
            areas.append(area)
            owner[covered] = len(labels)
        boxes = [[x.start, y.start, x.stop, y.stop] for y, x in find_objects(owner)]
        return torch.tensor(labels, dtype=torch.int64), torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def collate(batch: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("shapes.png"), help="where to save a picture (%(default)s)")
    parser.add_argument("--images", type=int, default=12, help="how many images to show (%(default)s)")
    parser.add_argument("--held-out", action="store_true", help="show held-out images")
    parser.add_argument("--seed", type=int, default=0, help="of the images (%(default)s)")
    arguments = parser.parse_args()

    pictures = []
    for image, target in Shapes(arguments.images, train=not arguments.held_out, seed=arguments.seed):
        names = [CLASSES[label] for label in target["labels"]]
        pictures.append(draw_bounding_boxes(image, target["boxes"], names, colors="yellow", label_colors="yellow"))
    save_image(make_grid(pictures, nrow=4), arguments.out)
    print(f"picture saved to {arguments.out}")


if __name__ == "__main__":
    main()
