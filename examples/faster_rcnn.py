"""Trains a Faster R-CNN from scratch, end to end, with roipool between its feature pyramid and its head.

The detector is torchvision's, with a ResNet of ten layers and GroupNorm instead of BatchNorm, so that nothing changes
when a batch is split. It learns coloured shapes on photographs (shapes.py), which a CPU can teach it in some minutes.
`--pooler align` puts torchvision's MultiScaleRoIAlign in roipool's place, for comparison.

    python examples/faster_rcnn.py --out runs/roipool
    python examples/faster_rcnn.py --pooler align --out runs/align

Under torchrun, the processes share each batch. With a checkpoint, a run that was stopped goes on where it was; a worker
that dies costs the steps since the last one:

    torchrun --nproc-per-node 2 --max-restarts 3 examples/faster_rcnn.py --checkpoint state.pt --out runs/torchrun

The directory `--out` receives metrics.json, losses.png and predictions.jpg; compare_runs.py puts several runs into one
table and one picture.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torchvision
from compare_runs import draw_losses, make_table
from schedule import one_cycle
from shapes import CLASSES, Shapes, Target, collate
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import MultiScaleRoIAlign
from torchvision.utils import draw_bounding_boxes, make_grid, save_image
from tqdm import tqdm

import roipool

IMAGE_SIZE = 256
LEVELS = ["0", "1", "2", "3"]  # of the feature pyramid: strides 4, 8, 16 and 32
BINS = 7
PYRAMID_CHANNELS = 64
HEAD_CHANNELS = 256
MAX_GRADIENT_NORM = 5.0

POOLERS = {
    "roipool": lambda: roipool.MultiScaleRoIPool(featmap_names=LEVELS, output_size=BINS),
    "align": lambda: MultiScaleRoIAlign(featmap_names=LEVELS, output_size=BINS, sampling_ratio=2),
}


def make_model(pooler: str) -> FasterRCNN:
    group_norm = partial(nn.GroupNorm, 16)
    resnet = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=group_norm)
    stages = {f"layer{i + 1}": level for i, level in enumerate(LEVELS)}
    backbone = BackboneWithFPN(resnet, stages, [64, 128, 256, 512], PYRAMID_CHANNELS, norm_layer=group_norm)
    model = FasterRCNN(
        backbone,
        min_size=IMAGE_SIZE,
        max_size=IMAGE_SIZE,
        rpn_anchor_generator=AnchorGenerator(
            sizes=tuple((size,) for size in [16, 32, 64, 128, 200]), aspect_ratios=((0.5, 1.0, 2.0),) * 5
        ),
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_test=200,
        rpn_batch_size_per_image=128,
        box_head=FastRCNNConvFCHead(
            (PYRAMID_CHANNELS, BINS, BINS), [PYRAMID_CHANNELS] * 4, [HEAD_CHANNELS], norm_layer=group_norm
        ),
        box_predictor=FastRCNNPredictor(HEAD_CHANNELS, len(CLASSES)),
        box_batch_size_per_image=64,
        box_positive_fraction=0.5,
    )
    model.roi_heads.box_roi_pool = POOLERS[pooler]()  # the constructor accepts only torchvision's
    return model


@dataclass
class History:
    losses: list[float] = field(default_factory=list)  # of every step
    seconds: float = 0.0  # that the steps took
    resumed_at: list[int] = field(default_factory=list)  # steps


def join_process_group(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, world_size = next(dist.rendezvous("env://"))
    # The prefix keeps restarted workers from finding the addresses of those that died: torchrun keeps its store.
    store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)


def get_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def get_world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_ranks(value: Tensor) -> float:
    if dist.is_initialized():
        dist.all_reduce(value)
    return value.item() / get_world_size()


def to_device(targets: Iterable[Target], device: torch.device) -> list[Target]:
    return [{name: tensor.to(device) for name, tensor in target.items()} for target in targets]


def seed_step(seed: int, step: int) -> None:
    """Makes every run that comes to this step sample the same anchors and proposals."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, get_rank()]).generate_state(1)[0]))


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    partial_path = path.with_name(path.name + ".partial")
    torch.save(state, partial_path)
    os.replace(partial_path, path)  # atomic: whoever is killed meanwhile leaves the last checkpoint whole


def split_batches(steps: range, batch_size: int, rank: int, world_size: int) -> list[range]:
    """Deals out the images of each step to the processes, which together see what a single process would."""
    return [range(step * batch_size + rank, (step + 1) * batch_size, world_size) for step in steps]


def train(model: FasterRCNN, device: torch.device, arguments: argparse.Namespace) -> History:
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.05)
    schedule = one_cycle(optimizer, arguments.lr, arguments.steps)
    # What must not change when a run is resumed; the number of processes may.
    settings = {name: getattr(arguments, name) for name in ["pooler", "steps", "batch_size", "lr", "seed", "amp"]}
    history = History()
    stateful = {"model": model, "optimizer": optimizer, "schedule": schedule}

    if arguments.checkpoint and arguments.checkpoint.exists():
        state = torch.load(arguments.checkpoint, map_location=device)
        if state["settings"] != settings:
            raise SystemExit(f"{arguments.checkpoint} is of another run: {state['settings']}, not {settings}")
        for name, item in stateful.items():
            item.load_state_dict(state[name])
        history = History(**state["history"])
        history.resumed_at.append(len(history.losses))

    steps = range(len(history.losses), arguments.steps)
    rank = get_rank()
    loader = DataLoader(
        Shapes(arguments.steps * arguments.batch_size, size=IMAGE_SIZE, seed=arguments.seed),
        batch_sampler=split_batches(steps, arguments.batch_size, rank, get_world_size()),
        num_workers=arguments.workers,
        collate_fn=collate,
    )
    network = DistributedDataParallel(model) if dist.is_initialized() else model
    model.train()

    progress = tqdm(loader, "training", initial=steps.start, total=steps.stop, unit="step", disable=rank > 0)
    start = time.perf_counter() - history.seconds
    for step, (images, targets) in zip(steps, progress, strict=True):
        seed_step(arguments.seed, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.amp):
            losses = network([image.to(device) for image in images], to_device(targets, device))
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()

        history.losses.append(mean_over_ranks(loss.detach()))
        history.seconds = time.perf_counter() - start
        progress.set_postfix(loss=f"{np.mean(history.losses[-50:]):.3f}", refresh=False)
        due = (step + 1) % arguments.checkpoint_every == 0 or step + 1 == steps.stop
        if arguments.checkpoint and rank == 0 and due:
            states = {name: item.state_dict() for name, item in stateful.items()}
            save_checkpoint(arguments.checkpoint, {"settings": settings, "history": asdict(history), **states})
    return history


@torch.compiler.set_stance("force_eager")  # too few batches to compile anything for
@torch.inference_mode()
def evaluate(model: FasterRCNN, device: torch.device, arguments: argparse.Namespace) -> dict[str, float]:
    """Returns COCO's average precision on held-out images, which the processes share."""
    dataset = Shapes(arguments.held_out, train=False, size=IMAGE_SIZE, seed=arguments.seed)
    mine = range(get_rank(), len(dataset), get_world_size())
    loader = DataLoader(dataset, arguments.batch_size, sampler=mine, num_workers=arguments.workers, collate_fn=collate)
    metric = MeanAveragePrecision()
    model.eval()
    for images, targets in tqdm(loader, "evaluating", unit="batch", disable=get_rank() > 0):
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.amp):
            detections = model([image.to(device) for image in images])
        metric.update(to_device(detections, torch.device("cpu")), targets)
    precision = metric.compute()  # of the detections of all processes
    return {"AP": precision["map"].item(), "AP50": precision["map_50"].item(), "AP75": precision["map_75"].item()}


@torch.compiler.set_stance("force_eager")
@torch.inference_mode()
def draw_predictions(model: FasterRCNN, device: torch.device, seed: int, out: Path) -> None:
    images = [image for image, _ in Shapes(8, train=False, size=IMAGE_SIZE, seed=seed)]
    draw_detections(images, model.eval()([image.to(device) for image in images]), out)


def draw_detections(images: Iterable[Tensor], detections_of_images: Iterable[dict[str, Tensor]], out: Path) -> None:
    pictures = []
    for image, detections in zip(images, detections_of_images, strict=True):
        sure = detections["scores"] > 0.7
        scores = zip(detections["labels"][sure].tolist(), detections["scores"][sure].tolist(), strict=True)
        names = [f"{CLASSES[label]} {score:.2f}" for label, score in scores]
        boxes = detections["boxes"][sure].cpu()
        pictures.append(draw_bounding_boxes(image, boxes, names, colors="yellow", label_colors="yellow"))
    save_image(make_grid(pictures, nrow=4), out)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("faster_rcnn"), help="directory of the results (%(default)s)")
    parser.add_argument("--pooler", choices=POOLERS, default="roipool", help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=1800, help="of training (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="images per step, of all processes (%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and sampling (%(default)s)")
    parser.add_argument("--held-out", type=int, default=400, help="how many images to evaluate on (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="that draw images, per process (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="file to save the state to, and to resume from if it exists")
    parser.add_argument("--checkpoint-every", type=int, default=100, help="steps (%(default)s)")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default_device, help="(%(default)s)")
    parser.add_argument("--amp", action="store_true", help="bfloat16 where autocast allows it")
    parser.add_argument("--compile", action="store_true", help="the backbone and the head, by torch.compile")
    arguments = parser.parse_args(argv)
    if arguments.batch_size % int(os.environ.get("WORLD_SIZE", 1)):
        parser.error(f"--batch-size: got {arguments.batch_size}, expected a multiple of the number of processes")
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    device = torch.device(arguments.device)
    if dist.is_torchelastic_launched():
        join_process_group(device)

    torch.manual_seed(arguments.seed)
    model = make_model(arguments.pooler).to(device)
    if arguments.compile:
        model.backbone.compile()
        model.roi_heads.box_head.compile(dynamic=True)  # the number of regions varies

    history = train(model, device, arguments)
    precision = evaluate(model, device, arguments)
    if get_rank() == 0:
        metrics = {
            **{name: round(value, 4) for name, value in precision.items()},
            "minutes": round(history.seconds / 60, 2),
            "images_per_second": round(arguments.steps * arguments.batch_size / history.seconds, 2),
            "processes": get_world_size(),
            "threads_per_process": torch.get_num_threads(),
            "resumed_at": history.resumed_at,
            "versions": {module.__name__: module.__version__ for module in [roipool, torch, torchvision]},
            "arguments": {name: value for name, value in vars(arguments).items() if not isinstance(value, Path)},
            "losses": [round(loss, 4) for loss in history.losses],
        }
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "metrics.json").write_text(json.dumps(metrics) + "\n")
        runs = {arguments.out.name: metrics}
        draw_losses(runs, arguments.out / "losses.png")
        draw_predictions(model, device, arguments.seed, arguments.out / "predictions.jpg")
        print(make_table(runs))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
