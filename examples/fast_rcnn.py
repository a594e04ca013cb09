"""Pools regions from features, as Fast R-CNN does: the backbone sees each image once for all its regions.

The first part is what was npx.roi_pooling(features, rois, (4, 4), 1 / 32) in MXNet: it classifies the images and
regions of rcnn.py, from the features of a ResNet-34, into ten classes and background. The second part trains a
detector on the data set of shapes.py: its proposals are the boxes of Felzenszwalb's segments, pooled from the features
of a small ResNet at 1/8 to 7x7, classified and refined.

    python examples/fast_rcnn.py --out detections.jpg --json fast_rcnn.json
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from rcnn import NUM_CLASSES, ROIS, load_images
from schedule import one_cycle
from shapes import CLASSES, Shapes, Target
from skimage.measure import regionprops
from skimage.segmentation import felzenszwalb
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models import resnet18, resnet34
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image
from tqdm import tqdm

import roipool

SIZE = 128  # of an image
MAX_SHAPES = 5
TRAINING_IMAGES = 2000
STRIDE = 8
BINS = 7

STEPS = 2500
BATCH = 8
LEARNING_RATE = 1e-3
MIN_AP50 = 0.65  # of the default training
SHOWN_SCORE = 0.7  # at least, in the picture

BOX_CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
MATCHER = Matcher(high_threshold=0.5, low_threshold=0.5)
SAMPLER = BalancedPositiveNegativeSampler(batch_size_per_image=32, positive_fraction=0.25)


def classify_regions(weights: Path | None) -> Tensor:
    """Returns logits (K, NUM_CLASSES + 1) of the regions of rcnn.py, from features at 1/32."""
    resnet = resnet34()
    if weights is not None:
        resnet.load_state_dict(torch.load(weights, weights_only=True))
    backbone = nn.Sequential(*list(resnet.children())[:-2]).eval()  # without average pooling and the dense layer
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, NUM_CLASSES + 1))
    with torch.no_grad():
        features = backbone(load_images())
        pooled = roipool.roi_pool(features, ROIS, 4, spatial_scale=1 / 32)
        logits = head(pooled)
    print(f"features {tuple(features.shape)}, pooled {tuple(pooled.shape)}, logits {tuple(logits.shape)}")
    return logits


class Example(NamedTuple):
    image: Tensor  # (3, SIZE, SIZE)
    target: Target
    proposals: Tensor  # (K, 4)

    def mirrored(self) -> "Example":
        boxes = mirror_boxes(self.target["boxes"])
        return Example(self.image.flip(2), {**self.target, "boxes": boxes}, mirror_boxes(self.proposals))


def mirror_boxes(boxes: Tensor) -> Tensor:
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack([SIZE - right, top, SIZE - left, bottom], dim=1)


def propose(image: Tensor) -> Tensor:
    """Returns the boxes of segments that are found at two scales: (K, 4), rows [x1, y1, x2, y2]."""
    boxes = set()
    for scale in [50, 200]:
        segments = felzenszwalb(image.permute(1, 2, 0).numpy(), scale=scale, sigma=0.8, min_size=60)
        for segment in regionprops(segments + 1):  # label 0 would count as background
            top, left, bottom, right = segment.bbox
            if min(bottom - top, right - left) >= STRIDE:
                boxes.add((left, top, right, bottom))
    return torch.tensor(sorted(boxes), dtype=torch.float32).reshape(-1, 4)


def load_examples(shapes: Shapes, description: str) -> list[Example]:
    """Returns the images with their proposals, but for the few images in which no shape found room."""
    labelled = (example for example in tqdm(shapes, desc=description) if len(example[1]["boxes"]))
    return [Example(image, target, propose(image)) for image, target in labelled]


class FastRCNN(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(resnet18().children())[:6])  # 128 channels at 1/8
        self.pool = roipool.RoIPool(BINS, spatial_scale=1 / STRIDE)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(128 * BINS**2, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
        )
        self.classifier = nn.Linear(256, num_classes)
        self.regressor = nn.Linear(256, 4)

    def forward(self, images: Tensor, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns logits (K, num_classes) and box deltas (K, 4) of the regions, a tensor (L_i, 4) for each image."""
        hidden = self.head(self.pool(self.backbone(images), regions))
        return self.classifier(hidden), self.regressor(hidden)


def jitter(boxes: Tensor) -> Tensor:
    """Returns each box four times, its corners moved by up to a fifth of its size."""
    boxes = boxes.repeat(4, 1)
    sizes = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return clip_boxes_to_image(boxes + 0.2 * sizes * (2 * torch.rand_like(boxes) - 1), (SIZE, SIZE))


def sample_regions(example: Example) -> tuple[Tensor, Tensor, Tensor]:
    """Samples regions to learn from: boxes (S, 4), labels (S,), and the truth that they should be moved to (S, 4)."""
    truth, labels = example.target["boxes"], example.target["labels"]
    boxes = torch.cat([truth, jitter(truth), example.proposals])  # few proposals alone are foreground
    match = MATCHER(box_iou(truth, boxes))
    labels = labels[match.clamp(min=0)].where(match >= 0, 0)
    [foreground], [background] = SAMPLER([labels])
    chosen = (foreground | background).nonzero().flatten()
    return boxes[chosen], labels[chosen], truth[match[chosen].clamp(min=0)]


def loss_of(model: FastRCNN, examples: list[Example]) -> Tensor:
    boxes, labels, truth = zip(*map(sample_regions, examples), strict=True)
    logits, deltas = model(torch.stack([example.image for example in examples]), boxes)
    labels = torch.cat(labels)
    foreground = labels > 0
    goal = torch.cat(BOX_CODER.encode(truth, boxes))
    box_loss = F.smooth_l1_loss(deltas[foreground], goal[foreground], beta=1 / 9, reduction="sum") / len(labels)
    return F.cross_entropy(logits, labels) + box_loss


def train(model: FastRCNN, examples: list[Example], steps: int) -> list[float]:
    """The loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=1e-2)
    scheduler = one_cycle(optimizer, LEARNING_RATE, steps)
    model.train()
    losses = []
    for _ in (progress := tqdm(range(steps), desc="training")):
        batch = [examples[i] for i in torch.randint(len(examples), (BATCH,))]
        loss = loss_of(model, [e.mirrored() if torch.rand(()) < 0.5 else e for e in batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
    return losses


def detect(logits: Tensor, deltas: Tensor, proposals: Tensor) -> dict[str, Tensor]:
    """Returns boxes, scores and labels of what non-maximum suppression leaves, class by class."""
    boxes = clip_boxes_to_image(BOX_CODER.decode(deltas, [proposals])[:, 0], (SIZE, SIZE))
    scores = logits.softmax(1)
    k, labels = (scores > 0.05).nonzero().unbind(1)
    k, labels = k[labels > 0], labels[labels > 0]
    keep = batched_nms(boxes[k], scores[k, labels], labels, iou_threshold=0.3)
    return {"boxes": boxes[k][keep], "scores": scores[k, labels][keep], "labels": labels[keep]}


@torch.no_grad()
def evaluate(model: FastRCNN, examples: list[Example]) -> tuple[dict[str, float], list[dict[str, Tensor]]]:
    model.eval()
    metric = MeanAveragePrecision(iou_thresholds=[0.5])
    metric.warn_on_many_detections = False
    detections = []
    correct = []
    for image, target, proposals in tqdm(examples, desc="evaluation"):
        logits, deltas = model(image[None], [proposals])
        detections.append(detect(logits, deltas, proposals))
        metric.update(detections[-1:], [target])
        overlap, match = box_iou(proposals, target["boxes"]).max(1)
        correct.append((logits.argmax(1) == target["labels"][match])[overlap >= 0.5])
    accuracy = torch.cat(correct).float().mean().item()
    return {"foreground_accuracy": accuracy, "ap50": metric.compute()["map_50"].item()}, detections


def draw(examples: list[Example], detections: list[dict[str, Tensor]], out: Path) -> None:
    figure, panels = plt.subplots(2, 4, figsize=(12, 6), layout="constrained")
    for axes, example, found in zip(panels.flat, examples, detections, strict=False):
        axes.imshow(example.image.permute(1, 2, 0))
        for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
            if score < SHOWN_SCORE:
                continue
            left, top, right, bottom = (box - 0.5).tolist()  # imshow draws the centre of the first pixel at 0
            color = plt.get_cmap("Dark2")(int(label))
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=color, linewidth=2))
            name = {"s": f"{CLASSES[label]} {score:.2f}", "fontsize": 8, "color": "white"}
            axes.text(left, top, **name, va="top", bbox={"color": color, "pad": 1}, clip_on=True)
        axes.axis("off")
    figure.savefig(out, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a state dict of torchvision's resnet34 (default: random weights)")
    parser.add_argument(
        "--steps",
        type=int,
        help=f"of a training that only reports (default: {STEPS}, after which an AP50 below {MIN_AP50} is an error)",
    )
    parser.add_argument("--held-out", type=int, default=200, help="how many images to evaluate on (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("detections.jpg"), help="where to save the picture (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="where to save losses and metrics")
    parser.add_argument("--seed", type=int, default=0, help="of weights, training images and sampling (%(default)s)")
    arguments = parser.parse_args()
    steps = STEPS if arguments.steps is None else arguments.steps

    torch.manual_seed(arguments.seed)
    print(classify_regions(arguments.weights))

    start = time.perf_counter()
    shapes = Shapes(min(TRAINING_IMAGES, steps * BATCH), size=SIZE, max_shapes=MAX_SHAPES, seed=arguments.seed)
    model = FastRCNN(len(CLASSES))
    losses = train(model, load_examples(shapes, "proposals"), steps)
    minutes = (time.perf_counter() - start) / 60

    held_out = Shapes(arguments.held_out, train=False, size=SIZE, max_shapes=MAX_SHAPES)
    examples = load_examples(held_out, "held-out proposals")
    metrics, detections = evaluate(model, examples)
    print(", ".join(f"{name} {value:.3f}" for name, value in metrics.items()), f"after {minutes:.1f} minutes")
    draw(examples, detections, arguments.out)
    print(f"picture saved to {arguments.out}")

    if arguments.json:
        tenths = [round(part.mean().item(), 4) for part in torch.tensor(losses).chunk(10)]
        report = {**metrics, "steps": steps, "minutes": round(minutes, 1), "mean_loss_of_each_tenth": tenths}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.steps is None and metrics["ap50"] < MIN_AP50:
        sys.exit(f"AP50 is {metrics['ap50']:.3f}, expected at least {MIN_AP50}")


if __name__ == "__main__":
    main()
