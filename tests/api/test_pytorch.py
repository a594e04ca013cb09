"""RoIPool under autocast, checkpointing, tracing, and in other processes."""

import copy
import pickle

import pytest
import torch
from processes import pool_in_process
from support import DTYPES, assert_same_bits, features, random_rois
from torch import multiprocessing
from torch.utils.checkpoint import checkpoint

import roipool
from roipool import reference

X = features((2, 3, 8, 6), torch.float32, seed=0)
ROIS = random_rois(5, 2, 16, 12, seed=0).float()
EXPECTED = reference.roi_pool(X, ROIS, (2, 3), 0.5)
POOL = roipool.RoIPool((2, 3), 0.5)


# ---- Autocast.


@pytest.mark.parametrize("features_dtype", DTYPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_every_dtype_alone(device, dtype, features_dtype):
    """float32 boxes are not rounded to half precision, and half-precision features not widened."""
    x = features((1, 3, 8, 2000), features_dtype, seed=0)
    rois = torch.tensor([[0.0, 3001, 0, 3999, 15]])
    with torch.autocast(device.type, dtype):
        output = POOL(x.to(device), rois.to(device))
    assert output.dtype == features_dtype
    assert_same_bits(output, reference.roi_pool(x, rois, (2, 3), 0.5))


def test_autocast_and_grad_scaler_train(device):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 4, 3, padding=1).to(device)
    optimizer = torch.optim.SGD(convolution.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device.type, init_scale=256.0)
    x, rois = X.to(device), ROIS.to(device)
    losses = []
    for _ in range(5):
        with torch.autocast(device.type, torch.float16):
            pooled = POOL(convolution(x), rois)
            loss = pooled.float().square().mean()
        assert pooled.dtype == torch.float16
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert scaler.get_scale() == 256.0  # no step was skipped
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


# ---- Tensors without data, and without autograd.


def test_meta():
    with torch.device("meta"):
        pool = roipool.RoIPool(2)
        x = torch.empty(2, 3, 8, 6, dtype=torch.bfloat16, requires_grad=True)
        output = pool(x, torch.empty(5, 5))
        output.sum().backward()
    assert (output.shape, output.dtype, output.is_meta) == ((5, 3, 2, 2), torch.bfloat16, True)
    assert (x.grad.shape, x.grad.dtype, x.grad.is_meta) == (x.shape, torch.bfloat16, True)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_without_autograd(device, guard):
    with guard():
        output = POOL(X.clone().to(device).requires_grad_(), ROIS.to(device))
        assert not output.requires_grad
        assert output.is_inference() == (guard is torch.inference_mode)
        assert_same_bits(output, EXPECTED)


def test_inference_memory_on_cuda(cuda):
    """Inference allocates the output alone: no argmax, no copies."""
    x = torch.zeros(2, 64, 50, 84, device=cuda, requires_grad=True)
    rois = torch.zeros(1000, 5, device=cuda)
    peaks = {}
    for is_training in [False, True]:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.set_grad_enabled(is_training):
            output = roipool.roi_pool(x, rois, 7)
        peaks[is_training] = torch.cuda.max_memory_allocated() - before
        del output
    size = 1000 * 64 * 49 * 4
    assert peaks[False] == -(-size // 512) * 512
    assert peaks[True] == 2 * peaks[False]


# ---- Checkpointing, tracing, copies.


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing(device, use_reentrant):
    grads = []
    for pool in [POOL, lambda x, rois: checkpoint(POOL, x, rois, use_reentrant=use_reentrant)]:
        x = X.clone().to(device).requires_grad_()
        (pool(x, ROIS.to(device)) ** 2).sum().backward()
        grads.append(x.grad)
    assert_same_bits(*grads)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_jit_trace(device, tmp_path):
    """Tracing warns of no size that became a constant, and the trace takes other sizes."""
    rois = ROIS.to(device)
    layer = torch.nn.PReLU().to(device)  # has a parameter to differentiate by

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.pool = layer, POOL

        def forward(self, x, rois):
            return self.pool(self.layer(x), rois)

    for arguments, call in [
        ((X.to(device), rois), POOL),
        ((X.to(device), rois), Head()),
        ((X.to(device), rois[:2, 1:], rois[2:, 1:]), lambda x, *boxes: roipool.roi_pool(x, boxes, (2, 3), 0.5)),
    ]:
        traced = torch.jit.trace(call, arguments)
        traced.save(str(tmp_path / "pool.pt"))
        loaded = torch.jit.load(tmp_path / "pool.pt")
        x = features((2, 7, 11, 9), torch.float32, seed=1).to(device)
        more = [torch.cat([boxes, boxes]) for boxes in arguments[1:]]
        assert_same_bits(loaded(x, *more), call(x, *more))


def pool_by_function(x: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    return roipool.roi_pool(x, rois, 2)


@pytest.mark.parametrize(
    "scripted",
    [
        roipool.roi_pool,
        roipool.multiscale_roi_pool,
        roipool.mxnet.roi_pooling,
        roipool.RoIPool(2),
        roipool.MultiScaleRoIPool(["0"], 2),
        torch.nn.Sequential(torch.nn.ReLU(), roipool.RoIPool(2)),
        pool_by_function,
    ],
    ids=lambda scripted: getattr(scripted, "__name__", type(scripted).__name__),
)
def test_jit_script_is_refused(scripted):
    with pytest.raises(
        NotImplementedError, match=r"^roipool cannot go through torch\.jit\.script.*use torch\.jit\.trace"
    ):
        torch.jit.script(scripted)


class ScriptableRoIPool(roipool.RoIPool):
    def forward(self, x: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        return torch.ops.roipool.roi_pool(x, rois, 2, 2, 1.0)


def test_jit_script_takes_a_forward_of_the_users_own():
    x, rois = features((1, 1, 4, 4), torch.float32, seed=0), torch.tensor([[0.0, 0, 0, 3, 3]])
    assert_same_bits(torch.jit.script(ScriptableRoIPool(2))(x, rois), roipool.roi_pool(x, rois, 2))


def test_fx_symbolic_trace(device):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = POOL

        def forward(self, x, rois, boxes):
            return self.pool(x + 1, rois) - roipool.roi_pool(x, [boxes, boxes], 2).sum()

    x, rois = X.to(device), ROIS.to(device)
    traced = torch.fx.symbolic_trace(Model())
    ours = [node for node in traced.graph.nodes if node.target is roipool.roi_pool]
    assert len(ours) == 2
    assert_same_bits(traced(x, rois, rois[:, 1:]), Model()(x, rois, rois[:, 1:]))


@pytest.mark.parametrize("layer", [roipool.RoIPool(2), roipool.MultiScaleRoIPool(["0"], 2)])
def test_traces_of_torch_fx_can_be_pickled(layer):
    traced = torch.fx.symbolic_trace(layer)
    assert pickle.loads(pickle.dumps(traced)).code == traced.code


def test_subclass_of_tensor(device):
    """A subclass with __torch_function__ sees the call, and gets its own kind back."""
    seen = []

    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    output = roipool.roi_pool(X.to(device).as_subclass(Logged), ROIS.to(device), (2, 3), spatial_scale=0.5)
    assert roipool.roi_pool in seen
    assert type(output) is Logged
    assert_same_bits(output.as_subclass(torch.Tensor), EXPECTED)
    x, rois = X.to(device), ROIS.to(device)
    for boxes in [rois.as_subclass(Logged), [rois[:1, 1:], rois[1:, 1:].as_subclass(Logged)]]:
        seen.clear()
        assert type(roipool.roi_pool(x, boxes, 2)) is Logged
        assert roipool.roi_pool in seen


def test_below_autograd_nothing_is_recorded(device):
    """__torch_dispatch__ runs below autograd, where requires_grad has no effect."""
    seen = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.relu.default:
                x = args[0].clone().requires_grad_()
                seen.extend(output.requires_grad for output in [torch.relu(x), POOL(x, ROIS.to(device))])
            return function(*args, **(kwargs or {}))

    with Mode():
        X.to(device).relu()
    assert seen == [False, False]


def test_default_dtype_does_not_touch_lists_of_boxes(device):
    x = torch.arange(40.0, device=device).view(1, 1, 1, 40)
    box = torch.tensor([[45.0, 0.0, 45.0, 0.0]], device=device)
    torch.set_default_dtype(torch.float64)
    try:
        assert float(roipool.roi_pool(x, [box], 1, 0.7)) == 32  # 45 * 0.7 is 31.5 in float32, and less in float64
    finally:
        torch.set_default_dtype(torch.float32)


# ---- Other processes.


@pytest.mark.parametrize("method", ["spawn", "fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_in_another_process(method):
    """The layer is used here first, then sent over with the tensors."""
    x = X.clone().requires_grad_()
    POOL(x, ROIS).sum().backward()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=pool_in_process, args=(queue, X.clone(), ROIS, copy.deepcopy(POOL)))
    process.start()
    output, grad = queue.get(timeout=120)
    process.join()
    assert process.exitcode == 0
    assert_same_bits(torch.from_numpy(output), EXPECTED)
    assert_same_bits(torch.from_numpy(grad), x.grad)


def test_shared_memory():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), POOL)
    model.share_memory()
    shared = X.clone().share_memory_()
    assert_same_bits(model[1](shared, ROIS.clone().share_memory_()), EXPECTED)
