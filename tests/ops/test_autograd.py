"""Derivatives of first and second order, in reverse and forward mode, and the memory of calls without any."""

import pytest
import torch
from support import DTYPES, assert_same_bits, channels_last, contiguous, features, random_rois
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import roipool
from roipool import reference

ops = torch.ops.roipool


def problem(device, layout=contiguous, dtype=torch.float64, channels=3):
    x = layout(features((2, channels, 7, 6), dtype, seed=0).to(device))
    rois = random_rois(5, 2, 14, 12, seed=0)
    rois[3, 0] = 2  # a region of no image
    return x.requires_grad_(), rois.to(device)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [2, 17])
def test_gradcheck(device, layout, channels):
    x, rois = problem(device, layout, channels=channels)
    assert gradcheck(lambda x: roipool.roi_pool(x, rois, (3, 2), 0.5), x, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_gradgradcheck(device, layout):
    x, rois = problem(device, layout)

    def squared(x):  # its second derivative is not 0
        return roipool.roi_pool(x, rois, (3, 2), 0.5) ** 2

    assert gradcheck(squared, x, check_forward_ad=True)
    assert gradgradcheck(squared, x, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_gradcheck_of_backward_and_gather(device, layout):
    x, rois = problem(device, layout)
    output, argmax = ops.roi_pool_with_argmax(x.detach(), rois, 3, 2, 0.5)
    grad_output = layout(features(output.shape, torch.float64, seed=1).to(device)).requires_grad_()

    def scatter(grad_output):
        return ops.roi_pool_backward(grad_output, rois, argmax, 2, 7, 6, 0.5)

    def gather(x):
        return ops.roi_pool_gather(x, rois, argmax, 0.5)

    for function, argument in [(scatter, grad_output), (gather, x)]:
        assert gradcheck(function, argument, check_forward_ad=True)
        assert gradgradcheck(function, argument)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_forward_mode_picks_the_tangent_at_argmax(device, layout, dtype):
    x, rois = problem(device, layout, dtype, channels=20)
    tangent = layout(features(x.shape, dtype, seed=1).to(device))
    _, argmax = reference.roi_pool(x.detach().cpu(), rois.cpu(), 3, 0.5, return_argmax=True)
    planes = tangent.flatten(2)
    expected = torch.zeros(argmax.shape, dtype=dtype)
    for k, c, p, q in (argmax >= 0).nonzero().tolist():
        expected[k, c, p, q] = planes[int(rois[k, 0]), c, argmax[k, c, p, q]]
    with forward_ad.dual_level():
        output = roipool.roi_pool(forward_ad.make_dual(x.detach(), tangent), rois, 3, 0.5)
        assert_same_bits(forward_ad.unpack_dual(output).tangent, expected)
        output, argmax = roipool.roi_pool(forward_ad.make_dual(x.detach(), tangent), rois, 3, 0.5, return_argmax=True)
        assert_same_bits(forward_ad.unpack_dual(output).tangent, expected)
        assert forward_ad.unpack_dual(argmax).tangent is None


def test_second_derivative_by_hand(device):
    # y = max(x)^3 of one region: dy/dx = 3 m^2 and d2y/dx2 = 6 m at the largest cell, 0 elsewhere.
    x = torch.tensor([1.0, 5.0, 2.0, 3.0], dtype=torch.float64, device=device).view(1, 1, 2, 2).requires_grad_()
    y = roipool.roi_pool(x, torch.tensor([[0, 0, 0, 1, 1]], device=device), 1) ** 3
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert first.flatten().tolist() == [0, 75, 0, 0]
    assert second.flatten().tolist() == [0, 30, 0, 0]


def test_tangent_of_a_gradient_by_hand(device):
    # y = max(x)^3 again; the tangent of 3 m^2 is 6 m times that of m, also where no graph of the gradient is asked for
    x = torch.tensor([1.0, 5.0, 2.0, 3.0], dtype=torch.float64, device=device).view(1, 1, 2, 2).requires_grad_()
    rois = torch.tensor([[0, 0, 0, 1, 1]], device=device)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.full_like(x, 10.0))
        for pooled in [
            roipool.roi_pool(dual, rois, 1),
            roipool.multiscale_roi_pool([dual], rois, 1, [1.0]),
        ]:
            (grad,) = torch.autograd.grad((pooled**3).sum(), dual)
            assert forward_ad.unpack_dual(grad).tangent.flatten().tolist() == [0, 300, 0, 0]


@pytest.mark.parametrize("return_argmax", [False, True])
def test_boxes_get_no_gradient(device, return_argmax):
    x, rois = problem(device)
    rois.requires_grad_()
    output = roipool.roi_pool(x, rois, 2, return_argmax=return_argmax)
    output = output[0] if return_argmax else output
    grad_input, grad_rois = torch.autograd.grad(output.sum(), [x, rois], allow_unused=True)
    assert grad_rois is None
    assert grad_input is not None


def test_argmax_is_not_differentiable(device):
    x, rois = problem(device)
    output, argmax = roipool.roi_pool(x, rois, 2, return_argmax=True)
    assert output.requires_grad
    assert not argmax.requires_grad
    assert argmax.grad_fn is None


def test_list_of_boxes_trains(device):
    x, _ = problem(device)
    boxes = [torch.tensor([[0.0, 0, 3, 3], [2.0, 2, 4, 4]]), torch.tensor([[1.0, 1, 5, 5]])]
    rois = torch.tensor([[0.0, 0, 0, 3, 3], [0, 2, 2, 4, 4], [1, 1, 1, 5, 5]])
    (grad,) = torch.autograd.grad(roipool.roi_pool(x, [b.to(device) for b in boxes], 2).sum(), x)
    _, argmax = reference.roi_pool(x.detach().cpu(), rois, 2, return_argmax=True)
    ones = torch.ones(argmax.shape, dtype=torch.float64)
    assert_same_bits(grad, reference.roi_pool_backward(ones, rois, argmax, x.shape))


def saved_bytes(call) -> int:
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        call()
    return sum(sizes)


def test_only_argmax_and_rois_are_saved(device):
    x, rois = problem(device, dtype=torch.float32)
    output = roipool.roi_pool(x, rois, 3)
    assert saved_bytes(lambda: roipool.roi_pool(x, rois, 3)) == 4 * output.numel() + rois.nbytes
    assert saved_bytes(lambda: roipool.roi_pool(x.detach(), rois, 3)) == 0
    with torch.no_grad():
        assert saved_bytes(lambda: roipool.roi_pool(x, rois, 3)) == 0


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_no_argmax_is_made_where_no_gradient_is_needed(device, guard):
    x, rois = problem(device, dtype=torch.float32)

    def allocated(call) -> int:
        with torch.profiler.profile(profile_memory=True, record_shapes=True, acc_events=True) as profile:
            call()
        memory_usage = "self_cpu_memory_usage" if device.type == "cpu" else "self_device_memory_usage"
        return sum(max(0, getattr(event, memory_usage)) for event in profile.events())

    rois = rois.float()  # boxes of float32 need no copy
    size = roipool.roi_pool(x.detach(), rois, 3).nbytes
    size += -size % (512 if device.type == "cuda" else 1)  # the allocator rounds sizes up to its unit
    with guard():
        assert allocated(lambda: roipool.roi_pool(x, rois, 3)) == size
    assert allocated(lambda: roipool.roi_pool(x, rois, 3)) == 2 * size  # in training, the call also makes argmax


def test_trains(device):
    """A linear head on pooled features learns which of two patterns a region holds."""
    torch.manual_seed(0)
    backbone = torch.nn.Conv2d(1, 8, 3, padding=1).to(device)
    head = torch.nn.Linear(8 * 4, 2).to(device)
    pool = roipool.RoIPool(2)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=0.02)
    boxes = torch.tensor([[i // 2, 8.0 * (i % 2), 0, 8.0 * (i % 2) + 7, 7] for i in range(32)])
    labels = torch.arange(32) % 3 % 2
    images = 0.3 * torch.randn(16, 1, 8, 16)
    for (n, left, *_), label in zip(boxes.int().tolist(), labels.tolist(), strict=True):
        images[n, 0, 2:6, left + 2 : left + 6] += torch.eye(4) if label else torch.eye(4).flip(0)
    images, boxes, labels = images.to(device), boxes.to(device), labels.to(device)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(head(pool(backbone(images), boxes).flatten(1)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
