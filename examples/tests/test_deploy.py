"""deploy.py: what the exported detector finds in each runtime, and how it tells detections apart."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import deploy
import faster_rcnn
import shapes

pytestmark = [
    # torch's and torchvision's, about their own code
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attributes .*cell_anchors"),
    # torchvision's, about pictures of detectors that have learned nothing
    pytest.mark.filterwarnings("ignore:boxes doesn't contain any box"),
]

NUM_IMAGES = 6
RUNTIMES = ["torch.compile", "AOTInductor", "ONNX Runtime", "OpenVINO"]


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    return [image for image, _ in shapes.Shapes(NUM_IMAGES, train=False, size=faster_rcnn.IMAGE_SIZE)]


@pytest.fixture(scope="module")
def detector(images: list[torch.Tensor]) -> deploy.Detector:
    """Has random weights, and a threshold that leaves no detection in one of the images."""
    torch.manual_seed(0)
    detector = deploy.prepare_detector(faster_rcnn.make_model("roipool"))
    scores = [detector(image)[2] for image in images]
    lowest = min(scores_of_image.max() for scores_of_image in scores)
    above = torch.cat(scores)
    detector.model.roi_heads.score_thresh = ((lowest + above[above > lowest].min()) / 2).item()
    return detector


@pytest.fixture(scope="module")
def runtimes(detector: deploy.Detector, tmp_path_factory: pytest.TempPathFactory) -> dict[str, deploy.Runtime]:
    with torch.inference_mode():
        return deploy.open_runtimes(detector, tmp_path_factory.mktemp("served"), torch.get_num_threads())


@pytest.mark.parametrize("name", RUNTIMES)
@torch.inference_mode()
def test_runtimes_find_what_eager_finds(runtimes: dict[str, deploy.Runtime], images: list[torch.Tensor], name: str):
    num_detections = set()
    for image in images:
        expected = runtimes["eager"](image)
        assert deploy.find_differences(expected, runtimes[name](image)) is not None
        num_detections.add(len(expected["boxes"]))
    assert min(num_detections) == 0
    assert max(num_detections) > 1


def test_all_runtimes_are_tested(runtimes: dict[str, deploy.Runtime]):
    assert list(runtimes) == ["eager", *RUNTIMES]


@pytest.fixture
def detections() -> deploy.Detections:
    return {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 60, 80, 90]]),
        "labels": torch.tensor([1, 2, 1]),
        "scores": torch.tensor([0.9, 0.8, 0.8]),
    }


def test_order_does_not_matter(detections: deploy.Detections):
    order = torch.tensor([2, 0, 1])
    reordered = {name: tensor[order] for name, tensor in detections.items()}
    assert deploy.find_differences(detections, reordered) == (0, 0)


def test_differences_are_the_largest(detections: deploy.Detections):
    other = {**detections, "boxes": detections["boxes"].clone(), "scores": detections["scores"].clone()}
    other["boxes"][2, 3] += 0.005
    other["scores"][1] -= 5e-5
    assert deploy.find_differences(detections, other) == pytest.approx((0.005, 5e-5), rel=0.01)


@pytest.mark.parametrize(
    ("name", "index", "value"), [("boxes", (2, 0), 50.1), ("labels", 0, 2), ("labels", 2, 3), ("scores", 0, 0.89)]
)
def test_other_detections_are_found_out(detections: deploy.Detections, name: str, index: tuple, value: float):
    other = {**detections, name: detections[name].clone()}
    other[name][index] = value
    assert deploy.find_differences(detections, other) is None


def test_missing_detection_is_found_out(detections: deploy.Detections):
    other = {name: tensor[:2] for name, tensor in detections.items()}
    assert deploy.find_differences(detections, other) is None


def test_missing_checkpoint_is_explained(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        deploy.main([])
    assert deploy.TRAINING in capsys.readouterr().err


@pytest.mark.parametrize("fails", [False, True])
def test_program_fails_where_a_runtime_does(
    detector: deploy.Detector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool
):
    def eager(image: torch.Tensor) -> deploy.Detections:
        return deploy.name_outputs(detector(image))

    def missing_one(image: torch.Tensor) -> deploy.Detections:
        return {name: tensor[1:] for name, tensor in eager(image).items()}

    served = missing_one if fails else eager
    monkeypatch.setattr(deploy, "open_runtimes", lambda *_: {"eager": eager, "ONNX Runtime": served})
    torch.save({"model": detector.model.state_dict()}, tmp_path / "state.pt")
    command = ["--checkpoint", tmp_path / "state.pt", "--out", tmp_path, "--images", 3, "--json", tmp_path / "out.json"]
    if fails:
        with pytest.raises(SystemExit, match="ONNX Runtime"):
            deploy.main(list(map(str, command)))
    else:
        deploy.main(list(map(str, command)))
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert results["eager"]["num_images_alike"] == 3
    assert (results["ONNX Runtime"]["num_images_alike"] == 3) is not fails
    assert (tmp_path / "detections.jpg").stat().st_size > 10_000
