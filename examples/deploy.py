"""Serves the trained detector of faster_rcnn.py as one model, images in and boxes out, and compares the runtimes.

The whole detector (resizing, backbone, region proposals, roipool.MultiScaleRoIPool, head, and both non-maximum
suppressions) is exported to a package of AOTInductor, which calls the operators of roipool and torchvision, and to
ONNX, where the standard operators MaxRoiPool and NonMaxSuppression take their places. Each runtime then detects shapes
in held-out images. The program prints how long each takes, and fails unless all find what eager PyTorch finds.

    python examples/faster_rcnn.py --amp --checkpoint state.pt --out runs/detector
    python examples/deploy.py --checkpoint state.pt --out served

The directory `--out` receives detector.pt2, detector.onnx and detections.jpg, a picture of what ONNX Runtime found.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import onnxruntime
import openvino
import torch
import torchvision
from faster_rcnn import IMAGE_SIZE, draw_detections, make_model
from shapes import Shapes
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from tqdm import tqdm

import roipool

TRAINING = "python examples/faster_rcnn.py --amp --checkpoint state.pt"
STRIDES = [4, 8, 16, 32]
OUTPUTS = ["boxes", "labels", "scores"]
BOXES_OUTSIDE = [[-2.0, -2.0, -1.0, -1.0], [-4.0, -4.0, -3.0, -3.0]]
MAX_BOX_DIFFERENCE_PIXELS = 0.01
MAX_SCORE_DIFFERENCE = 1e-4
NUM_WARM_UP_IMAGES = 5
NUM_DRAWN_IMAGES = 8

# Holds what was found in one image: boxes (L, 4), labels (L,) and scores (L,).
Detections = dict[str, Tensor]
# Detects in an image (3, H, W).
Runtime = Callable[[Tensor], Detections]


class Detector(nn.Module):
    """Takes one image (3, H, W) and returns its boxes, labels and scores, without lists and dictionaries."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (detections,) = self.model([image])
        return tuple(detections[name] for name in OUTPUTS)


def load_detector(checkpoint: Path) -> Detector:
    model = make_model("roipool")
    model.load_state_dict(torch.load(checkpoint, map_location="cpu")["model"])
    return prepare_detector(model)


def prepare_detector(model: FasterRCNN) -> Detector:
    # Sets the scales, so that they are constants of the exported model instead of inferred from sizes in each call.
    model.roi_heads.box_roi_pool.scales = [1 / stride for stride in STRIDES]
    return Detector(model).eval().requires_grad_(False)


def suppress_within_labels(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Keeps what torchvision.ops.batched_nms keeps, but does not choose an algorithm by the number of boxes.

    Moves boxes of different labels apart, so that one call suppresses within each label. Adds two boxes that overlap
    none, and drops them afterwards: torchvision (0.28) tells torch.export that NMS keeps at least two boxes, and a
    package would refuse an image with less.
    """
    offsets = labels.to(boxes.dtype) * (IMAGE_SIZE + 1)
    boxes = torch.cat([boxes + offsets[:, None], boxes.new_tensor(BOXES_OUTSIDE)])
    kept = torchvision.ops.nms(boxes, torch.cat([scores, scores.new_zeros(2)]), iou_threshold)
    return kept[kept < scores.shape[0]]


def expect_proposals(_: nn.Module, arguments: tuple) -> None:
    """Promises torch.export that there is a proposal, since torchvision's BoxCoder asks whether there is."""
    _features, (proposals,), *_rest = arguments
    torch._check(proposals.shape[0] > 0)


@contextmanager
def exportable(detector: Detector) -> Iterator[None]:
    """Frees torchvision's detector, for a while, of branches on the number of boxes, which torch.export cannot know."""
    hook = detector.model.roi_heads.register_forward_pre_hook(expect_proposals)
    try:
        with mock.patch.object(torchvision.ops.boxes, "batched_nms", suppress_within_labels):
            yield
    finally:
        hook.remove()


def export_package(detector: Detector, path: Path) -> None:
    """Exports to AOTInductor."""
    example = torch.zeros(3, IMAGE_SIZE, IMAGE_SIZE)
    with exportable(detector):
        program = torch.export.export(detector, (example,), strict=False)
    # Keeps Inductor from making the weights of convolutions channels_last. Where NMS decides on the number of regions,
    # torch 2.13 would then take the outputs of the convolutions for contiguous, and the package compute wrong values.
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(path), inductor_configs={"layout_optimization": False}
    )


def export_onnx(detector: Detector, path: Path) -> None:
    example = torch.zeros(3, IMAGE_SIZE, IMAGE_SIZE)
    with exportable(detector):
        torch.onnx.export(
            detector,
            (example,),
            path,
            input_names=["image"],
            output_names=OUTPUTS,
            external_data=False,
            verbose=False,
        )


def name_outputs(outputs: Sequence) -> Detections:
    return {name: torch.as_tensor(output) for name, output in zip(OUTPUTS, outputs, strict=True)}


def open_package(path: Path) -> Runtime:
    package = torch._inductor.aoti_load_package(str(path))
    # Makes images contiguous, as the example was: a package does not look at the strides of what it is given.
    return lambda image: name_outputs(package(image.contiguous()))


def open_onnxruntime(path: Path, num_threads: int) -> Runtime:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: name_outputs(session.run(OUTPUTS, {"image": image.numpy()}))


def open_openvino(path: Path, num_threads: int) -> Runtime:
    # Asks for float32, since OpenVINO computes in bfloat16 by itself where the processor has it.
    config = {"INFERENCE_NUM_THREADS": num_threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.compile_model(path, "CPU", config)
    return lambda image: name_outputs(list(model(image.numpy()).to_tuple()))


def open_runtimes(detector: Detector, directory: Path, num_threads: int) -> dict[str, Runtime]:
    """Exports the detector and returns what detects in an image, eager PyTorch first."""
    package_path, onnx_path = directory / "detector.pt2", directory / "detector.onnx"
    for export, path in [(export_package, package_path), (export_onnx, onnx_path)]:
        start = time.perf_counter()
        export(detector, path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, exported in {time.perf_counter() - start:.0f} s")
    compiled = torch.compile(detector)
    return {
        "eager": lambda image: name_outputs(detector(image)),
        "torch.compile": lambda image: name_outputs(compiled(image)),
        "AOTInductor": open_package(package_path),
        "ONNX Runtime": open_onnxruntime(onnx_path, num_threads),
        "OpenVINO": open_openvino(onnx_path, num_threads),
    }


@dataclass
class Result:
    """Sums up what a runtime found; the differences from eager PyTorch are the largest in all images that are alike."""

    milliseconds_per_image: float
    num_detections: int
    num_images_alike: int
    box_difference_pixels: float
    score_difference: float


def detect(runtime: Runtime, images: list[Tensor], name: str) -> tuple[list[Detections], float]:
    """Returns the detections in each image, and the median of the milliseconds that an image took."""
    for image in tqdm(images[:NUM_WARM_UP_IMAGES], f"{name}: warming up", unit="image", leave=False):
        runtime(image)
    detections, seconds = [], []
    for image in tqdm(images, name, unit="image"):
        start = time.perf_counter()
        detections.append(runtime(image))
        seconds.append(time.perf_counter() - start)
    return detections, 1000 * statistics.median(seconds)


def find_differences(expected: Detections, found: Detections) -> tuple[float, float] | None:
    """Returns the largest differences of box coordinates and of scores, or None where other boxes were found.

    Pairs each box with the nearest one of its label, since boxes with nearly equal scores come in either order.
    """
    if expected["boxes"].shape != found["boxes"].shape:
        return None
    if len(expected["boxes"]) == 0:
        return 0.0, 0.0
    distances = (expected["boxes"][:, None] - found["boxes"]).abs().amax(2)
    distances[expected["labels"][:, None] != found["labels"]] = torch.inf
    box_differences, partners = distances.min(1)
    score_differences = (expected["scores"] - found["scores"][partners]).abs()
    alike = (
        len(partners.unique()) == len(partners)
        and box_differences.max() <= MAX_BOX_DIFFERENCE_PIXELS
        and score_differences.max() <= MAX_SCORE_DIFFERENCE
    )
    return (box_differences.max().item(), score_differences.max().item()) if alike else None


def compare(expected: list[Detections], found: list[Detections], milliseconds: float) -> Result:
    pairs = zip(expected, found, strict=True)
    differences = [pair for one, other in pairs if (pair := find_differences(one, other)) is not None]
    return Result(
        milliseconds,
        num_detections=sum(len(detections["boxes"]) for detections in found),
        num_images_alike=len(differences),
        box_difference_pixels=max((boxes for boxes, _ in differences), default=0.0),
        score_difference=max((scores for _, scores in differences), default=0.0),
    )


def make_table(results: dict[str, Result], num_images: int) -> str:
    rows = [["runtime", "ms per image", "detections", "images as eager", "box difference (px)", "score difference"]]
    rows.append(["---"] * len(rows[0]))
    for name, result in results.items():
        alike = f"{result.num_images_alike} of {num_images}"
        differences = [f"{result.box_difference_pixels:.1e}", f"{result.score_difference:.1e}"]
        rows.append([name, f"{result.milliseconds_per_image:.1f}", str(result.num_detections), alike, *differences])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of the detector, as faster_rcnn.py writes it")
    parser.add_argument("--out", type=Path, default=Path("served"), help="directory of the results (%(default)s)")
    parser.add_argument("--images", type=int, default=100, help="how many held-out images to detect in (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the images (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each runtime (%(default)s)")
    parser.add_argument("--json", type=Path, help="where to save the results")
    arguments = parser.parse_args(argv)
    if arguments.checkpoint is None or not arguments.checkpoint.exists():
        parser.error(
            f"--checkpoint: got {arguments.checkpoint}, expected a file that `{TRAINING}` makes in half an hour"
        )
    return arguments


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    # Hides what torch and torchvision say of their own code, in exports of this and of any other detector.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", "The tensor attributes .*cell_anchors")
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    dataset = Shapes(arguments.images, train=False, size=IMAGE_SIZE, seed=arguments.seed)
    images = [image for image, _ in tqdm(dataset, "drawing", unit="image")]

    detector = load_detector(arguments.checkpoint)
    runtimes = open_runtimes(detector, arguments.out, arguments.threads)
    found, results = {}, {}
    for name, runtime in runtimes.items():
        found[name], milliseconds = detect(runtime, images, name)
        results[name] = compare(found["eager"], found[name], milliseconds)
    drawn = slice(NUM_DRAWN_IMAGES)
    draw_detections(images[drawn], found["ONNX Runtime"][drawn], arguments.out / "detections.jpg")
    print(make_table(results, len(images)))
    if arguments.json:
        modules = [roipool, torch, torchvision, onnxruntime, openvino]
        report = {
            "images": len(images),
            "threads": arguments.threads,
            "results": {name: asdict(result) for name, result in results.items()},
            "versions": {module.__name__: module.__version__ for module in modules},
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if differing := [name for name, result in results.items() if result.num_images_alike < len(images)]:
        raise SystemExit(f"other detections than eager PyTorch's: {', '.join(differing)}")


if __name__ == "__main__":
    main()
