"""Derivatives and torch.func of feature pyramids."""

import warnings

import pytest
import torch
from pyramid import PYRAMID, SCALES, boxes_of, maps_of
from support import (
    assert_same_bits,
    features,
    random_rois,
    to_device,
)
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import roipool
from roipool import reference

ops = torch.ops.roipool


def test_gradcheck(device):
    maps = [features((2, 2, size, size), torch.float64, seed=size).to(device).requires_grad_() for size in [8, 4, 2]]
    rois = random_rois(12, 2, 16, 16, seed=0, wild=True).to(device)

    def pool(*maps):
        return roipool.multiscale_roi_pool(maps, rois, (2, 3), [0.5, 0.25, 0.125], canonical_scale=8, canonical_level=2)

    torch.autograd.gradcheck(pool, maps, check_forward_ad=True)
    torch.autograd.gradgradcheck(pool, maps, check_fwd_over_rev=True)


def test_maps_that_need_no_gradient_get_none(device):
    maps, rois = to_device((maps_of(), boxes_of()), device)
    maps[2].requires_grad_()
    output = roipool.multiscale_roi_pool(maps, rois, 2, SCALES)
    (grad_input,) = torch.autograd.grad(output.sum(), maps[2])
    output, _ = roipool.multiscale_roi_pool(maps, rois, 2, SCALES, return_argmax=True)
    assert_same_bits(torch.autograd.grad(output.sum(), maps[2])[0], grad_input)
    for map in maps:
        map.requires_grad_()
    expected = torch.autograd.grad(roipool.multiscale_roi_pool(maps, rois, 2, SCALES).sum(), maps)
    assert_same_bits(grad_input, expected[2])
    assert all(g.abs().sum() > 0 for g in expected)

    output, argmax = roipool.multiscale_roi_pool(maps, rois, 2, SCALES, return_argmax=True)
    assert output.requires_grad
    assert not argmax.requires_grad
    with torch.no_grad():
        assert not roipool.multiscale_roi_pool(maps, rois, 2, SCALES).requires_grad


def test_forward_mode_takes_maps_without_a_tangent_as_constant(device):
    maps, rois = maps_of(), boxes_of()
    _, argmax = reference.multiscale_roi_pool(maps, rois, 2, SCALES, return_argmax=True)
    tangent = features(maps[2].shape, torch.float32, seed=9)
    expected = torch.zeros(argmax.shape)
    for k in (reference.levels_of(rois[:, 1:], *PYRAMID) == 2).nonzero().flatten().tolist():
        planes = tangent[int(rois[k, 0])].flatten(1)
        expected[k] = torch.where(
            argmax[k] >= 0, planes.gather(1, argmax[k].clamp(min=0).long().flatten(1)).view(3, 2, 2), 0
        )
    assert expected.count_nonzero() > 0
    with forward_ad.dual_level():
        duals = to_device(maps, device)
        duals[2] = forward_ad.make_dual(duals[2], tangent.to(device))
        for return_argmax in [False, True]:
            output = roipool.multiscale_roi_pool(duals, rois.to(device), 2, SCALES, return_argmax=return_argmax)
            output = output[0] if return_argmax else output
            assert_same_bits(forward_ad.unpack_dual(output).tangent, expected)
        # The gather, which second derivatives use, has a tangent as well.
        gathered = ops.multiscale_roi_pool_gather(duals, rois.to(device), argmax.to(device), *PYRAMID)
        assert_same_bits(forward_ad.unpack_dual(gathered).tangent, expected)


def test_no_gradient_comes_of_none(device):
    class Severed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, _):
            return None

    maps, rois = to_device((maps_of(), boxes_of()), device)
    maps = [x.requires_grad_() for x in maps]
    output = Severed.apply(roipool.multiscale_roi_pool(maps, rois, 2, SCALES))
    grads = torch.autograd.grad(output.sum(), maps, allow_unused=True)
    assert grads == (None,) * 4
    output = Severed.apply(roipool.roi_pool(maps[0], rois, 2))
    assert torch.autograd.grad(output.sum(), maps[0], allow_unused=True) == (None,)


def test_torch_func(device):
    maps, rois = to_device((maps_of(dtype=torch.float64), boxes_of()), device)
    directions = to_device(maps_of(dtype=torch.float64, seed=9), device)

    def loss(maps):
        return (roipool.multiscale_roi_pool(maps, rois, 2, SCALES) ** 3).sum()

    leaves = [x.clone().requires_grad_() for x in maps]
    first = torch.autograd.grad(loss(leaves), leaves, create_graph=True)
    product = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
    second = torch.autograd.grad(product, leaves)
    for actual, expected in zip(grad(loss)(maps), first, strict=True):
        assert_same_bits(actual, expected.detach())
    torch.testing.assert_close(jvp(loss, (maps,), (directions,))[1], product.detach())
    for actual, expected in zip(jvp(grad(loss), (maps,), (directions,))[1], second, strict=True):
        torch.testing.assert_close(actual, expected)

    small, few = [x[:1, :1, :2, :2] for x in maps], rois[:8] * 0.01  # jacfwd maps jvp, jacrev maps vjp

    def pool(maps):
        return roipool.multiscale_roi_pool(maps, few, 2, SCALES)

    for forward, reverse in zip(jacfwd(pool)(small), jacrev(pool)(small), strict=True):
        assert_same_bits(forward, reverse)


@pytest.mark.parametrize(
    ("maps_mapped", "rois_mapped"),
    [((True,) * 4, False), ((True,) * 4, True), ((False,) * 4, True), ((False, True, False, False), False)],
)
def test_vmap(device, maps_mapped, rois_mapped):
    maps = [torch.stack([x, 2 * x, -x], 1) for x in to_device(maps_of(), device)]
    rois = torch.stack([boxes_of(wild=True, seed=i) for i in range(3)]).to(device)
    weights = features((40, 3, 2, 2), torch.float32, seed=3).to(device)
    maps = [x if mapped else x[:, 0] for x, mapped in zip(maps, maps_mapped, strict=True)]
    in_dims = ([1 if mapped else None for mapped in maps_mapped], 0 if rois_mapped else None)
    rois = rois if rois_mapped else rois[0]

    def values(maps, rois):
        output, argmax = roipool.multiscale_roi_pool(maps, rois, 2, SCALES, return_argmax=True)
        return output, argmax, roipool.multiscale_roi_pool(maps, rois, 2, SCALES)

    def gradients(maps, rois):
        return grad(lambda maps: (roipool.multiscale_roi_pool(maps, rois, 2, SCALES) * weights).sum())(maps)

    torch._C._functorch._set_vmap_fallback_warning_enabled(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # where there is no batching rule, PyTorch warns and loops
        for function in [values, gradients]:
            actual = vmap(function, in_dims)(maps, rois)
            for i in range(3):
                one = [x[:, i] if mapped else x for x, mapped in zip(maps, maps_mapped, strict=True)]
                expected = function(one, rois[i] if rois_mapped else rois)
                for a, e in zip(actual, expected, strict=True):
                    assert_same_bits(a[i], e)
