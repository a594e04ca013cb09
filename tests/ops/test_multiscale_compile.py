"""torch.compile and torch.export of feature pyramids."""

import warnings

import pytest
import torch
from pyramid import NAMES
from support import (
    assert_same_bits,
    features,
    random_rois,
    to_device,
)
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim, export

import roipool

ops = torch.ops.roipool


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(torch.jit|isinstance.treespec)")
        yield


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = roipool.MultiScaleRoIPool(NAMES, (3, 2))

    def forward(self, features, boxes, image_shapes):
        return self.pool({name: x * 2 for name, x in features.items()}, boxes, image_shapes).relu() + 1


def head_inputs(height, width, num_rois, device):
    maps = {str(i): features((2, 6, height >> i, width >> i), torch.float32, seed=i) for i in range(4)}
    rois = random_rois(2 * num_rois + 1, 2, 4 * height, 4 * width, seed=height).float()
    boxes = [rois[:num_rois, 1:], rois[num_rois:, 1:]]
    shapes = [(4 * height, 4 * width)] * 2
    return {name: x.to(device) for name, x in maps.items()}, to_device(boxes, device), shapes


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    ("backend_name", "dynamic"),
    [
        ("aot_eager", False),
        ("aot_eager", None),  # static at first, then dynamic
        pytest.param("inductor", None, marks=pytest.mark.slow),
    ],
)
def test_compiles_without_a_graph_break(device, backend_name, dynamic):
    head = Head()
    compiled = torch.compile(head, fullgraph=True, dynamic=dynamic, backend=backend_name)
    for height, width, num_rois in [(64, 80, 9), (72, 96, 7)]:
        results = []
        for call in [head, compiled]:
            maps, boxes, shapes = head_inputs(height, width, num_rois, device)
            maps = {name: x.requires_grad_() for name, x in maps.items()}
            output = call(maps, boxes, shapes)
            grads = torch.autograd.grad(output, list(maps.values()), features(output.shape, output.dtype, 1).to(device))
            results.append([output.detach(), *grads])
        for actual, expected in zip(*results, strict=True):
            assert_same_bits(actual, expected)


@pytest.mark.usefixtures("fresh_compiler")
def test_dynamic_sizes_compile_once(device):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(Head(), fullgraph=True, dynamic=True, backend=counter)
    for sizes in [(64, 80, 11), (72, 96, 7), (104, 88, 17)]:
        arguments = head_inputs(*sizes, device)
        assert_same_bits(compiled(*arguments), Head()(*arguments))
    assert counter.frame_count == 1


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("strict", [False, True])
def test_export(device, strict):
    arguments = head_inputs(64, 80, 9, device)
    program = export(Head(), arguments, strict=strict)
    targets = [node.target for node in program.graph.nodes if "roipool" in str(node.target)]
    assert targets == [ops.multiscale_roi_pool.default]
    assert_same_bits(program.module()(*arguments), Head()(*arguments))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("strict", [False, True])
def test_export_with_dynamic_sizes(device, strict):
    """The images have one size, but their maps need not be a power of 2 smaller, as their padding varies."""

    class Fixed(Head):
        def forward(self, features, boxes):
            return super().forward(features, boxes, [(643, 320)] * 2)

    maps, boxes, _ = head_inputs(168, 80, 9, device)
    sizes = ({name: {2: Dim.AUTO, 3: Dim.AUTO} for name in maps}, [{0: Dim.AUTO}] * 2)
    program = export(Fixed(), (maps, boxes), dynamic_shapes=sizes, strict=strict).module()
    for height, width, num_rois in [(168, 80, 9), (161, 96, 7), (176, 88, 11)]:
        maps, boxes, _ = head_inputs(height, width, num_rois, device)
        assert_same_bits(program(maps, boxes), Fixed()(maps, boxes))
