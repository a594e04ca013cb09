"""roipool.torchvision.accelerate() lets torchvision's operators run on roipool's kernels.

Most problems have a NaN among the features: roipool's kernels hand it on and torchvision's skip it, so that their
results tell which of them ran.
"""

import gc
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torchvision
from support import assert_same_bits, same_bits
from torch import Tensor, nn

import roipool
from roipool.reference import roi_pool_backward
from roipool.torchvision import accelerate

op = torch.ops.torchvision.roi_pool
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() and roipool._ops.cuda_is_loaded else [])]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZE, SCALE = (3, 2), 0.5  # of the output, and of the features

ROIS = torch.tensor(
    [[0.0, 0, 0, 20, 16], [1, 3, 2, 9, 13], [1, 16, 4, 40, 30], [0, -8, -9, 7, 6], [1, 12, 12, 2, 2], [0, 50, 0, 60, 9]]
)


def make_features(dtype: torch.dtype = torch.float32, with_nan: bool = True) -> Tensor:
    features = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    if with_nan:
        features[:, 1, 4, 3] = torch.nan
    return features


def pool_by_reference(features: Tensor, rois: Tensor = ROIS, scale: float = SCALE) -> tuple[Tensor, Tensor]:
    return roipool.reference.roi_pool(features.contiguous(), rois, SIZE, scale, return_argmax=True)


def draw_grads(shape: torch.Size, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def runs_on_roipool() -> bool:
    output = torchvision.ops.roi_pool(make_features(), ROIS, SIZE, SCALE)
    expected, _ = pool_by_reference(make_features())
    return same_bits(output, expected)


@pytest.fixture(autouse=True)
def _nothing_is_left():
    assert not runs_on_roipool()
    yield
    left = list(roipool.torchvision._in_force)
    for handle in left:
        handle.remove()
    assert not left
    assert not runs_on_roipool()


# ---- Values.

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "sliced": lambda x: x.repeat(1, 2, 1, 2)[:, 1:4, :, 5:16],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_are_those_of_the_reference(dtype, layout, mode, device):
    features, rois = LAYOUTS[layout](make_features(dtype)), ROIS.to(dtype)
    expected = pool_by_reference(features, rois)
    with accelerate(), mode():
        results = op(features.to(device), rois.to(device), SCALE, *SIZE)
    for result, value in zip(results, expected, strict=True):
        assert_same_bits(result, value)
        assert result.is_contiguous()  # as torchvision's are, whatever the features are


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0, 0.3, 0.0, -0.5])
def test_ordinary_data_gives_what_torchvision_does(dtype, scale):
    features, rois = make_features(dtype, with_nan=False).requires_grad_(), ROIS.to(dtype)
    grads = draw_grads(torch.Size([len(rois), 3, *SIZE]), dtype)

    def compute() -> list[Tensor]:
        output, argmax = op(features, rois, scale, *SIZE)
        return [output.detach(), argmax, *torch.autograd.grad(output, features, grads)]

    expected = compute()
    with accelerate():
        assert runs_on_roipool()
        actual = compute()
    for result, value in zip(actual, expected, strict=True):
        assert torch.equal(result, value)  # sums of zeros may differ in sign
        assert result.stride() == value.stride()


@pytest.mark.parametrize(
    ("scale", "factors", "positive_scale"), [(-0.5, [1, -1, -1, -1, -1], 0.5), (0.0, [1, 0, 0, 0, 0], 1.0)]
)
def test_scales_that_roipool_refuses_elsewhere(scale, factors, positive_scale):
    mirrored = ROIS * torch.tensor([1.0, -1, -1, -1, -1])  # so that a negative scale brings them back to the map
    features = make_features()
    features[:, :, 0, 0] = torch.nan
    expected, expected_argmax = pool_by_reference(features, mirrored * torch.tensor(factors), positive_scale)
    with accelerate():
        leaf = features.clone().requires_grad_()
        output, argmax = op(leaf, mirrored, scale, *SIZE)
        grads = draw_grads(output.shape)
        output.backward(grads)
    assert_same_bits(output, expected)
    assert torch.equal(argmax, expected_argmax)
    assert torch.equal(leaf.grad, roi_pool_backward(grads, ROIS, expected_argmax, features.shape))


def test_boxes_may_have_another_dtype():
    features, rois = make_features(torch.bfloat16), ROIS + 0.3  # which bfloat16 would round
    with accelerate():
        assert_same_bits(op(features, rois, SCALE, *SIZE)[0], pool_by_reference(features, rois)[0])


def test_bad_batch_index_gives_zeros():
    features = torch.ones(4, 1, 9, 11)[1:3]  # beside which torchvision reads other images
    rois = torch.tensor([[2.0, 0, 0, 8, 8], [-1, 0, 0, 8, 8], [1, 0, 0, 8, 8]])
    with accelerate():
        output = torchvision.ops.roi_pool(features, rois, 1)
    assert output.flatten().tolist() == [0, 0, 1]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(0, 3, 9, 11), (2, 0, 9, 11), (2, 3, 0, 11), (2, 3, 9, 0)])
@pytest.mark.parametrize("num_rois", [0, 6])
def test_nothing_to_pool(num_rois, shape, memory_format):
    features = torch.empty(shape, memory_format=memory_format).requires_grad_()
    with accelerate():
        output, argmax = op(features, ROIS[:num_rois], SCALE, *SIZE)
        (grad,) = torch.autograd.grad(output.sum(), features)
    expected_shape = (num_rois, shape[1], *SIZE)
    assert torch.equal(output, torch.zeros(expected_shape))
    assert torch.equal(argmax, torch.full(expected_shape, -1, dtype=torch.int32))
    assert torch.equal(grad, torch.zeros(shape))
    assert all(result.is_contiguous() for result in (output, argmax, grad))


# ---- Gradients.


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient(dtype, layout, device):
    features = make_features(dtype)
    expected, argmax = pool_by_reference(features, ROIS.to(dtype))
    grads = draw_grads(expected.shape, dtype)
    if layout == "channels_last":
        grads = grads.to(memory_format=torch.channels_last)
    elif layout == "expanded":
        grads = grads[:1, :, :, :1].expand_as(expected)
    leaf = features.to(device).requires_grad_()
    with accelerate():
        output = torchvision.ops.roi_pool(leaf, ROIS.to(device, dtype), SIZE, SCALE)
        output.backward(grads.to(device))
    assert torch.equal(leaf.grad.cpu(), roi_pool_backward(grads, ROIS, argmax, features.shape))
    assert leaf.grad[:, 1, 4, 3].any()  # the cells of NaN, to which torchvision gives nothing


def test_float16_gradients_are_summed_in_float32():
    features = torch.ones(1, 1, 1, 1, dtype=torch.float16, requires_grad=True)
    with accelerate():
        torchvision.ops.roi_pool(features, torch.zeros(2049, 5, dtype=torch.float16), 1).backward(
            torch.cat([torch.tensor([2048]), torch.ones(2048)]).half().view(-1, 1, 1, 1)
        )
    assert features.grad.item() == 4096  # in float16, 2048 + 1 is 2048


def test_backward_of_torchvision_may_follow_a_forward_of_roipool():
    features, rois = make_features().requires_grad_(), torch.cat([ROIS, ROIS.new_tensor([[7, 0, 0, 9, 9]])])
    with accelerate():
        output, argmax = op(features, rois, SCALE, *SIZE)
    grads = draw_grads(output.shape)
    output.backward(grads)
    _, expected_argmax = pool_by_reference(features.detach(), rois)
    assert torch.equal(argmax, expected_argmax)
    assert torch.equal(features.grad, roi_pool_backward(grads[:-1], ROIS, argmax[:-1], features.shape))


def test_backward_of_roipool_may_follow_a_forward_of_torchvision():
    features = make_features(with_nan=False).requires_grad_()
    output, argmax = op(features, ROIS, SCALE, *SIZE)
    grads = draw_grads(output.shape)
    with accelerate():
        output.backward(grads)
    assert torch.equal(features.grad, roi_pool_backward(grads, ROIS, argmax, features.shape))


def test_backward_operator_takes_any_strides():
    _, argmax = pool_by_reference(make_features())
    grads = draw_grads(argmax.shape)
    with accelerate():
        grad_input = torch.ops.torchvision._roi_pool_backward(
            grads, ROIS, argmax.to(memory_format=torch.channels_last), SCALE, *SIZE, 2, 3, 9, 11
        )
    assert torch.equal(grad_input, roi_pool_backward(grads, ROIS, argmax, make_features().shape))
    assert grad_input.is_contiguous()


def test_derivatives_stay_those_of_torchvision():
    features = make_features(with_nan=False).requires_grad_()
    with accelerate():
        output = torchvision.ops.roi_pool(features, ROIS, SIZE, SCALE)
        (grad,) = torch.autograd.grad((output**2).sum(), features, create_graph=True)
        with pytest.raises(RuntimeError, match="double backwards on roi_pool not supported"):
            grad.sum().backward()


# ---- Models.


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = torchvision.ops.RoIPool(SIZE, SCALE)

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return self.pool(features, rois).view(rois.shape[0], -1)


def load(head, arguments, folder):
    torch.jit.script(head).save(folder / "head.pt")
    return torch.jit.load(folder / "head.pt")


def package(head, arguments, folder):
    program = torch.export.export(head, arguments)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "head.pt2"))
    return torch._inductor.aoti_load_package(path)


WAYS = {
    "script": lambda head, arguments, folder: torch.jit.script(head),
    "trace": lambda head, arguments, folder: torch.jit.trace(head, arguments),
    "load": load,
    "export": lambda head, arguments, folder: torch.export.export(head, arguments).module(),
    "compile": lambda head, arguments, folder: torch.compile(head, fullgraph=True),
    "package": package,
}
CASES = [case for case in product(WAYS, [False, True]) if case != ("package", True)]  # which would take long


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*treespec:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of torchvision's own check of the boxes
@pytest.mark.parametrize(("way", "within"), CASES)
def test_models_need_no_change(way, within, tmp_path):
    """Those that were made before are reached as well, and those that were made meanwhile keep nothing of it."""
    arguments = (make_features().to(memory_format=torch.channels_last), ROIS)
    expected = pool_by_reference(arguments[0])[0].flatten(1)
    torch.compiler.reset()
    handle = accelerate() if within else None
    model = WAYS[way](Head(), arguments, tmp_path)
    if not within:
        assert not same_bits(model(*arguments), expected)
    with accelerate():
        assert_same_bits(model(*arguments), expected)
    if within:
        handle.remove()
        assert not same_bits(model(*arguments), expected)


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")
def test_compiled_training_step():
    """Compiled code asserts the strides of what operators return: here after a map and a gradient in channels_last."""
    conv = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    features = make_features(with_nan=False).to(memory_format=torch.channels_last).requires_grad_()

    def step(features: Tensor, rois: Tensor) -> Tensor:
        return conv(torchvision.ops.roi_pool(features, rois, SIZE, SCALE)).square().sum()

    (expected,) = torch.autograd.grad(step(features, ROIS), features)
    with accelerate():
        torch.compiler.reset()
        (grad,) = torch.autograd.grad(torch.compile(step, fullgraph=True)(features, ROIS), features)
        assert runs_on_roipool()
    assert torch.allclose(grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_opcheck(memory_format):
    features = make_features(with_nan=False).to(memory_format=memory_format).requires_grad_()
    with accelerate():
        torch.library.opcheck(op.default, (features, ROIS, SCALE, *SIZE))


# ---- Doing and undoing it.


def test_blocks_may_be_nested():
    with accelerate():
        with accelerate():
            assert runs_on_roipool()
        assert runs_on_roipool()
    assert not runs_on_roipool()


def test_undone_in_any_order_and_again():
    first, second = accelerate(), accelerate()
    first.remove()
    first.remove()
    assert runs_on_roipool()
    second.remove()
    assert not runs_on_roipool()
    with first:  # is over, and stays so
        assert not runs_on_roipool()


def test_stays_where_the_handle_is_dropped():
    accelerate()
    gc.collect()
    assert runs_on_roipool()
    (handle,) = roipool.torchvision._in_force
    handle.remove()


@pytest.mark.parametrize("has_cuda_kernels", [False, True])
def test_cuda_kernels_are_replaced_where_roipool_has_some(monkeypatch, has_cuda_kernels):
    monkeypatch.setattr(roipool._ops, "cuda_is_loaded", has_cuda_kernels)
    for name in ["roi_pool", "_roi_pool_backward"]:
        with accelerate():
            lines = torch._C._dispatch_dump(f"torchvision::{name}").splitlines()
        replaced = [line.partition(":")[0] for line in lines if roipool.torchvision.__file__ in line]
        assert [key for key in replaced if "inactive" not in key] == (["CPU", "CUDA"] if has_cuda_kernels else ["CPU"])


FRESH = """
import sys
import roipool.torchvision
assert "torchvision" not in sys.modules
roipool.torchvision.accelerate()
assert "torchvision" in sys.modules
import torch
x = torch.full((1, 1, 2, 2), torch.nan)
assert torch.ops.torchvision.roi_pool(x, torch.zeros(1, 5), 1.0, 1, 1)[0].isnan()
"""


def test_in_a_fresh_process():
    """It imports torchvision when it is called, warns of nothing, and the process ends well while it is in force."""
    run = subprocess.run([sys.executable, "-W", "error:Warning only once", "-c", FRESH], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# ---- Errors.


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"accelerate\(\) needs torchvision, which does not work here \(.*\): "):
        accelerate()


def test_without_its_native_library(monkeypatch):
    monkeypatch.setattr(torch.ops, "torchvision", SimpleNamespace())
    with pytest.raises(ImportError, match=r"accelerate\(\) needs torchvision, which does not work here \(.*roi_pool"):
        accelerate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rois": ROIS[:, 1:]}, r"rois must have shape \(K, 5\)"),
        ({"rois": ROIS[:, :1], "scale": -1.0}, r"rois must have shape \(K, 5\)"),
        ({"scale": float("nan")}, "spatial_scale must be finite and greater than 0, got nan"),
        ({"scale": -float("inf")}, "spatial_scale must be finite and greater than 0, got -inf"),
        ({"size": (0, 2)}, "output_size must be at least 1"),
        ({"features": make_features()[0]}, r"input must be a 4-D tensor \(N, C, H, W\)"),
    ],
)
def test_bad_arguments(changes, message):
    arguments = {"features": make_features(), "rois": ROIS, "scale": SCALE, "size": SIZE, **changes}
    with accelerate(), pytest.raises(ValueError, match=message):
        op(arguments["features"], arguments["rois"], arguments["scale"], *arguments["size"])
