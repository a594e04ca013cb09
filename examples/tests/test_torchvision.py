"""roipool's layers in the place of torchvision's."""

import io

import onnxruntime
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import get_graph_node_names
from torchvision.transforms.v2.functional import convert_bounding_box_format
from torchvision.tv_tensors import BoundingBoxes, Image, set_return_type

import roipool

NAMES = ["0", "1", "2", "3"]


def make_boxes(num_boxes: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    corners = torch.rand(num_boxes, 2, 2, generator=generator) ** 2 * torch.tensor([width, height])
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


def max_pool(input: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int):
    """Stands in for roi_align in torchvision's MultiScaleRoIAlign."""
    return torchvision.ops.roi_pool(input, rois, output_size, spatial_scale)


@pytest.mark.parametrize("output_size", [7, (5, 3)])
@pytest.mark.parametrize("image_shapes", [[(256, 320)], [(800, 1333), (640, 1000)], [(333, 500), (500, 375)]])
def test_multiscale_pool_is_the_loop_of_torchvision(monkeypatch, image_shapes, output_size):
    """MultiScaleRoIAlign, with max pooling instead of roi_align within it, gives the same bits."""
    generator = torch.Generator().manual_seed(0)
    height, width = (32 * -(-max(sides) // 32) for sides in zip(*image_shapes, strict=True))  # padded, as models do
    shape = (len(image_shapes), 20)
    features = {
        name: torch.randn(*shape, height >> level, width >> level, generator=generator)
        for level, name in enumerate(NAMES, start=2)
    }
    features["pool"] = features["3"][:, :, ::2, ::2]  # which is not pooled from
    boxes = [make_boxes(200, *shape, generator) for shape in image_shapes]

    monkeypatch.setattr(torchvision.ops.poolers, "roi_align", max_pool)
    expected = torchvision.ops.MultiScaleRoIAlign(NAMES, output_size, 2)(features, boxes, image_shapes)
    actual = roipool.MultiScaleRoIPool(NAMES, output_size)(features, boxes, image_shapes)
    assert torch.equal(actual, expected)


def make_model(detector: type[FasterRCNN]) -> FasterRCNN:
    """A small one with random weights, the same ones in every call."""
    torch.manual_seed(0)
    channels = [64, 128, 256, 512]
    layers = {f"layer{1 + level}": name for level, name in enumerate(NAMES)}
    backbone = BackboneWithFPN(resnet18(), layers, channels, out_channels=32)
    counts = {"rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 50, "box_detections_per_img": 2}
    model = detector(backbone, num_classes=2, min_size=96, max_size=128, **counts)
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 8
    return model


def make_targets() -> list[dict[str, Tensor]]:
    """For two images, what each of the detectors learns from."""
    boxes = torch.tensor([[10.0, 10, 60, 90], [20, 30, 90, 80]])
    masks = torch.zeros(2, 96, 128, dtype=torch.uint8)
    masks[0, 10:91, 10:61] = 1
    masks[1, 30:81, 20:91] = 1
    keypoints = torch.stack([boxes[:, :2], boxes[:, 2:]], 1).repeat_interleave(torch.tensor([9, 8]), 1)
    keypoints = torch.cat([keypoints, torch.ones(2, 17, 1)], 2)
    target = {"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": masks, "keypoints": keypoints}
    return [target, target]


def train_and_detect(model: FasterRCNN) -> tuple[dict[str, Tensor], list[Tensor], list[dict[str, Tensor]]]:
    """Returns losses, gradients and detections."""
    images = list(torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)  # for the regions that are drawn
    losses = model.train()(images, make_targets())
    sum(losses.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    with torch.no_grad():
        return losses, gradients, model.eval()(images)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("detector", "pools", "channels_last"),
    [
        (FasterRCNN, {"box_roi_pool": (7, 7)}, False),
        (FasterRCNN, {"box_roi_pool": (7, 7)}, True),
        (MaskRCNN, {"box_roi_pool": (7, 7), "mask_roi_pool": (14, 14)}, False),
        (KeypointRCNN, {"box_roi_pool": (7, 7), "keypoint_roi_pool": (14, 14)}, False),
    ],
)
def test_in_detectors(monkeypatch, detector, pools, channels_last):
    """Dropped into torchvision's models, as docs/guides/torchvision.md shows it: they train and detect through our
    layer, with the bits of torchvision's pooler of maxima."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = make_model(detector).to(memory_format=memory_format)
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in pools}
    for name in ["box_roi_pool", "mask_roi_pool", "keypoint_roi_pool"]:
        pool = getattr(model.roi_heads, name, None)
        if pool is not None:
            pool = roipool.MultiScaleRoIPool(pool.featmap_names, pool.output_size)
            pool.register_forward_hook(lambda module, _, output, name=name: shapes[name].append(tuple(output.shape)))
            setattr(model.roi_heads, name, pool)
    losses, gradients, detections = train_and_detect(model)
    assert all(loss.isfinite() for loss in losses.values())
    assert all(gradient is not None for gradient in gradients)
    for name, output_size in pools.items():
        assert [shape[1:] for shape in shapes[name]] == [(32, *output_size)] * 2, name  # in training and inference

    monkeypatch.setattr(torchvision.ops.poolers, "roi_align", max_pool)
    expected_losses, expected_gradients, expected_detections = train_and_detect(
        make_model(detector).to(memory_format=memory_format)
    )
    assert sum(len(detection["boxes"]) for detection in expected_detections) > 0
    exact = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(losses, expected_losses, **exact)
    torch.testing.assert_close(gradients, expected_gradients, **exact)
    torch.testing.assert_close(detections, expected_detections, **exact)


def test_constructors_take_no_other_pooler():
    """Why the examples put it in afterwards; if this fails, they can be shortened."""
    backbone = make_model(FasterRCNN).backbone
    with pytest.raises(TypeError, match="box_roi_pool should be of type MultiScaleRoIAlign"):
        FasterRCNN(backbone, num_classes=2, box_roi_pool=roipool.MultiScaleRoIPool(NAMES, output_size=7))


@pytest.mark.parametrize("call", [roipool.roi_pool, torchvision.ops.roi_pool])
def test_tv_tensors(call):
    """Images and boxes of torchvision's transforms, whose classes do not know each other."""
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[0.0, 0, 3, 3], [2, 1, 7, 5]])
    boxes = BoundingBoxes(corners, format="XYXY", canvas_size=(8, 8))
    expected = roipool.reference.roi_pool(image, [corners], 2)
    assert torch.equal(call(Image(image), [boxes], 2), expected)
    pool = roipool.MultiScaleRoIPool(["0"], 2, scales=[1.0])
    assert torch.equal(pool({"0": Image(image)}, [boxes], [(8, 8)]), expected)
    with set_return_type("TVTensor"):
        assert torch.equal(roipool.roi_pool(Image(image), [boxes], 2), expected)
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    assert torch.equal(compiled(Image(image), [boxes], 2), expected)


@pytest.mark.parametrize("box_format", ["XYWH", "CXCYWH"])
def test_boxes_of_other_formats_are_refused_until_they_are_converted(box_format):
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    boxes = BoundingBoxes([[2.0, 1, 2, 3]], format=box_format, canvas_size=(8, 8))
    for pool in [roipool.roi_pool, lambda x, boxes, size: roipool.multiscale_roi_pool([x], boxes, size, [1.0])]:
        with pytest.raises(ValueError, match=rf"boxes\[0\] .* got BoundingBoxes of format {box_format}:"):
            pool(image, [boxes], 2)
    corners = convert_bounding_box_format(boxes, new_format="XYXY")
    assert torch.equal(roipool.roi_pool(image, [corners], 2), torchvision.ops.roi_pool(image, [corners], 2))


def test_names_of_nodes():
    """torchvision's feature extraction traces with torch.fx."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = roipool.RoIPool(3, 0.5)

        def forward(self, features: Tensor, rois: Tensor) -> Tensor:
            return self.pool(features, rois=rois).flatten(1)

    assert get_graph_node_names(Head())[0][-2:] == ["pool.roi_pool", "flatten"]
    assert get_graph_node_names(roipool.RoIPool(3, 0.5))[0][-1] == "roi_pool"


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("image_size", [(96, 128), (128, 96)])
def test_unchanged_detector_through_the_exporter_of_traces(image_size):
    """deploy.py goes through the other exporter, which does not take torchvision's model as it is."""
    model = make_model(FasterRCNN).eval()
    model.roi_heads.box_roi_pool = roipool.MultiScaleRoIPool(NAMES, output_size=7)
    model.roi_heads.score_thresh = 0.0
    file = io.BytesIO()
    torch.onnx.export(model, ([torch.rand(3, *image_size)],), file, dynamo=False, opset_version=17)
    session = onnxruntime.InferenceSession(file.getvalue())
    image = torch.rand(3, *image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (expected,) = model([image])
    boxes, labels, scores = map(torch.from_numpy, session.run(None, {session.get_inputs()[0].name: image.numpy()}))
    assert len(expected["boxes"]) > 0
    assert torch.equal(labels, expected["labels"])
    torch.testing.assert_close(boxes, expected["boxes"], rtol=0, atol=1e-2)
    torch.testing.assert_close(scores, expected["scores"], rtol=0, atol=1e-4)
