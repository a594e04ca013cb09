"""roipool's layers in the place of torchvision's."""

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import roipool

NAMES = ["0", "1", "2", "3"]


def make_boxes(num_boxes: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    corners = torch.rand(num_boxes, 2, 2, generator=generator) ** 2 * torch.tensor([width, height])
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


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

    def max_pool(input, rois, output_size, spatial_scale, sampling_ratio):
        return torchvision.ops.roi_pool(input, rois, output_size, spatial_scale)

    monkeypatch.setattr(torchvision.ops.poolers, "roi_align", max_pool)
    expected = torchvision.ops.MultiScaleRoIAlign(NAMES, output_size, 2)(features, boxes, image_shapes)
    actual = roipool.MultiScaleRoIPool(NAMES, output_size)(features, boxes, image_shapes)
    assert torch.equal(actual, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("channels_last", [False, True])
def test_in_faster_rcnn(channels_last):
    """Dropped into torchvision's model: it trains, and detects, through our layer."""
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4, min_size=128, max_size=160)
    pool = model.roi_heads.box_roi_pool = roipool.MultiScaleRoIPool(NAMES, output_size=7)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    shapes = []
    pool.register_forward_hook(lambda module, arguments, output: shapes.append(output.shape))
    images = [torch.rand(3, 128, 160), torch.rand(3, 100, 128)]
    targets = [{"boxes": torch.tensor([[10.0, 10, 60, 90]]), "labels": torch.tensor([1 + i])} for i in range(2)]

    losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad is not None for parameter in model.backbone.fpn.parameters())

    with torch.no_grad():
        detections = model.eval()(images)
    assert [sorted(detection) for detection in detections] == [["boxes", "labels", "scores"]] * 2
    assert len(shapes) == 2
    assert all(shape[1:] == (256, 7, 7) for shape in shapes)
