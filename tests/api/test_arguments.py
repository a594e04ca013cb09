"""roi_pool() takes numbers in tensors and arrays, a scale for each axis, and boxes as NestedTensors."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from pyramid import IMAGE, NAMES, SCALES, boxes_of, maps_of
from support import assert_same_bits, features, random_rois

import roipool
from roipool import reference
from roipool._ops.levels import find_levels

X = features((2, 3, 8, 6), torch.float32, seed=0)
ROIS = torch.tensor([[0.0, 0, 0, 4, 4], [0.0, 1, 2, 5, 6], [1.0, 2, 2, 5, 7]])

# ---- Numbers in tensors and arrays.


@pytest.mark.parametrize(
    "output_size",
    [
        torch.tensor([2, 3]),
        np.array([2, 3]),
        [torch.tensor(2), 3],
        (torch.tensor([2]), np.array(3)),
        np.array([2, 3], np.int32),
    ],
)
def test_sizes_in_tensors_and_arrays(output_size):
    expected = reference.roi_pool(X, ROIS, (2, 3))
    assert_same_bits(roipool.roi_pool(X, ROIS, output_size), expected)
    assert_same_bits(roipool.RoIPool(output_size)(X, ROIS), expected)
    assert roipool.MultiScaleRoIPool(["0"], output_size).output_size == (2, 3)
    assert_same_bits(roipool.roi_pool(X, ROIS, torch.tensor(2)), reference.roi_pool(X, ROIS, 2))


def test_a_size_that_is_no_int():
    with pytest.raises(TypeError) as caught:
        roipool.roi_pool(X, ROIS, torch.tensor([2.0]))
    assert str(caught.value) == "output_size must be an int or a pair of ints (PH, PW), got tensor([2.])"


@pytest.mark.parametrize("scale", [torch.tensor(0.5), torch.tensor([[0.5]]), np.array(0.5), np.array([0.5]), [0.5]])
def test_scales_in_tensors_and_arrays(device, scale):
    expected = reference.roi_pool(X, ROIS, 2, 0.5)
    x, rois = X.to(device), ROIS.to(device)
    assert_same_bits(roipool.roi_pool(x, rois, 2, scale), expected)
    assert_same_bits(roipool.multiscale_roi_pool([x], rois, 2, [scale]), expected)
    if isinstance(scale, torch.Tensor):
        assert_same_bits(roipool.roi_pool(x, rois, 2, scale.to(device)), expected)


def test_scales_of_a_pyramid_in_an_array():
    maps, rois = maps_of(), boxes_of()
    expected = reference.multiscale_roi_pool(maps, rois, 2, SCALES)
    for scales in [np.array(SCALES), torch.tensor(SCALES, dtype=torch.float64)]:
        assert_same_bits(roipool.multiscale_roi_pool(maps, rois, 2, scales), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_scale_of_sizes_in_a_trace():
    """torch.jit.trace has tensors for sizes. Their quotient goes into the trace, not its value."""

    def pool(image, boxes):
        features = torch.nn.functional.max_pool2d(image, 2)[..., :-2]
        return roipool.roi_pool(features, boxes, 2, features.shape[-1] / image.shape[-1])

    image, boxes = features((2, 3, 32, 20), torch.float32, seed=0), ROIS * torch.tensor([1, 4, 4, 4, 4])
    traced = torch.jit.trace(pool, (image, boxes))
    for width in [20, 24, 36]:
        image = features((2, 3, 32, width), torch.float32, seed=width)
        assert_same_bits(traced(image, boxes), pool(image, boxes))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_pair_of_scales_in_a_trace():
    def pool(x, boxes, scale_y, scale_x):
        return roipool.roi_pool(x, boxes, 2, (scale_y, scale_x))

    arguments = (X, ROIS, torch.tensor(0.5), torch.tensor(0.7))
    traced = torch.jit.trace(pool, arguments)
    other = (X, ROIS, torch.tensor(0.7), torch.tensor(0.25))
    assert_same_bits(traced(*other), reference.roi_pool(X, ROIS, 2, (np.float32(0.7), 0.25)))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_an_output_size_in_a_trace_is_a_constant_and_warns():
    """torchvision's is one, too: an operator has no other way to take it."""
    with pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(lambda x, boxes: roipool.roi_pool(x, boxes, (x.shape[2] // 4, 3)), (X, ROIS))
    assert traced(X, ROIS).shape == (3, 3, 2, 3)


def test_a_scale_in_a_tensor_under_the_compiler():
    torch._dynamo.reset()

    def pool(x, rois, scale):
        return roipool.roi_pool(x, rois, 2, scale)

    compiled = torch.compile(pool, fullgraph=True, backend="eager")
    for scale in [0.5, 0.25]:
        assert_same_bits(compiled(X, ROIS, torch.tensor(scale)), reference.roi_pool(X, ROIS, 2, scale))


# ---- A scale for each axis.


@pytest.mark.parametrize("roi_dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("scale", [(0.5, 0.25), (0.7, 1.3), (1 / 3, 1 / 3), (1e30, 0.3), (1e300, 0.5)])
def test_a_scale_for_each_axis(device, roi_dtype, scale):
    """Also for coordinates that are not finite, and for products beyond the range of floats, which are clamped."""
    wild = roi_dtype.is_floating_point and roi_dtype != torch.float16
    rois = random_rois(40, 2, 12, 9, seed=0, wild=wild).to(roi_dtype)
    if wild:
        rois[0, 1:] = torch.tensor([-3e38, -3e38, 3e38, 3e38])
    expected, expected_argmax = reference.roi_pool(X, rois, (2, 3), scale, return_argmax=True)
    x, rois = X.to(device), rois.to(device)
    output, argmax = roipool.roi_pool(x, rois, (2, 3), scale, return_argmax=True)
    assert_same_bits(output, expected)
    assert_same_bits(argmax, expected_argmax)
    assert_same_bits(roipool.RoIPool((2, 3), list(scale))(x, rois), expected)
    assert_same_bits(roipool.roi_pool(x, rois, (2, 3), torch.tensor(scale, dtype=torch.float64)), expected)


def test_the_first_of_a_pair_is_of_the_rows():
    x = torch.arange(64.0).view(1, 1, 8, 8)
    box = torch.tensor([[0.0, 4, 4, 4, 4]])
    assert roipool.roi_pool(x, box, 1, (0.5, 1.5)).item() == 2 * 8 + 6


def test_gradients_with_a_scale_for_each_axis(device):
    x = X.clone().to(device).requires_grad_()
    _, argmax = reference.roi_pool(X, ROIS, 2, (0.5, 0.25), return_argmax=True)
    grad = features(argmax.shape, torch.float32, seed=1)
    roipool.roi_pool(x, ROIS.to(device), 2, (0.5, 0.25)).backward(grad.to(device))
    assert_same_bits(x.grad, reference.roi_pool_backward(grad, ROIS, argmax, X.shape))


PAIRS = [(1 / 4, 1 / 8), (1 / 8, 1 / 16), (0.07, 1 / 32), (1 / 32, 1 / 64)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pyramids_with_a_scale_for_each_axis(device, dtype):
    maps, rois = maps_of(), boxes_of(wild=True).to(dtype)
    expected, expected_argmax = reference.multiscale_roi_pool(maps, rois, (3, 2), PAIRS, return_argmax=True)
    named = {name: map.to(device) for name, map in zip(NAMES, maps, strict=True)}
    on_device = list(named.values()), rois.to(device)
    output, argmax = roipool.multiscale_roi_pool(*on_device, (3, 2), PAIRS, return_argmax=True)
    assert_same_bits(output, expected)
    assert_same_bits(argmax, expected_argmax)
    assert_same_bits(roipool.multiscale_roi_pool(*on_device, (3, 2), PAIRS), expected)
    pool = roipool.MultiScaleRoIPool(NAMES, (3, 2), scales=PAIRS)
    assert_same_bits(pool(named, on_device[1], [IMAGE]), expected)


def test_pyramids_in_which_some_maps_have_a_scale_for_each_axis():
    maps, rois = maps_of(), boxes_of()
    scales = [1 / 4, (1 / 8, 1 / 16), torch.tensor(1 / 16), [1 / 32, 1 / 32]]
    expected = reference.multiscale_roi_pool(maps, rois, 2, scales)
    assert_same_bits(roipool.multiscale_roi_pool(maps, rois, 2, scales), expected)


def pool_pairs(maps, rois):
    return roipool.multiscale_roi_pool(list(maps), rois, 2, PAIRS[: len(maps)])


def test_a_scale_for_each_axis_under_transforms_and_in_export():
    maps, rois = tuple(maps_of()[:2]), boxes_of()
    output = reference.multiscale_roi_pool(maps, rois, 2, PAIRS[:2])
    more = torch.stack([rois, rois.flip(0)])
    assert_same_bits(torch.vmap(pool_pairs, in_dims=(None, 0))(maps, more)[1], pool_pairs(maps, rois.flip(0)))
    primal, tangent = torch.func.jvp(lambda *maps: pool_pairs(maps, rois), maps, maps)
    assert_same_bits(primal, output)
    assert torch.equal(tangent, output)  # of a function that picks values
    for strict in [False, True]:
        program = torch.export.export(PoolPairs(), (maps, rois), strict=strict)
        assert_same_bits(program.module()(maps, rois), output)


class PoolPairs(torch.nn.Module):
    def forward(self, maps, rois):
        return pool_pairs(maps, rois)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_the_scales_of_a_pyramid_in_a_trace_are_constants_and_warn():
    """torchvision's are, too: the levels of regions follow from numbers."""

    def pool(x, rois, scale):
        return roipool.multiscale_roi_pool([x], rois, 2, [scale])

    with pytest.warns(torch.jit.TracerWarning, match="the trace might not generalize"):
        traced = torch.jit.trace(pool, (X, ROIS, torch.tensor(0.5)))
    assert_same_bits(traced(X, ROIS, torch.tensor(0.25)), reference.roi_pool(X, ROIS, 2, 0.5))


def test_gradients_of_pyramids_with_a_scale_for_each_axis():
    maps, rois = [map.requires_grad_() for map in maps_of()], boxes_of().float()
    output, argmax = roipool.multiscale_roi_pool(maps, rois, 2, PAIRS, return_argmax=True)
    grad = features(output.shape, torch.float32, seed=5)
    output.backward(grad)
    shapes = [map.shape for map in maps]
    expected = reference.multiscale_roi_pool_backward(grad, rois, argmax, shapes, PAIRS)
    for map, expected_grad in zip(maps, expected, strict=True):
        assert_same_bits(map.grad, expected_grad)


def test_pyramids_with_a_scale_for_each_axis_under_the_compiler():
    torch._dynamo.reset()
    maps, rois = maps_of(), boxes_of()
    compiled = torch.compile(roipool.multiscale_roi_pool, fullgraph=True, backend="eager")
    assert_same_bits(compiled(maps, rois, 2, PAIRS), reference.multiscale_roi_pool(maps, rois, 2, PAIRS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("canonical_scale", "canonical_level"), [(224, 4), (100, 3), (1e-3, 4)])
def test_levels_are_those_of_the_operator(dtype, canonical_scale, canonical_level):
    """The maps of a level hold its number. Areas lie around each bound, where floats decide."""
    sides = [canonical_scale * 2.0**level for level in range(-3, 3)]
    integer = {torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    near = torch.arange(-60, 60, dtype=integer)
    widths = torch.cat([(torch.tensor(side, dtype=dtype).view(integer) + near).view(dtype) for side in sides])
    rois = torch.zeros(len(widths), 5, dtype=dtype)
    rois[:, 3] = widths
    rois[:, 4] = torch.tensor(sides, dtype=dtype).repeat_interleave(len(near))
    maps = [torch.full((1, 1, 2, 2), float(level)) for level in range(4)]
    canonical = {"canonical_scale": canonical_scale, "canonical_level": canonical_level}
    expected = roipool.multiscale_roi_pool(maps, rois, 1, SCALES, **canonical).flatten().int()
    assert expected.unique().numel() > 1
    levels = find_levels(rois, (SCALES[0], SCALES[0]), len(SCALES), canonical_scale, canonical_level)
    assert torch.equal(levels, expected)


COMPILED_CALLS = {
    "pyramid": lambda x, rois, scale: roipool.multiscale_roi_pool([x, x], rois, 2, [scale, scale / 2]),
    "pair": lambda x, rois, scale: roipool.roi_pool(x, rois, 2, (scale, scale / 2)),
    "pyramid of pairs": lambda x, rois, scale: roipool.multiscale_roi_pool([x], rois, 2, [(scale, scale / 2)]),
}


@pytest.mark.parametrize("call", COMPILED_CALLS)
def test_scales_that_are_symbols_of_the_compiler(call):
    torch._dynamo.reset()
    compiled = torch.compile(COMPILED_CALLS[call], fullgraph=True, dynamic=True, backend="eager")
    for scale in [0.5, 0.7, 0.3]:
        assert_same_bits(compiled(X, ROIS, scale), COMPILED_CALLS[call](X, ROIS, scale))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_scales_in_float64_tensors_do_not_widen_what_is_captured(shape):
    """45 * 0.7 is 31.5 in float32, and less in float64."""
    x = torch.arange(40.0).view(1, 1, 1, 40)
    scales = [torch.full(shape, scale, dtype=torch.float64) for scale in [0.5, 0.7]]
    arguments = (x, torch.tensor([[0.0, 45, 0, 45, 0]]), *scales)

    def pool(x, rois, scale_y, scale_x):
        return roipool.roi_pool(x, rois, 1, (scale_y, scale_x))

    torch._dynamo.reset()
    captured = [torch.jit.trace(pool, arguments), torch.compile(pool, fullgraph=True, backend="eager")]
    for call in [pool, *captured]:
        assert call(*arguments).item() == 32


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ((Fraction(1, 2), Fraction(1, 4)), None),
        (Fraction(1, 2), None),
        (Fraction(10**400), "spatial_scale must be finite and greater than 0, got Fraction beyond the range of floats"),
        ((10**400, 1), "spatial_scale must be finite and greater than 0, got an int beyond the range of floats"),
    ],
)
def test_numbers_of_other_kinds(scale, message):
    if message is None:
        floats = tuple(map(float, scale)) if isinstance(scale, tuple) else float(scale)
        assert_same_bits(roipool.roi_pool(X, ROIS, 2, scale), reference.roi_pool(X, ROIS, 2, floats))
    else:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is compared
            roipool.roi_pool(X, ROIS, 2, scale)
        assert str(caught.value) == message


def test_scales_whose_product_is_no_float():
    scales = [(1e-200, 1e-200), (1e-200, 1e-199)][::-1]
    assert_same_bits(
        roipool.multiscale_roi_pool([X, X], ROIS, 2, scales), reference.multiscale_roi_pool([X, X], ROIS, 2, scales)
    )


def test_a_mean_scale_between_two_levels():
    scales = [(17 / 24, 3 / 17), (0.1, 0.1)]  # 2^-1.5 is as near to level 1 as to level 2
    rois = torch.tensor([[0.0, 0, 0, 40, 40], [1.0, 0, 0, 80, 80]])
    canonical = {"canonical_scale": 40, "canonical_level": 2}
    assert_same_bits(
        roipool.multiscale_roi_pool([X, X + 1], rois, 2, scales, **canonical),
        reference.multiscale_roi_pool([X, X + 1], rois, 2, scales, **canonical),
    )


# ---- Boxes as NestedTensors.


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boxes_as_a_nested_tensor(device, layout, dtype):
    """It has one entry for each image."""
    rois = ROIS.to(dtype)
    boxes = torch.nested.nested_tensor([rois[:2, 1:], rois[2:, 1:]], layout=layout, device=device)
    assert_same_bits(roipool.roi_pool(X.to(device), boxes, 2), reference.roi_pool(X, rois, 2))
    assert_same_bits(roipool.multiscale_roi_pool([X.to(device)], boxes, 2, [1.0]), reference.roi_pool(X, rois, 2))
    three = torch.nested.nested_tensor([rois[:, 1:]] * 3, layout=layout, device=device)
    with pytest.raises(ValueError, match=r"boxes must hold one tensor \(L_i, 4\) for each of the 2 images .*, got 3"):
        roipool.roi_pool(X.to(device), three, 2)


def test_lists_of_boxes_of_other_layouts():
    with pytest.raises(TypeError, match=r"^boxes\[1\] must be a dense tensor, got layout torch.sparse_coo$"):
        roipool.roi_pool(X, [ROIS[:2, 1:], ROIS[2:, 1:].to_sparse()], 2)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("spatial_scale", [0.5, (0.5, 0.25)])
@pytest.mark.parametrize("detects", [False, True])
def test_boxes_and_maps_of_other_layouts(spatial_scale, detects):
    calls = [
        lambda x, rois: roipool.roi_pool(x, rois, 2, spatial_scale),
        lambda x, rois: roipool.multiscale_roi_pool([x], rois, 2, [spatial_scale]),
    ]
    for call, name in zip(calls, ["input", r"inputs\[0\]"], strict=True):
        with roipool.set_detect_bad_boxes(detects):
            with pytest.raises(TypeError, match=r"^boxes must be a dense tensor, got layout torch.sparse_csr$"):
                call(X, ROIS.to_sparse_csr())
            with pytest.raises(TypeError, match=rf"^{name} must be a dense tensor, got layout torch.sparse_coo$"):
                call(X.to_sparse(), ROIS)
