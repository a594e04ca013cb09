"""Subclasses of Tensor that do not know each other, as torchvision's Image and BoundingBoxes; proxies of torch.fx."""

from enum import Enum

import pytest
import torch
from support import assert_same_bits, features
from torch import Tensor

import roipool
from roipool import reference

X = features((2, 3, 8, 6), torch.float32, seed=0)
ROIS = torch.tensor([[0.0, 0, 0, 4, 4], [0.0, 1, 2, 5, 6], [1.0, 2, 2, 5, 7]])
EXPECTED = reference.roi_pool(X, ROIS, 2)


class Image(Tensor):
    pass


class Boxes(Tensor):
    format: object


class Format(Enum):
    XYXY = "XYXY"
    XYWH = "XYWH"


def make_boxes(tensor: Tensor, box_format: object = Format.XYXY) -> Boxes:
    boxes = tensor.as_subclass(Boxes)
    boxes.format = box_format
    return boxes


CALLS = {
    "roi_pool": lambda x, boxes: roipool.roi_pool(x, boxes, 2),
    "RoIPool": lambda x, boxes: roipool.RoIPool(2)(x, boxes),
    "multiscale_roi_pool": lambda x, boxes: roipool.multiscale_roi_pool([x], boxes, 2, [1.0]),
    "MultiScaleRoIPool": lambda x, boxes: roipool.MultiScaleRoIPool(["0"], 2, scales=[1])({"0": x}, boxes, []),
}


@pytest.mark.parametrize("call", CALLS)
def test_boxes_of_another_class_than_the_maps(call):
    x = X.as_subclass(Image)
    for boxes in [
        ROIS.as_subclass(Boxes),
        [make_boxes(ROIS[:2, 1:]), make_boxes(ROIS[2:, 1:], "xyxy")],
        [ROIS[:2, 1:], make_boxes(ROIS[2:, 1:])],
    ]:
        output = CALLS[call](x, boxes)
        assert type(output) is Image
        assert_same_bits(output.as_subclass(Tensor), EXPECTED)


def test_gradients_through_classes_that_do_not_know_each_other():
    x = X.clone().requires_grad_()
    roipool.roi_pool(x.as_subclass(Image), ROIS.as_subclass(Boxes), 2).sum().backward()
    plain = X.clone().requires_grad_()
    roipool.roi_pool(plain, ROIS, 2).sum().backward()
    assert_same_bits(x.grad, plain.grad)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("x", [X, X.as_subclass(Image)], ids=["Tensor", "Image"])
def test_boxes_that_say_that_they_are_no_corners(call, x):
    boxes = [make_boxes(ROIS[:2, 1:]), make_boxes(ROIS[2:, 1:], Format.XYWH)]
    with pytest.raises(
        ValueError, match=r"^boxes\[1\] must hold corners, .*, got Boxes of format XYWH: .* converts XYWH"
    ):
        CALLS[call](x, boxes)


def test_maps_and_out_of_classes_that_do_not_know_each_other():
    """The result is a plain tensor then, but for out itself."""
    maps = [X.as_subclass(Image), X[:, :, ::2, ::2].as_subclass(Boxes)]
    plain = [map.as_subclass(Tensor) for map in maps]
    rois = ROIS * torch.tensor([1.0, 30, 30, 30, 30])
    output = roipool.multiscale_roi_pool(maps, rois, 2, [0.5, 0.25])
    assert type(output) is Tensor
    assert_same_bits(output, reference.multiscale_roi_pool(plain, rois, 2, [0.5, 0.25]))
    out = torch.empty_like(EXPECTED).as_subclass(Boxes)
    assert roipool.roi_pool(X.as_subclass(Image), ROIS, 2, out=out) is out
    assert_same_bits(out.as_subclass(Tensor), EXPECTED)


def test_errors_of_other_kinds_are_not_hidden():
    """Neither what is wrong with an argument, nor what a class that declines alone has to say."""

    class Declines(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return NotImplemented

    with pytest.raises(TypeError, match="output_size must be an int"):
        roipool.roi_pool(X.as_subclass(Image), ROIS.as_subclass(Boxes), "2")
    with pytest.raises(TypeError, match=r"no implementation found for 'roipool\.functional\.roi_pool'"):
        roipool.roi_pool(X.as_subclass(Declines), ROIS, 2)
    assert_same_bits(roipool.roi_pool(X, ROIS.as_subclass(Declines), 2), EXPECTED)  # the boxes are taken out of theirs


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("boxes", [ROIS, [ROIS[:2, 1:], ROIS[2:, 1:]]], ids=["rois", "list"])
def test_subclasses_under_the_compiler(call, boxes):
    torch._dynamo.reset()
    compiled = torch.compile(CALLS[call], fullgraph=True, backend="eager")
    wrapped = [part.as_subclass(Image) for part in boxes] if isinstance(boxes, list) else boxes.as_subclass(Image)
    for x, given in [(X.as_subclass(Image), boxes), (X, wrapped), (X.as_subclass(Image), wrapped)]:
        assert_same_bits(compiled(x, given).as_subclass(Tensor), EXPECTED)


@pytest.mark.parametrize("keyword", ["boxes", "rois"])
def test_fx_traces_the_layer(keyword):
    """By itself, where both names are proxies, and within a module that calls it by either name."""
    pool = roipool.RoIPool(2)
    assert_same_bits(torch.fx.symbolic_trace(pool)(X, **{keyword: ROIS}), EXPECTED)
    assert_same_bits(torch.fx.symbolic_trace(pool)(X, ROIS), EXPECTED)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = pool

        def forward(self, x, regions):
            return self.pool(x, **{keyword: regions}) + self.pool(x, regions)

    traced = torch.fx.symbolic_trace(Model())
    assert [node.target for node in traced.graph.nodes].count(roipool.roi_pool) == 2
    assert_same_bits(traced(X, ROIS), EXPECTED + EXPECTED)
