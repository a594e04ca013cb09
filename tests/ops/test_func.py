"""Transforms of torch.func, alone and one within another, give what torch.autograd and loops give."""

import warnings

import pytest
import torch
from support import DTYPES, assert_same_bits, channels_last, contiguous, features, random_rois
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import roipool

ops = torch.ops.roipool


@pytest.fixture(autouse=True)
def no_fallback():
    """Makes an error of PyTorch's warning that it loops where it has no batching rule."""
    torch._C._functorch._set_vmap_fallback_warning_enabled(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def cubed(x, rois):
    return (roipool.roi_pool(x, rois, (3, 2), 0.5) ** 3).sum()


def problem(device, channels=3, layout=contiguous):
    x = layout(features((2, channels, 7, 6), torch.float64, seed=0).to(device))
    return x, random_rois(5, 2, 14, 12, seed=0, wild=True).to(device)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [3, 20])
def test_first_and_second_derivatives(device, channels, layout):
    x, rois = problem(device, channels, layout)
    direction = features(x.shape, torch.float64, seed=1).to(device)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(cubed(leaf, rois), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * direction).sum(), leaf)
    first = first.detach()

    def f(x):
        return cubed(x, rois)

    assert_same_bits(grad(f)(x), first)
    value, pullback = vjp(f, x)
    assert_same_bits(pullback(torch.ones_like(value))[0], first)
    torch.testing.assert_close(jvp(f, (x,), (direction,))[1], (first * direction).sum())
    # Each way to the Hessian times a vector gives the same.
    torch.testing.assert_close(grad(lambda x: (grad(f)(x) * direction).sum())(x), second)
    torch.testing.assert_close(jvp(grad(f), (x,), (direction,))[1], second)
    torch.testing.assert_close(grad(lambda x: jvp(f, (x,), (direction,))[1])(x), second)


def test_no_grad_within_forward_modes(device):
    """What is pooled under no_grad is a constant to the transforms around it, as with PyTorch's own functions."""
    x, rois = problem(device)
    direction = features(x.shape, torch.float64, seed=1).to(device)

    def pool(x):
        with torch.no_grad():
            return roipool.roi_pool(x, rois, (3, 2), 0.5)

    def derivative(x, tangent):
        return jvp(lambda x: jvp(pool, (x,), (tangent,))[1], (x,), (direction,))[0]

    assert derivative(x, direction).abs().sum() > 0
    assert_same_bits(grad(lambda tangent: derivative(x, tangent).sum())(direction), torch.zeros_like(x))


def test_jacobians(device):
    x = features((1, 2, 3, 3), torch.float64, seed=0).to(device)
    rois = torch.tensor([[0.0, 0, 0, 2, 2], [0.0, 1, 1, 2, 2], [1.0, 0, 0, 2, 2]], device=device)
    output, argmax = roipool.roi_pool(x, rois, 2, return_argmax=True)
    expected = torch.zeros(*output.shape, 1, 2, 9, dtype=torch.float64)
    for k, c, p, q in (argmax >= 0).nonzero().tolist():
        expected[k, c, p, q, 0, c, argmax[k, c, p, q]] = 1
    expected = expected.view(*output.shape, *x.shape)
    for jacobian in [jacrev, jacfwd]:
        assert_same_bits(jacobian(lambda x: roipool.roi_pool(x, rois, 2))(x), expected)
    # The Hessian of a sum of squares is twice the number of bins that each cell won, on the diagonal.
    wins = grad(lambda x: roipool.roi_pool(x, rois, 2).sum())(x)
    second = hessian(lambda x: (roipool.roi_pool(x, rois, 2) ** 2).sum())(x)
    assert_same_bits(second, (2 * torch.diag(wins.flatten())).view(*x.shape, *x.shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("input_dim", "rois_dim"), [(0, None), (None, 0), (0, 0), (1, None), (2, 0), (4, 1), (None, 2)]
)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_vmap(device, layout, input_dim, rois_dim, dtype):
    """Output, argmax and per-sample gradients have the bits of a loop, over the maps, the rois, or both."""
    xs = torch.stack([layout(features((2, 20, 7, 6), dtype, seed=i)) for i in range(4)]).to(device)
    rois = torch.stack([random_rois(9, 2, 14, 12, seed=i, wild=True) for i in range(4)]).to(device)
    weights = features((9, 20, 3, 2), dtype, seed=9).to(device)

    def pool(x, rois):
        output, argmax = roipool.roi_pool(x, rois, (3, 2), 0.5, return_argmax=True)
        return output, argmax, roipool.roi_pool(x, rois, (3, 2), 0.5)

    def gradient(x, rois):
        return grad(lambda x: (roipool.roi_pool(x, rois, (3, 2), 0.5) * weights).sum())(x)

    mapped_xs = xs[0] if input_dim is None else xs.movedim(0, input_dim)
    mapped_rois = rois[0] if rois_dim is None else rois.movedim(0, rois_dim)
    loop = [(xs[0 if input_dim is None else i], rois[0 if rois_dim is None else i]) for i in range(4)]
    actual = vmap(pool, (input_dim, rois_dim))(mapped_xs, mapped_rois)
    for a, expected in zip(actual, zip(*[pool(*arguments) for arguments in loop], strict=True), strict=True):
        assert_same_bits(a, torch.stack(expected))
    actual = vmap(gradient, (input_dim, rois_dim))(mapped_xs, mapped_rois)
    assert_same_bits(actual, torch.stack([gradient(*arguments) for arguments in loop]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_vmap_over_more_images_than_the_dtype_of_rois_can_number(device, dtype):
    x = torch.arange(2100.0, device=device).view(2100, 1, 1, 1, 1)
    rois = torch.zeros(1, 5, dtype=dtype, device=device)
    assert_same_bits(vmap(lambda x: roipool.roi_pool(x, rois, 1))(x).flatten(), x.flatten())


@pytest.mark.parametrize("batch_index", [-1.0, -0.5, 0.5, 1.9, 2.0, 1e30, float("nan"), float("-inf")])
def test_vmap_leaves_regions_of_no_image_alone(device, batch_index):
    """A bad batch index of one problem does not reach an image of the next."""
    xs = features((3, 2, 1, 4, 4), torch.float32, seed=0).to(device)
    rois = torch.tensor([[batch_index, 0, 0, 3, 3]], device=device)
    expected = torch.stack([roipool.roi_pool(x, rois, 2) for x in xs])
    assert_same_bits(vmap(lambda x: roipool.roi_pool(x, rois, 2))(xs), expected)


@pytest.mark.parametrize("mapped", range(1, 8))
def test_vmap_of_backward_and_gather(device, mapped):
    """Takes every choice of mapped arguments: bit 0 is grad_output or input, bit 1 rois, bit 2 argmax.

    The regions of all problems have the same cells, of other images, so that any argmax fits any of them.
    """
    x, _ = problem(device)
    xs = torch.stack([x, 2 * x, -x])
    rois = torch.stack([random_rois(5, 2, 14, 12, seed=0)] * 3).to(device)
    rois[1, :, 0] = 1 - rois[0, :, 0]
    rois[2, :, 0] = 1
    argmax = torch.stack([ops.roi_pool_with_argmax(x, r, 3, 2, 0.5)[1] for x, r in zip(xs, rois, strict=True)])
    grads = features(argmax.shape, torch.float64, seed=1).to(device)
    dims = tuple(0 if mapped & (1 << i) else None for i in range(3))

    def choose(*tensors):
        return [tensor[0] if dim is None else tensor for tensor, dim in zip(tensors, dims, strict=True)]

    def loop(function, *tensors):
        return torch.stack(
            [function(*[t[0] if d is None else t[i] for t, d in zip(tensors, dims, strict=True)]) for i in range(3)]
        )

    def scatter(grad_output, rois, argmax):
        return ops.roi_pool_backward(grad_output, rois, argmax, 2, 7, 6, 0.5)

    assert_same_bits(vmap(scatter, dims)(*choose(grads, rois, argmax)), loop(scatter, grads, rois, argmax))

    def gather(x, rois, argmax):
        return ops.roi_pool_gather(x, rois, argmax, 0.5)

    assert_same_bits(vmap(gather, dims)(*choose(xs, rois, argmax)), loop(gather, xs, rois, argmax))


def test_vmap_within_vmap_and_of_lists(device):
    xs = features((2, 3, 2, 4, 7, 6), torch.float32, seed=0).to(device)
    rois = torch.stack([random_rois(5, 2, 7, 6, seed=i) for i in range(3)]).float().to(device)
    nested = vmap(vmap(lambda x, rois: roipool.roi_pool(x, rois, 2)), (0, None))(xs, rois)
    expected = torch.stack(
        [torch.stack([roipool.roi_pool(x, r, 2) for x, r in zip(row, rois, strict=True)]) for row in xs]
    )
    assert_same_bits(nested, expected)

    boxes = [rois[0, :2, 1:], rois[0, 2:, 1:]]
    actual = vmap(lambda x: roipool.roi_pool(x, boxes, 2))(xs[0])
    assert_same_bits(actual, torch.stack([roipool.roi_pool(x, boxes, 2) for x in xs[0]]))
    assert vmap(lambda x: roipool.roi_pool(x, rois[0, :0], 2))(xs[0]).shape == (3, 0, 4, 2, 2)


def test_no_grad_within_grad_does_what_it_does_for_max_pool2d(device):
    x, rois = problem(device)

    def frozen(pool):
        def loss(x):
            with torch.no_grad():
                constant = pool(x)
            return (constant * pool(x)).sum()

        return loss

    for pool in [lambda x: roipool.roi_pool(x, rois, 2), lambda x: torch.nn.functional.max_pool2d(x, 2)]:
        (constant,) = [pool(x)]
        expected = grad(lambda x, pool=pool, constant=constant: (constant * pool(x)).sum())(x)
        assert_same_bits(grad(frozen(pool))(x), expected)
        second = grad(lambda x, pool=pool: grad(frozen(pool))(x).sum())(x)
        assert second.abs().sum() == 0


def test_modes_of_the_caller_hold_in_every_level(device):
    """no_grad within jvp and grad, and jvp within no_grad, act as they do on max_pool2d."""
    x = features((1, 1, 2, 2), torch.float64, seed=0).to(device)
    rois = torch.tensor([[0.0, 0, 0, 1, 1]], device=device)
    found = []
    for pool in [lambda x: roipool.roi_pool(x, rois, 1), lambda x: torch.nn.functional.max_pool2d(x, 2)]:

        def constant(x, pool=pool):
            with torch.no_grad():
                return pool(x)

        leaf = x.clone().requires_grad_()
        with torch.no_grad():
            value, _ = jvp(pool, (leaf,), (x,))
        with torch.autograd.forward_ad._set_fwd_grad_enabled(False):
            switched_off = jvp(grad(lambda x, pool=pool: (pool(x) ** 2).sum()), (x,), (x,))[1]
        found.append(
            (
                grad(lambda x, constant=constant: (jvp(constant, (x,), (x,))[0] * 3 * x.mean()).sum())(x),
                grad(lambda x, constant=constant, pool=pool: (jvp(constant, (x,), (x,))[0] * pool(x)).sum())(x),
                switched_off,
                torch.tensor(value.requires_grad),
            )
        )
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected)


def test_tangents_of_rois_alone(device):
    x, rois = problem(device)
    for return_argmax in [False, True]:

        def pool(rois, return_argmax=return_argmax):
            output = roipool.roi_pool(x, rois, 2, return_argmax=return_argmax)
            return output[0] if return_argmax else output

        assert jvp(pool, (rois,), (rois,))[1].abs().sum() == 0
        differentiated = rois.clone().requires_grad_()
        pool(differentiated).sum().backward()
        assert differentiated.grad is None


def test_tangents_of_rois_beside_other_derivatives(device):
    """Nothing depends on rois, wherever they are differentiated."""
    x, rois = problem(device)
    rois = rois.nan_to_num(posinf=5, neginf=5)

    def square(x, rois):
        return roipool.roi_pool(x, rois, 2).square().sum()

    for tangent in [
        jvp(lambda rois: grad(square)(x, rois), (rois,), (rois,))[1],
        jvp(lambda rois: jvp(lambda x: square(x, rois), (x,), (x,))[1], (rois,), (rois,))[1],
        jvp(lambda rois: jacfwd(grad(square))(x, rois), (rois,), (rois,))[1],
    ]:
        assert not tangent.any()
    with forward_ad.dual_level():
        for leaf in [x, x.clone().requires_grad_()]:
            dual = forward_ad.make_dual(rois.clone().requires_grad_(), rois)
            assert forward_ad.unpack_dual(roipool.roi_pool(leaf, dual, 2)).tangent is None
            assert forward_ad.unpack_dual(roipool.multiscale_roi_pool([leaf], dual, 2, [1.0])).tangent is None


def test_vmap_over_nothing(device):
    x, rois = problem(device)
    none = x.new_zeros(0, *x.shape)
    assert vmap(lambda x: roipool.roi_pool(x, rois, 2))(none).shape == (0, 5, 3, 2, 2)
    assert jacfwd(lambda x: roipool.roi_pool(x, rois, 2))(x[:0]).shape == (5, 3, 2, 2, *x[:0].shape)


def test_vmap_over_more_images_than_float32_can_number(device):
    x = torch.zeros(1, device=device).expand(2**12 + 1, 2**12, 1, 1, 1)
    with pytest.raises(ValueError, match="4097 x 4096 images, which float32 rois cannot number"):
        vmap(lambda x: roipool.roi_pool(x, torch.zeros(0, 5, device=device), 1))(x)


def test_functional_call(device):
    x, rois = problem(device)
    model = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(3, 4, 1)}).double().to(device)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = model["conv"]
            self.pool = roipool.RoIPool(2, 0.5)

        def forward(self, x):
            return self.pool(self.conv(x), rois)

    model = Model()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    grads = grad(lambda parameters: (functional_call(model, parameters, (x,)) ** 2).sum())(parameters)
    (model(x) ** 2).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad)
