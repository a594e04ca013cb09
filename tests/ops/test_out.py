"""out= of torch.ops.roipool.roi_pool.out and of roipool.roi_pool."""

import warnings

import pytest
import torch
from support import DTYPES, assert_same_bits, channels_last, contiguous, features, random_rois, to_device
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import roipool
from roipool import reference

X = features((2, 3, 8, 6), torch.float32, seed=0)
ROIS = random_rois(5, 2, 8, 6, seed=0).float()
EXPECTED = reference.roi_pool(X, ROIS, (2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [3, 20])
def test_writes_to_out_itself(backend, channels, layout, dtype):
    x = layout(features((2, channels, 8, 6), dtype, seed=0).to(backend.device))
    rois = ROIS.to(backend.device)
    expected = reference.roi_pool(x.cpu(), ROIS, (2, 3))
    for out_layout in [contiguous, channels_last]:
        out = out_layout(torch.full_like(expected, 7.0, device=backend.device))
        address, strides = out.data_ptr(), out.stride()
        assert backend.ops.roi_pool.out(x, rois, 2, 3, 1.0, out=out) is out
        assert (out.data_ptr(), out.stride()) == (address, strides)
        assert_same_bits(out, expected)


def test_takes_no_other_memory(device):
    x, rois = X.to(device), ROIS.to(device)
    out = EXPECTED.to(device)
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        roipool.roi_pool(x, rois, (2, 3), out=out)
    usage = "self_cpu_memory_usage" if device.type == "cpu" else "self_device_memory_usage"
    assert all(getattr(event, usage) == 0 for event in profile.events())


@pytest.mark.parametrize("shape", [(0,), (0, 3, 2, 3)])
def test_empty_out_is_resized(device, shape):
    out = torch.empty(shape, device=device)
    assert roipool.roi_pool(X.to(device), ROIS.to(device), (2, 3), out=out) is out
    assert_same_bits(out, EXPECTED)


def test_other_shapes_are_resized_with_pytorchs_warning(device):
    x, rois = X.to(device), ROIS.to(device)
    for function in [lambda out: roipool.roi_pool(x, rois, (2, 3), out=out), lambda out: torch.add(x, x, out=out)]:
        out = torch.empty(4, device=device)
        with pytest.warns(UserWarning, match="An output with one or more elements was resized since it had shape"):
            function(out)
    out = torch.empty(4, device=device)
    with pytest.warns(UserWarning, match="resized"):
        roipool.roi_pool(x, rois, (2, 3), out=out)
    assert_same_bits(out, EXPECTED)


def test_operator_resizes_too(backend, capfd):
    """Up to torch 2.14, the warning of an operator called from Python goes to stderr."""
    out = torch.empty(4, device=backend.device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend.ops.roi_pool.out(X.to(backend.device), ROIS.to(backend.device), 2, 3, 1.0, out=out)
    assert_same_bits(out, EXPECTED)
    said = "".join(str(warning.message) for warning in caught) + capfd.readouterr().err
    assert said.count("An output with one or more elements was resized since it had shape") == 1


def test_out_in_other_strides(device):
    out = torch.full((5, 3, 2, 6), 7.0, device=device)
    roipool.roi_pool(X.to(device), ROIS.to(device), (2, 3), out=out[..., ::2])
    assert_same_bits(out[..., ::2], EXPECTED)
    assert (out[..., 1::2] == 7).all()


def test_out_that_shares_memory_with_the_input(device):
    x = features((1, 2, 4, 4), torch.float32, seed=0).to(device)
    rois = torch.tensor([[0.0, 0, 0, 2, 3]], device=device)
    expected = reference.roi_pool(x.cpu(), rois.cpu(), 4)
    roipool.roi_pool(x, rois, 4, out=x)
    assert_same_bits(x, expected)
    # A map of one channel that is wide enough is read where it lies, by one region after the other. What the first one
    # writes begins before the largest value of the map, or on it.
    rois = torch.tensor([[0.0, 0, 0, 15, 3]], device=device).expand(2, 5)
    for begin in [61, 63]:
        memory = torch.arange(80.0, device=device)
        roipool.roi_pool(memory[:64].view(1, 1, 4, 16), rois, 2, out=memory[begin : begin + 8].view(2, 1, 2, 2))
        assert memory[begin : begin + 8].tolist() == 2 * [23, 31, 55, 63]


def test_out_that_shares_memory_with_the_rois(device):
    x = torch.arange(1.0, 17.0, device=device).view(1, 1, 4, 4)
    rois = torch.tensor([[0.0, i, i, i, i] for i in range(4)], device=device)
    out = rois.flatten()[5:9].view(4, 1, 1, 1)  # begins with the batch index of the second region
    roipool.roi_pool(x, rois, 1, out=out)
    assert out.flatten().tolist() == [1, 6, 11, 16]


REFUSED = [
    ({"out": torch.empty(5, 3, 2, 3).double()}, ValueError, "out must be float32 as input, got float64"),
    ({"out": torch.empty(5, 3, 2, 3, device="meta")}, ValueError, "out must be on the device of input (cpu), got meta"),
    (
        {"out": torch.empty(1).expand(5, 3, 2, 3)},
        ValueError,
        "out must not have elements that share memory: clone() it first",
    ),
    ({"out": [1.0]}, TypeError, "out must be a torch.Tensor, got list"),
    (
        {"out": torch.empty(0), "return_argmax": True},
        ValueError,
        "out cannot be given together with return_argmax",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED)
def test_refused(device, arguments, error, message):
    arguments = to_device(list(arguments.items()), device)
    with pytest.raises(error) as caught:
        roipool.roi_pool(X.to(device), ROIS.to(device), (2, 3), **dict(arguments))
    assert str(caught.value) == message.replace("(cpu)", f"({device})")


def test_fake_kernel_says_the_same():
    with FakeTensorMode() as mode:
        x, rois = mode.from_tensor(X), mode.from_tensor(ROIS)
        for arguments, error, message in REFUSED[:3]:
            with pytest.raises(error) as caught:
                torch.ops.roipool.roi_pool.out(x, rois, 2, 3, 1.0, out=mode.from_tensor(arguments["out"]))
            assert str(caught.value) == message
        out = mode.from_tensor(torch.empty(0))
        assert torch.ops.roipool.roi_pool.out(x, rois, 2, 3, 1.0, out=out).shape == EXPECTED.shape


def test_takes_no_part_in_autograd(device):
    x, rois, out = X.to(device), ROIS.to(device), EXPECTED.to(device)
    wording = "(): functions with out=... arguments don't support automatic differentiation, "
    with pytest.raises(RuntimeError) as pytorchs:
        torch.add(x.clone().requires_grad_(), x, out=torch.empty_like(x))
    assert wording in str(pytorchs.value)
    calls = [
        lambda x, out: roipool.roi_pool(x, rois, (2, 3), out=out),
        lambda x, out: torch.ops.roipool.roi_pool.out(x, rois, 2, 3, 1.0, out=out),
    ]
    for input, target in [(x.clone().requires_grad_(), out), (x, out.clone().requires_grad_())]:
        for call in calls:
            with pytest.raises(RuntimeError) as caught:
                call(input, target)
            assert str(caught.value) == str(pytorchs.value).replace("add", "roi_pool")
            with torch.no_grad():
                assert_same_bits(call(input, target), EXPECTED)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="automatic differentiation"):
        roipool.roi_pool(forward_ad.make_dual(x, x), rois, (2, 3), out=out)


def test_autograd_notices_what_is_overwritten(device):
    x, rois = X.to(device), ROIS.to(device)
    out = torch.ones(5, 3, 2, 3, device=device)
    leaf = torch.ones_like(out).requires_grad_()
    product = leaf * out
    roipool.roi_pool(x, rois, (2, 3), out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_under_guards(device, guard):
    with guard():
        out = torch.empty(0, device=device)
        roipool.roi_pool(X.to(device), ROIS.to(device), (2, 3), out=out)
        assert_same_bits(out, EXPECTED)


def test_compiled(device):
    x, rois = X.to(device), ROIS.to(device)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda out: roipool.roi_pool(x, rois, (2, 3), out=out) + 1, backend="aot_eager", fullgraph=True
    )
    out = torch.empty(5, 3, 2, 3, device=device)
    assert_same_bits(compiled(out), EXPECTED + 1)
    assert_same_bits(out, EXPECTED)
    torch._dynamo.reset()  # so that the message has numbers, not symbols
    with pytest.raises(Exception, match=r"out must be float32 of shape \(5, 3, 2, 3\) on .* under torch.compile"):
        compiled(torch.empty(4, device=device))
    with pytest.raises(Exception, match=r"under torch.compile and in export, got float64 of shape \(5, 3, 2, 3\)"):
        compiled(torch.empty_like(EXPECTED, dtype=torch.float64, device=device))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_it_takes_no_part_in_autograd_either(device, backend):
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, out: roipool.roi_pool(x, ROIS.to(device), (2, 3), out=out), backend=backend)
    with pytest.raises(Exception, match=r"functions with out=... arguments don't support automatic differentiation"):
        compiled(X.to(device).clone().requires_grad_(), EXPECTED.to(device))


@pytest.mark.parametrize(
    ("output_size", "spatial_scale", "message"),
    [
        ((2, 3), -1.0, "spatial_scale must be finite and greater than 0, got -1"),
        ((2, 2**40), 1.0, "output_size must be at least 1 (and at most 2147483647) in both dimensions"),
        ((2, 2**31), 1.0, "output_size must be at least 1 (and at most 2147483647) in both dimensions"),
    ],
)
def test_nothing_is_resized_for_what_is_refused(device, output_size, spatial_scale, message):
    out = torch.empty(4, device=device)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole beginning is compared
        roipool.roi_pool(X.to(device), ROIS.to(device), output_size, spatial_scale, out=out)
    assert str(caught.value).startswith(message)
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        roipool.roi_pool(X.to(device).clone().requires_grad_(), ROIS.to(device), 2, out=out)
    assert out.shape == (4,)


def test_inference_tensors(device):
    """An out has a new version after inference mode; outside of it, inference tensors are not written to."""
    x, rois = X.to(device), ROIS.to(device)
    out = torch.ones(5, 3, 2, 3, device=device)
    product = torch.ones_like(out).requires_grad_() * out
    with torch.inference_mode():
        roipool.roi_pool(x, rois, (2, 3), out=out)
        inference = torch.empty_like(out)
        roipool.roi_pool(x, rois, (2, 3), out=inference)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
    for write in [lambda out: roipool.roi_pool(x, rois, (2, 3), out=out), lambda out: out.copy_(out)]:
        with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
            write(inference)
