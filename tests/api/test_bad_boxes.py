"""set_detect_bad_boxes() finds the first bad region, only while it is on."""

import os
import subprocess
import sys

import pytest
import torch
from support import features

import roipool

X = features((2, 3, 8, 6), torch.float32, seed=0)
GOOD = [0.0, 1.0, 1.0, 4.0, 5.0]
BAD = {
    (2.0, 1.0, 1.0, 4.0, 5.0): "be of an image, with batch_index 0 to 1, got [2, 1, 1, 4, 5]",
    (-1.0, 1.0, 1.0, 4.0, 5.0): "be of an image, with batch_index 0 to 1, got [-1, 1, 1, 4, 5]",
    (float("nan"), 1.0, 1.0, 4.0, 5.0): "be of an image, with batch_index 0 to 1, got [nan, 1, 1, 4, 5]",
    (1.0, 1.0, float("inf"), 4.0, 5.0): "have finite coordinates, got [1, 1, inf, 4, 5]",
    (1.0, float("nan"), 1.0, 4.0, 5.0): "have finite coordinates, got [1, nan, 1, 4, 5]",
    (1.0, 4.5, 1.0, 4.0, 5.0): "have x1 <= x2 and y1 <= y2, got [1, 4.5, 1, 4, 5]",
    (1.0, 1.0, 6.0, 4.0, 5.0): "have x1 <= x2 and y1 <= y2, got [1, 1, 6, 4, 5]",
}

CALLS = {
    "roi_pool": lambda x, boxes: roipool.roi_pool(x, boxes, 2),
    "with argmax": lambda x, boxes: roipool.roi_pool(x, boxes, 2, return_argmax=True),
    "out": lambda x, boxes: roipool.roi_pool(x, boxes, 2, out=x.new_empty(0)),
    "multiscale_roi_pool": lambda x, boxes: roipool.multiscale_roi_pool([x, x], boxes, 2, [1, 0.5]),
    "RoIPool": lambda x, boxes: roipool.RoIPool(2)(x, boxes),
    "MultiScaleRoIPool": lambda x, boxes: roipool.MultiScaleRoIPool(["0"], 2, scales=[1])({"0": x}, boxes, []),
}


def refuses(call, *arguments) -> str | None:
    """Returns the words of a refusal, or None."""
    try:
        call(*arguments)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("row", BAD)
def test_the_first_bad_region_is_named(device, row, dtype):
    rois = torch.tensor([GOOD, GOOD, row, [9.0] * 5], dtype=dtype, device=device)
    with roipool.set_detect_bad_boxes(True):
        assert refuses(CALLS["roi_pool"], X.to(device), rois) == f"boxes[2] must {BAD[row]}"
    assert refuses(CALLS["roi_pool"], X.to(device), rois) is None


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_looked_at(call):
    rois = torch.tensor([GOOD, [1, float("nan"), 1, 4, 5]])
    with roipool.set_detect_bad_boxes(True):
        assert refuses(CALLS[call], X, rois) == "boxes[1] must have finite coordinates, got [1, nan, 1, 4, 5]"
        assert refuses(CALLS[call], X, rois[:1]) is None
        assert refuses(CALLS[call], X, rois[:0]) is None


def test_the_mxnet_call_is_looked_at():
    with roipool.set_detect_bad_boxes(True), pytest.raises(ValueError, match=r"^boxes\[0\] must be of an image"):
        roipool.mxnet.roi_pooling(X, torch.tensor([[2.0, 0, 0, 1, 1]]), (2, 2), 1.0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("layout", [None, torch.strided, torch.jagged])
def test_regions_of_lists_are_named_by_their_image(layout):
    boxes = [torch.tensor([GOOD[1:], GOOD[1:]]), torch.tensor([GOOD[1:], [3.0, 1, 2, 5]])]
    if layout is not None:
        boxes = torch.nested.nested_tensor(boxes, layout=layout)
    with roipool.set_detect_bad_boxes(True):
        message = refuses(CALLS["roi_pool"], X, boxes)
    assert message == "boxes[1][1] must have x1 <= x2 and y1 <= y2, got [3, 1, 2, 5]"


def test_a_replica_that_is_handed_the_indices_of_the_whole_batch():
    """DataParallel splits features and boxes (K, 5) by rows."""
    rois = torch.tensor([[0.0, *GOOD[1:]], [0.0, *GOOD[1:]], [1.0, *GOOD[1:]], [1.0, *GOOD[1:]]])
    with roipool.set_detect_bad_boxes(True):
        for x, rois_of_replica, message in [
            (X[:1], rois[:2], None),
            (X[1:], rois[2:], "boxes[0] must be of an image, with batch_index 0 to 0, got [1, 1, 1, 4, 5]"),
            (X[:0], rois[:2], "boxes[0] must be of an image, of which there are none, got [0, 1, 1, 4, 5]"),
        ]:
            assert refuses(CALLS["roi_pool"], x, rois_of_replica) == message


def test_integer_boxes_and_whole_fractions_of_an_index_are_good():
    with roipool.set_detect_bad_boxes(True):
        assert refuses(CALLS["roi_pool"], X, torch.tensor([GOOD]).long()) is None
        assert refuses(CALLS["roi_pool"], X, torch.tensor([[1.75, *GOOD[1:]], [-0.5, *GOOD[1:]]])) is None
        assert refuses(CALLS["roi_pool"], X, torch.tensor([[0.0, 3, 3, 3, 3]])) is None


def test_it_is_a_function_and_a_context_manager():
    rois = torch.tensor([[2.0, 0, 0, 1, 1]])

    def is_on() -> bool:
        return refuses(CALLS["roi_pool"], X, rois) is not None

    assert not is_on()
    with roipool.set_detect_bad_boxes(True):
        assert is_on()
        with roipool.set_detect_bad_boxes(False):
            assert not is_on()
        assert is_on()
    assert not is_on()
    roipool.set_detect_bad_boxes(True)
    assert is_on()
    roipool.set_detect_bad_boxes(False)
    assert not is_on()
    with pytest.raises(TypeError, match="mode must be a bool, got int"):
        roipool.set_detect_bad_boxes(1)


def test_other_refusals_come_as_they_do_without_it():
    with roipool.set_detect_bad_boxes(True):
        assert "input must be a 4-D tensor" in refuses(CALLS["roi_pool"], X[0], torch.zeros(2, 5))


class Pool(torch.nn.Module):
    def forward(self, x, rois):
        return roipool.roi_pool(x, rois, 2)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_boxes_without_values_are_not_looked_at():
    """Nor does the compiler break its graph for them."""
    rois = torch.tensor([[2.0, 0, 0, 1, 1]])
    torch._dynamo.reset()
    with roipool.set_detect_bad_boxes(True):
        compiled = torch.compile(CALLS["roi_pool"], fullgraph=True, backend="eager")
        assert refuses(compiled, X, rois) is None
        assert refuses(CALLS["roi_pool"], X.to("meta"), rois.to("meta")) is None
        traced = torch.jit.trace(CALLS["roi_pool"], (X, rois), check_trace=False)
        assert refuses(traced, X, rois) is None
        assert refuses(torch.export.export, Pool(), (X, rois)) is None
        assert refuses(torch.vmap(CALLS["roi_pool"]), X[None], rois[None]) is None
        with torch._subclasses.FakeTensorMode() as mode:
            assert refuses(CALLS["roi_pool"], mode.from_tensor(X), mode.from_tensor(rois)) is None


def test_a_captured_cuda_graph_is_not_looked_at(cuda):
    x, rois = X.to(cuda), torch.tensor([[2.0, 0, 0, 1, 1]], device=cuda)
    CALLS["roi_pool"](x, rois)
    graph = torch.cuda.CUDAGraph()
    with roipool.set_detect_bad_boxes(True), torch.cuda.graph(graph):
        assert refuses(CALLS["roi_pool"], x, rois) is None


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("true", True), ("0", False), ("False", False), ("", False), (None, False)]
)
def test_the_environment_variable(value, expected):
    environment = {name: other for name, other in os.environ.items() if name != "ROIPOOL_DETECT_BAD_BOXES"}
    if value is not None:
        environment["ROIPOOL_DETECT_BAD_BOXES"] = value
    program = "import torch, roipool; roipool.roi_pool(torch.zeros(1, 1, 4, 4), torch.tensor([[2.0, 0, 0, 1, 1]]), 2)"
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ("ValueError: boxes[0] must be of an image" in run.stderr) == expected
    assert (run.returncode == 0) != expected
