"""Feature pyramids: the operators on every set of kernels, then the function and the module around them."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from support import (
    DTYPES,
    assert_same_bits,
    channels_last,
    check_pyramid_against_reference,
    contiguous,
    features,
    pyramid_problems,
    random_rois,
    to_device,
)
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.export import Dim, export
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import roipool
from roipool import reference
from roipool.modules import infer_scales

ops = torch.ops.roipool

NAMES = ["0", "1", "2", "3"]
SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
PYRAMID = (SCALES, 224.0, 4)
IMAGE = (256, 320)  # pixels


def maps_of(channels=3, dtype=torch.float32, layout=contiguous, batch_size=2, seed=0):
    sizes = [(int(IMAGE[0] * scale), int(IMAGE[1] * scale)) for scale in SCALES]
    return [layout(features((batch_size, channels, *size), dtype, seed + i)) for i, size in enumerate(sizes)]


def boxes_of(num_rois=40, wild=False, seed=0):
    """Of all sizes, so that no level is without one: canonical_scale 224 puts 40 px on the first level."""
    rois = random_rois(num_rois, 2, *IMAGE, seed, wild=wild)
    shrink = torch.tensor([1.0, 0.5, 0.25, 0.125]).repeat(num_rois)[:num_rois, None]
    rois[:, 3:] = rois[:, 1:3] + (rois[:, 3:] - rois[:, 1:3]) * shrink * 2
    return rois


# ---- The operators.


@settings(max_examples=300)
@given(pyramid_problems())
def test_random_pyramids(backend, problem):
    check_pyramid_against_reference(backend, *problem)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [3, 70])
def test_every_dtype_and_layout(backend, channels, layout, dtype):
    maps, rois = maps_of(channels, dtype, layout), boxes_of(wild=True)
    assert reference.levels_of(boxes_of()[:, 1:], *PYRAMID).unique().tolist() == [0, 1, 2, 3]
    check_pyramid_against_reference(backend, maps, rois, (4, 3), PYRAMID)
    output = backend.ops.multiscale_roi_pool(to_device(maps, backend.device), rois.to(backend.device), 4, 3, *PYRAMID)
    assert output.is_contiguous(memory_format=torch.channels_last) == (layout is channels_last)


def test_a_pyramid_of_one_level_is_roi_pool(backend):
    x, rois = features((2, 20, 9, 8), torch.float32, seed=0).to(backend.device), boxes_of().to(backend.device)
    actual = backend.ops.multiscale_roi_pool_with_argmax([x], rois, 3, 2, [0.03], 224.0, 4)
    for a, e in zip(actual, backend.ops.roi_pool_with_argmax(x, rois, 3, 2, 0.03), strict=True):
        assert_same_bits(a, e)


def test_levels_are_those_of_torchvision(backend):
    """Recorded from torchvision 0.28's LevelMapper, for sizes next to each bound and random boxes."""
    recorded = np.load(Path(__file__).parent / "data" / "multiscale_levels.npz")
    for dtype in ["float32", "float64"]:
        boxes, levels = (torch.from_numpy(recorded[f"{dtype}_{name}"]) for name in ["boxes", "levels"])
        assert_same_bits(reference.levels_of(boxes, *PYRAMID), levels.long())
        maps = [torch.full((1, 1, 256 >> i, 256 >> i), float(i), device=backend.device) for i in range(4)]
        rois = torch.nn.functional.pad(boxes, (1, 0)).to(backend.device)
        output = backend.ops.multiscale_roi_pool(maps, rois, 1, 1, *PYRAMID)
        assert_same_bits(output.flatten().cpu().long(), levels.long())


@pytest.mark.parametrize(
    ("box", "level"),
    [
        ([0, 0, 111, 111], 0),
        ([0, 0, 112, 112], 1),
        ([0, 0, 223, 223], 1),
        ([0, 0, 224, 224], 2),
        ([0, 0, 448, 448], 3),
        ([0, 0, 1e9, 1e9], 3),
        ([0, 0, 50176, 1], 2),  # the area counts, not the shape
        ([5, 5, 5, 5], 0),
        ([9, 0, 0, 500], 0),  # malformed: no area
        ([480, 480, 20, 20], 3),  # malformed in both directions: an area, as torchvision's
    ],
)
def test_level_of_a_box(backend, box, level):
    maps = [torch.full((1, 1, 512 >> i, 512 >> i), float(i), device=backend.device) for i in range(2, 6)]
    rois = torch.tensor([[0.0, *box]], device=backend.device)
    assert backend.ops.multiscale_roi_pool(maps, rois, 1, 1, *PYRAMID).item() == level + 2


@pytest.mark.parametrize("canonical", [(1e-300, 4), (1e300, 4), (1e-45, -(2**40)), (224.0, 2**62), (224.0, -(2**62))])
def test_levels_beyond_the_range_of_floats_are_clamped(backend, canonical):
    maps = [torch.full((1, 1, 4, 4), float(i), device=backend.device) for i in range(4)]
    rois = torch.tensor([[0.0, 0, 0, 3, 3]], device=backend.device)
    expected = reference.multiscale_roi_pool(
        [x.cpu() for x in maps], rois.cpu(), 1, SCALES, canonical_scale=canonical[0], canonical_level=canonical[1]
    )
    assert_same_bits(backend.ops.multiscale_roi_pool(maps, rois, 1, 1, SCALES, *canonical), expected)


def test_an_infinite_area_over_an_infinite_scale_is_no_number(backend):
    """In float32, where neither fits: as any level that is NaN, the first."""
    maps = [torch.full((1, 1, 4, 4), float(i), device=backend.device) for i in range(4)]
    rois = torch.tensor([[0.0, -1e30, -1e30, 1e30, 1e30]], device=backend.device)
    assert backend.ops.multiscale_roi_pool(maps, rois, 1, 1, SCALES, 1e100, 4).item() == 0
    assert backend.ops.multiscale_roi_pool(maps, rois, 1, 1, SCALES, 1e30, 4).item() == 3
    assert backend.ops.multiscale_roi_pool(maps, rois.double(), 1, 1, SCALES, 1e100, 4).item() == 0


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
@pytest.mark.parametrize("num_rois", [0, 9])
def test_empty_shapes(backend, num_rois, shape):
    maps = [torch.zeros(shape, device=backend.device) for _ in SCALES]
    rois = torch.zeros(num_rois, 5, device=backend.device)
    output, argmax = backend.ops.multiscale_roi_pool_with_argmax(maps, rois, 2, 3, *PYRAMID)
    assert_same_bits(output, torch.zeros(num_rois, shape[1], 2, 3))
    sizes = (shape[0], [shape[2]] * 4, [shape[3]] * 4)
    for g in backend.ops.multiscale_roi_pool_backward(output, rois, argmax, *sizes, *PYRAMID):
        assert_same_bits(g, torch.zeros(shape))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("cell", [9, 35, 36, 2**31 - 1, -1, -2, -(2**31)])
def test_argmax_that_is_no_cell_is_ignored(backend, cell, layout):
    """Of the map that the region is pooled from: 36 cells on the first level, 9 on the second."""
    maps = [layout(torch.ones(1, 20, size, size, device=backend.device)) for size in [6, 3]]
    rois = torch.tensor([[0.0, 0, 0, 2, 2], [0.0, 0, 0, 5, 5]], device=backend.device)
    pyramid = ([1.0, 0.5], 4.0, 1)
    levels = reference.levels_of(rois[:, 1:].cpu(), *pyramid)
    assert levels.tolist() == [0, 1]
    argmax = layout(torch.full((2, 20, 2, 2), cell, dtype=torch.int32, device=backend.device))
    is_cell = 0 <= cell < 36  # of the first level; none is one of the second
    output = backend.ops.multiscale_roi_pool_gather(maps, rois, argmax, *pyramid)
    assert (output[0] == int(is_cell)).all()
    assert (output[1] == 0).all()
    grads = backend.ops.multiscale_roi_pool_backward(argmax.float().fill_(1), rois, argmax, 1, [6, 3], [6, 3], *pyramid)
    assert grads[0].sum() == (80 if is_cell else 0)
    assert grads[1].sum() == 0


# ---- As PyTorch sees them.


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_opcheck(device, layout, requires_grad):
    maps, rois = to_device((maps_of(layout=layout), boxes_of().float()), device)
    output, argmax = ops.multiscale_roi_pool_with_argmax(maps, rois, 3, 2, *PYRAMID)
    sizes = (2, [x.shape[2] for x in maps], [x.shape[3] for x in maps])
    maps = [x.requires_grad_(requires_grad) for x in maps]
    for op, arguments in [
        (ops.multiscale_roi_pool, (maps, rois, 3, 2, *PYRAMID)),
        (ops.multiscale_roi_pool_with_argmax, (maps, rois, 3, 2, *PYRAMID)),
        (ops.multiscale_roi_pool_backward, (output.requires_grad_(requires_grad), rois, argmax, *sizes, *PYRAMID)),
        (ops.multiscale_roi_pool_gather, (maps, rois, argmax, *PYRAMID)),
    ]:
        torch.library.opcheck(op.default, arguments)


X, ROIS = torch.zeros(2, 3, 4, 5), torch.zeros(6, 5)
GRAD, ARGMAX = torch.zeros(6, 3, 2, 2), torch.zeros(6, 3, 2, 2, dtype=torch.int32)
ONE = ([1.0], 224.0, 4)
TWO = ([1.0, 0.5], 224.0, 4)
MISUSE = {
    "multiscale_roi_pool": {
        "inputs must hold 1 to 8 levels, got 0": ([], ROIS, 2, 2, [], 224.0, 4),
        "inputs must hold 1 to 8 levels, got 9": ([X] * 9, ROIS, 2, 2, [1.0] * 9, 224.0, 4),
        "inputs[1] must be a 4-D tensor (N, C, H, W), got shape (3, 4, 5)": ([X, X[0]], ROIS, 2, 2, *TWO),
        "inputs[1] must have the N and C of inputs[0], (2, 3), got shape (2, 2, 4, 5)": (
            [X, X[:, 1:]],
            ROIS,
            2,
            2,
            *TWO,
        ),
        "inputs[1] must have the N and C of inputs[0], (2, 3), got shape (1, 3, 4, 5)": ([X, X[1:]], ROIS, 2, 2, *TWO),
        "inputs[1] must be float32 as inputs[0], got float64": ([X, X.double()], ROIS, 2, 2, *TWO),
        "inputs[0] must be float16, bfloat16, float32 or float64, got int32": ([X.int()], ROIS, 2, 2, *ONE),
        "inputs[1] must have at most 2147483647 cells in a plane (H*W), got 65536 x 32768": (
            [X, torch.zeros(1).expand(2, 3, 2**16, 2**15)],
            ROIS,
            2,
            2,
            *TWO,
        ),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (6, 4)": (
            [X],
            ROIS[:, 1:],
            2,
            2,
            *ONE,
        ),
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (2, 0)": (
            [X],
            ROIS,
            2,
            0,
            *ONE,
        ),
        "spatial_scales must hold as many numbers as inputs, 2, got 1": ([X, X], ROIS, 2, 2, *ONE),
        "spatial_scales[1] must be finite and greater than 0, got 0": ([X, X], ROIS, 2, 2, [1.0, 0.0], 224.0, 4),
        "canonical_scale must be finite and greater than 0, got nan": ([X], ROIS, 2, 2, [1.0], float("nan"), 4),
    },
    "multiscale_roi_pool_backward": {
        "heights must hold 1 to 8 levels, got 0": (GRAD, ROIS, ARGMAX, 2, [], [], [], 224.0, 4),
        "widths must hold as many numbers as heights, 1, got 2": (GRAD, ROIS, ARGMAX, 2, [4], [5, 5], *ONE),
        "spatial_scales must hold as many numbers as heights, 1, got 2": (GRAD, ROIS, ARGMAX, 2, [4], [5], *TWO),
        "batch_size, heights and widths must not be negative, got 2, 4 and -5": (
            GRAD,
            ROIS,
            ARGMAX,
            2,
            [4, 4],
            [5, -5],
            *TWO,
        ),
        "argmax must be int32, got int64": (GRAD, ROIS, ARGMAX.long(), 2, [4], [5], *ONE),
        "grad_inputs must have at most 2147483647 cells in a plane (H*W), got 1048576 x 1048576": (
            GRAD,
            ROIS,
            ARGMAX,
            2,
            [2**20],
            [2**20],
            *ONE,
        ),
    },
    "multiscale_roi_pool_gather": {
        "argmax must have shape (K, C, PH, PW) with K = 6 as in rois and C = 3 as in inputs[0], "
        "got shape (6, 2, 2, 2)": (
            [X],
            ROIS,
            ARGMAX[:, 1:],
            *ONE,
        ),
        "spatial_scales must hold as many numbers as inputs, 2, got 1": ([X, X], ROIS, ARGMAX, *ONE),
    },
}
MISUSE["multiscale_roi_pool_with_argmax"] = MISUSE["multiscale_roi_pool"]
CASES = [(op, message, arguments) for op, cases in MISUSE.items() for message, arguments in cases.items()]


@pytest.mark.parametrize(("op", "message", "arguments"), CASES)
def test_misuse_is_one_clear_error(backend, op, message, arguments):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is compared
        getattr(backend.ops, op)(*to_device(arguments, backend.device))
    assert str(caught.value) == message


@pytest.mark.parametrize(("op", "message", "arguments"), CASES)
def test_fake_kernels_refuse_the_same_in_the_same_words(op, message, arguments):
    with FakeTensorMode() as mode, pytest.raises(ValueError) as caught:  # noqa: PT011
        getattr(ops, op)(*torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, arguments))
    assert str(caught.value) == message


def test_maps_on_two_devices(device):
    with pytest.raises(ValueError, match=r"inputs\[1\] must be on the device of inputs\[0\]"):
        ops.multiscale_roi_pool([X.to(device), X.to("meta")], ROIS.to(device), 2, 2, *TWO)


# ---- Derivatives.


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
        # and of the gather, which a second derivative asks for
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

    small, few = [x[:1, :1, :2, :2] for x in maps], rois[:8] * 0.01  # jacfwd is vmap of jvp, jacrev vmap of vjp

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


# ---- The function and the module.


def test_function_and_module_agree_with_the_reference(device):
    maps, rois = maps_of(), boxes_of()
    rois = rois[rois[:, 0].argsort(stable=True)]
    boxes = [rois[rois[:, 0] == i, 1:] for i in range(2)]
    expected, expected_argmax = reference.multiscale_roi_pool(maps, rois, (3, 2), SCALES, return_argmax=True)
    maps, boxes, rois = to_device((maps, boxes, rois), device)
    named = {"p2": maps[0], "p3": maps[1], "unused": maps[0][:, :1], "p4": maps[2], "p5": maps[3]}
    pool = roipool.MultiScaleRoIPool(["p2", "p3", "p4", "p5"], (3, 2))
    assert pool.output_size == (3, 2)
    assert_same_bits(pool(named, boxes, [IMAGE, (200, 300)]), expected)
    assert_same_bits(pool(named, rois, [IMAGE]), expected)
    assert_same_bits(pickle.loads(pickle.dumps(pool))(named, boxes, [IMAGE, IMAGE]), expected)
    renamed = dict(zip(["d", "c", "unused", "b", "a"], named.values(), strict=True))  # what counts is their order
    assert_same_bits(roipool.MultiScaleRoIPool(["a", "b", "c", "d"], (3, 2))(renamed, rois, [IMAGE]), expected)
    assert roipool.MultiScaleRoIPool(["p2"], 3).output_size == (3, 3)  # as MultiScaleRoIAlign's
    output, argmax = roipool.multiscale_roi_pool(maps, boxes, (3, 2), SCALES, return_argmax=True)
    assert_same_bits(output, expected)
    assert_same_bits(argmax, expected_argmax)

    other = roipool.MultiScaleRoIPool(["p2", "p3", "p4", "p5"], (3, 2), canonical_scale=56, canonical_level=3)
    canonical = {"canonical_scale": 56, "canonical_level": 3}
    assert_same_bits(
        other(named, boxes, [IMAGE]),
        reference.multiscale_roi_pool([x.cpu() for x in maps], rois.cpu(), (3, 2), SCALES, **canonical),
    )


@pytest.mark.parametrize(
    ("sizes", "image_shapes", "expected"),
    [
        ([(64, 80), (32, 40), (16, 20), (8, 10)], [(256, 320)], [1 / 4, 1 / 8, 1 / 16, 1 / 32]),
        ([(200, 336), (100, 168), (50, 84), (25, 42)], [(320, 1000), (800, 1333)], [1 / 4, 1 / 8, 1 / 16, 1 / 32]),
        ([(25, 42)], [(800, 1333)], [1 / 32]),
        ([(100, 100)], [(100, 90)], [1.0]),
        ([(200, 200)], [(100, 90)], [2.0]),
        ([(11, 9)], [(16, 90)], [1 / 2]),  # log2 of 11/16 is -0.54
        ([(12, 9)], [(16, 90)], [1.0]),  # log2 of 12/16 is -0.42
        ([(24, 9)], [(16, 90)], [2.0]),  # log2 of 24/16 is 0.58
        ([(0, 9)], [(16, 90)], [1.0]),
    ],
)
def test_scales_are_inferred(sizes, image_shapes, expected):
    maps = [torch.empty(1, 1, *size, device="meta") for size in sizes]
    assert infer_scales(maps, image_shapes) == expected


def test_scales_that_are_known_are_not_inferred():
    maps, rois = maps_of(), boxes_of()
    pool = roipool.MultiScaleRoIPool(NAMES, 2)
    pool.scales = [1 / 8, 1 / 16, 1 / 32, 1 / 64]
    named = {str(i): x for i, x in enumerate(maps)}
    assert_same_bits(pool(named, rois, [IMAGE]), reference.multiscale_roi_pool(maps, rois, 2, pool.scales))


def test_maps_that_autocast_left_in_another_dtype(device):
    maps, rois = maps_of(), boxes_of()
    mixed = [x.to(dtype) for x, dtype in zip(maps, [torch.bfloat16, *[torch.float32] * 3], strict=True)]
    expected = reference.multiscale_roi_pool([x.bfloat16() for x in maps], rois, 2, SCALES)
    named = {str(i): x.to(device) for i, x in enumerate(mixed)}
    output = roipool.MultiScaleRoIPool(NAMES, 2)(named, rois.to(device), [IMAGE])
    assert_same_bits(output, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": X}, TypeError, "inputs must be a list of tensors (N, C, H, W), got Tensor"),
        ({"inputs": [X, 1]}, TypeError, "inputs[1] must be a torch.Tensor, got int"),
        ({"inputs": []}, ValueError, "inputs must hold 1 to 8 levels, got 0"),
        ({"inputs": [X, X.long()]}, TypeError, "inputs[1] must be float16, bfloat16, float32 or float64, got int64"),
        (
            {"boxes": [ROIS[:, 1:]]},
            ValueError,
            "boxes must hold one tensor (L_i, 4) for each of the 2 images of inputs[0], got 1",
        ),
        ({"spatial_scales": 0.5}, TypeError, "spatial_scales must be a list of floats, got float"),
        ({"spatial_scales": [1.0, "1"]}, TypeError, "spatial_scales[1] must be a float, got str"),
        ({"spatial_scales": [1.0]}, ValueError, "spatial_scales must hold as many numbers as inputs, 2, got 1"),
        ({"canonical_scale": None}, TypeError, "canonical_scale must be a float, got NoneType"),
        ({"canonical_scale": -1}, ValueError, "canonical_scale must be finite and greater than 0, got -1"),
        ({"canonical_level": 4.0}, TypeError, "canonical_level must be an int, got float"),
        ({"canonical_level": 2**63}, ValueError, f"canonical_level must be an int of 64 bits, got {2**63}"),
        (
            {"output_size": (2, 0)},
            ValueError,
            "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (2, 0)",
        ),
    ],
)
def test_misuse_of_the_function(change, error, message):
    arguments = {"inputs": [X, X], "boxes": ROIS, "output_size": 2, "spatial_scales": [1.0, 0.5], **change}
    with pytest.raises(error) as caught:
        roipool.multiscale_roi_pool(**arguments)
    assert str(caught.value) == message


IMAGE_SHAPES = "image_shapes must be a list with the (height, width) of each image, got "


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": {"c": X}}, ValueError, "features must have maps named in ['a', 'b'], got ['c']"),
        ({"features": [X]}, TypeError, "features must be a dictionary of tensors (N, C, H, W), got list"),
        ({"features": {"a": None}}, TypeError, "features['a'] must be a torch.Tensor, got NoneType"),
        (
            {"features": {"a": X, "b": X.long()}},
            TypeError,
            "features['b'] must be float16, bfloat16, float32 or float64, got int64",
        ),
        ({"features": {"a": X[0]}}, ValueError, "inputs[0] must be a 4-D tensor (N, C, H, W), got shape (3, 4, 5)"),
        ({"image_shapes": []}, ValueError, IMAGE_SHAPES + "[]"),
        ({"image_shapes": None}, ValueError, IMAGE_SHAPES + "None"),
        ({"image_shapes": (256, 320)}, ValueError, IMAGE_SHAPES + "(256, 320)"),
        ({"image_shapes": [(3, 256, 320)]}, ValueError, IMAGE_SHAPES + "[(3, 256, 320)]"),
        ({"image_shapes": [(0, 0)]}, ValueError, IMAGE_SHAPES + "[(0, 0)]"),
    ],
)
def test_misuse_of_the_module(change, error, message):
    arguments = {"features": {"a": X, "b": X}, "boxes": ROIS, "image_shapes": [IMAGE, IMAGE], **change}
    with pytest.raises(error) as caught:
        roipool.MultiScaleRoIPool(["a", "b"], 2)(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], 2.0), "output_size must be an int or a pair of ints (PH, PW), got 2.0"),
        (("feat1", 2), "featmap_names must be a list of str, got 'feat1'"),
        (([1, 2], 2), "featmap_names must be a list of str, got [1, 2]"),
    ],
)
def test_misuse_of_the_constructor(arguments, message):
    with pytest.raises(TypeError) as caught:
        roipool.MultiScaleRoIPool(*arguments)
    assert str(caught.value) == message


def test_a_map_without_rows(device):
    maps = {"a": torch.zeros(2, 3, 0, 4, device=device)}
    output = roipool.MultiScaleRoIPool(["a"], 2)(maps, ROIS.to(device), [IMAGE])
    assert_same_bits(output, torch.zeros(6, 3, 2, 2))


def test_fx_symbolic_trace():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = roipool.MultiScaleRoIPool(NAMES, 2)

        def forward(self, features, boxes, image_shapes):
            return self.pool(features, boxes, image_shapes) + 1

    maps, rois = maps_of(), boxes_of()
    arguments = ({str(i): x for i, x in enumerate(maps)}, rois, [IMAGE])
    assert_same_bits(torch.fx.symbolic_trace(Model())(*arguments), Model()(*arguments))


class Logged(torch.Tensor):
    calls: list = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.calls.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_subclass_of_tensor():
    maps, rois = maps_of(), boxes_of()
    output = roipool.multiscale_roi_pool([*maps[:3], maps[3].as_subclass(Logged)], rois, 2, SCALES)
    assert roipool.multiscale_roi_pool in Logged.calls
    for boxes in [rois.as_subclass(Logged), [rois[:20, 1:], rois[20:, 1:].as_subclass(Logged)]]:
        Logged.calls.clear()
        assert type(roipool.multiscale_roi_pool(maps, boxes, 2, SCALES)) is Logged
        assert roipool.multiscale_roi_pool in Logged.calls
    assert_same_bits(output.as_subclass(torch.Tensor), reference.multiscale_roi_pool(maps, rois, 2, SCALES))


# ---- The compiler.


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
@pytest.mark.parametrize("dynamic", [False, True, None])
@pytest.mark.parametrize("backend_name", ["aot_eager", "inductor"])
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
    """Of images of one size, whose maps need not be a power of 2 smaller, as their padding varies."""

    class Fixed(Head):
        def forward(self, features, boxes):
            return super().forward(features, boxes, [(643, 320)] * 2)

    maps, boxes, _ = head_inputs(168, 80, 9, device)
    sizes = ({name: {2: Dim.AUTO, 3: Dim.AUTO} for name in maps}, [{0: Dim.AUTO}] * 2)
    program = export(Fixed(), (maps, boxes), dynamic_shapes=sizes, strict=strict).module()
    for height, width, num_rois in [(168, 80, 9), (161, 96, 7), (176, 88, 11)]:
        maps, boxes, _ = head_inputs(height, width, num_rois, device)
        assert_same_bits(program(maps, boxes), Fixed()(maps, boxes))


# ---- CUDA.


def test_same_bits_as_on_cpu(cuda):
    for dtype in DTYPES:
        for layout in [contiguous, channels_last]:
            maps, rois = maps_of(256, dtype, layout), boxes_of(300, wild=True)
            results = []
            for place in [torch.device("cpu"), cuda]:
                leaves = [x.to(place).requires_grad_() for x in maps]
                output = roipool.multiscale_roi_pool(leaves, rois.to(place), 7, SCALES)
                grads = torch.autograd.grad(output, leaves, features(output.shape, dtype, seed=1).to(place))
                results.append([output.detach(), *grads])
            for actual, expected in zip(*results, strict=True):
                assert_same_bits(actual, expected)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_nothing_waits_for_the_device(cuda):
    maps, rois = to_device((maps_of(), boxes_of()), cuda)
    named = {str(i): x.requires_grad_() for i, x in enumerate(maps)}
    boxes = list(rois[:, 1:].split(20))
    try:
        torch.cuda.set_sync_debug_mode("error")
        roipool.MultiScaleRoIPool(NAMES, 7)(named, boxes, [IMAGE]).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
