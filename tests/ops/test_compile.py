"""torch.compile, torch.export and AOTInductor give the bits of eager mode, without graph breaks."""

import io
import warnings

import pytest
import torch
from support import DTYPES, assert_same_bits, channels_last, contiguous, features, random_rois
from torch._dynamo.testing import CompileCounter
from torch.export import Dim, export

import roipool

# Lists (N, K, H, W). The first sizes differ from one another, from 1 and from the 5 columns of rois: the compiler takes
# sizes that are equal for one size, and a size of 1 for a constant.
SIZES = [(2, 11, 20, 22), (3, 7, 18, 25), (2, 9, 30, 21), (4, 5, 40, 41)]


class Pool(torch.nn.Module):
    """Has the layer between others, as a model has."""

    def __init__(self):
        super().__init__()
        self.pool = roipool.RoIPool((3, 2), 0.5)

    def forward(self, x, boxes):
        return self.pool(x * 2, boxes).relu() + 1


def inputs(n, k, h, w, device, dtype=torch.float32, layout=contiguous, channels=6):
    x = layout(features((n, channels, h, w), dtype, seed=k).to(device))
    return x, random_rois(k, n, 2.0 * h, 2.0 * w, seed=h).float().to(device)


def lists(n, k, h, w, device):
    x, rois = inputs(n, k, h, w, device)
    return x, [rois[i % k :, 1:] for i in range(n)]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    with warnings.catch_warnings():  # PyTorch itself warns when the compiler is first used
        warnings.filterwarnings("ignore", message=".*(torch.jit|isinstance.treespec)")
        yield


def value_and_gradient(function, x, boxes):
    x = x.clone().requires_grad_()
    output = function(x, boxes)
    (grad,) = torch.autograd.grad(output, x, features(output.shape, output.dtype, seed=1).to(x.device))
    return output.detach(), grad


@pytest.mark.parametrize(
    ("backend", "dynamic"),
    [
        ("aot_eager", False),
        ("aot_eager", True),
        ("inductor", None),  # static at first, then dynamic
        pytest.param("inductor", False, marks=pytest.mark.slow),
        pytest.param("inductor", True, marks=pytest.mark.slow),
    ],
)
def test_module(device, backend, dynamic):
    model = Pool()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    for sizes in SIZES[:3]:
        x, rois = inputs(*sizes, device)
        for actual, expected in zip(
            value_and_gradient(compiled, x, rois), value_and_gradient(model, x, rois), strict=True
        ):
            assert_same_bits(actual, expected)
            assert actual.stride() == expected.stride()
        with torch.no_grad():
            assert_same_bits(compiled(x, rois), model(x, rois))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, *[pytest.param(dtype, marks=pytest.mark.slow) for dtype in DTYPES[1:4:2]]]
)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_function_in_every_dtype_and_layout(device, layout, dtype):
    def pool(x, rois):
        output, argmax = roipool.roi_pool(x, rois, 2, 0.5, return_argmax=True)
        return torch.cat([output, roipool.roi_pool(x, rois, 2, 0.5), argmax])

    compiled = torch.compile(pool, backend="inductor", fullgraph=True)
    x, rois = inputs(*SIZES[0], device, dtype, layout)
    for actual, expected in zip(value_and_gradient(compiled, x, rois), value_and_gradient(pool, x, rois), strict=True):
        assert_same_bits(actual, expected)
        assert actual.stride() == expected.stride()


@pytest.mark.parametrize("boxes_of", [inputs, lists])
def test_sizes_may_change_without_recompiling(device, boxes_of):
    counter = CompileCounter()
    model = Pool()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for n, *sizes in SIZES:
        arguments = boxes_of(n if boxes_of is inputs else 2, *sizes, device)
        assert_same_bits(compiled(*arguments), model(*arguments))
    assert counter.frame_count == 1


def test_sizes_that_change_recompile_once_without_being_told(device):
    counter = CompileCounter()
    model = Pool()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for i, sizes in enumerate(SIZES[:4]):
        n, k, h, w = sizes
        arguments = inputs(n + 2 * i, k + 20 * i, h, w, device)
        assert_same_bits(compiled(*arguments), model(*arguments))
    assert counter.frame_count == 2


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_no_region_left_over(device, backend):
    """The strides that the compiler counts on hold where the number of regions depends on data, and is 0."""
    x, rois = inputs(3, 11, 20, 22, device, layout=channels_last)

    def pool(x, rois, chosen):
        return roipool.roi_pool(x, rois[chosen], 2, 0.5) * 2

    compiled = torch.compile(pool, backend=backend, fullgraph=True)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for count in [11, 0, 4]:
            chosen = torch.arange(11, device=device) < count
            for actual, expected in zip(
                value_and_gradient(lambda x, rois, chosen=chosen: compiled(x, rois, chosen), x, rois),
                value_and_gradient(lambda x, rois, chosen=chosen: pool(x, rois, chosen), x, rois),
                strict=True,
            ):
                assert_same_bits(actual, expected)
                assert actual.stride() == expected.stride()


def test_compiled_autograd(device):
    x, rois = inputs(*SIZES[0], device)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(roipool.roi_pool(x, rois, 2).sum(), x)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        roipool.roi_pool(x, rois, 2).sum().backward()
    assert_same_bits(x.grad, expected)


def test_transforms_of_torch_func(device):
    x, rois = inputs(*SIZES[0], device)

    def per_sample_gradients(xs):
        return torch.vmap(torch.func.grad(lambda x: (roipool.roi_pool(x, rois, 2, 0.5) ** 2).sum()))(xs)

    xs = torch.stack([x, x + 1, -x])
    compiled = torch.compile(per_sample_gradients, backend="aot_eager", fullgraph=True)
    assert_same_bits(compiled(xs), per_sample_gradients(xs))


def test_an_error_in_a_region_that_may_break_is_the_same_and_no_warning(device):
    compiled = torch.compile(roipool.roi_pool, backend="eager")
    x, rois = inputs(*SIZES[0], device)
    with pytest.raises(Exception, match="spatial_scale must be finite and greater than 0, got -1"):
        compiled(x.requires_grad_(), rois, 2, -1.0)


# ---- Export.


def dynamic_shapes(boxes):
    images = {2: Dim("H"), 3: Dim("W")}
    if isinstance(boxes, list):
        return images, [{0: Dim(f"L{i}")} for i in range(len(boxes))]
    return {0: Dim("N"), **images}, {0: Dim("K")}


@pytest.mark.parametrize("boxes_of", [inputs, lists])
@pytest.mark.parametrize("strict", [True, False])
def test_export(device, strict, boxes_of):
    model = Pool()
    arguments = boxes_of(*SIZES[0], device)
    program = export(model, arguments, dynamic_shapes=dynamic_shapes(arguments[1]), strict=strict)
    ours = [str(node.target) for node in program.graph.nodes if "roipool" in str(node.target)]
    assert ours == ["roipool.roi_pool.default"]

    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for n, *sizes in SIZES:
        arguments = boxes_of(n if boxes_of is inputs else 2, *sizes, device)
        assert_same_bits(loaded(*arguments), model(*arguments))


@pytest.mark.parametrize("dynamic", [{2: Dim("H")}, {3: Dim("W")}, {0: Dim("N")}])
@pytest.mark.parametrize("strict", [True, False])
def test_export_with_one_dynamic_size(device, strict, dynamic):
    model = Pool()
    program = export(model, inputs(*SIZES[0], device), dynamic_shapes=(dynamic, None), strict=strict)
    sizes = [27 if i in dynamic else size for i, size in enumerate([2, 6, 20, 22])]
    x, rois = features(sizes, torch.float32, seed=0).to(device), inputs(*SIZES[0], device)[1]
    assert_same_bits(program.module()(x, rois), model(x, rois))


@pytest.mark.slow
def test_aot_inductor(device, tmp_path):
    model = Pool()
    arguments = inputs(*SIZES[0], device)
    program = export(model, arguments, dynamic_shapes=dynamic_shapes(arguments[1]))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "pool.pt2"))
    loaded = torch._inductor.aoti_load_package(path)
    for sizes in SIZES:
        arguments = inputs(*sizes, device)
        assert_same_bits(loaded(*arguments), model(*arguments))
