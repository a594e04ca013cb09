"""multiscale_roi_pool() and MultiScaleRoIPool as users call them."""

import pickle

import numpy as np
import pytest
import torch
from pyramid import IMAGE, NAMES, SCALES, boxes_of, maps_of
from support import (
    assert_same_bits,
    to_device,
)

import roipool
from roipool import reference
from roipool.modules import infer_scales

X, ROIS = torch.zeros(2, 3, 4, 5), torch.zeros(6, 5)


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
    shuffled = {name: named[name] for name in ["p5", "unused", "p3", "p2", "p4"]}  # the order of the names counts
    assert_same_bits(pool(shuffled, rois, [IMAGE]), expected)
    assert roipool.MultiScaleRoIPool(["p2"], 3).output_size == (3, 3)  # MultiScaleRoIAlign keeps a pair as well
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
        ([(90, 110)], [(64, 160)], [1 / 2]),  # log2 of 110/160 is -0.54
        ([(90, 120)], [(64, 160)], [1.0]),  # log2 of 120/160 is -0.42
        ([(90, 240)], [(64, 160)], [2.0]),  # log2 of 240/160 is 0.58
        ([(110, 90)], [(160, 64)], [1 / 2]),  # the longer side is the height
        ([(9, 0)], [(90, 160)], [1.0]),
        # Images of 40 rows are padded to 64. By the height, the scales would be 1/2 and 1/4.
        ([(16, 160), (8, 80)], [(40, 640)], [1 / 4, 1 / 8]),
        ([(160, 16), (80, 8)], [(640, 40)], [1 / 4, 1 / 8]),
        ([(16, 160), (8, 80)], [(40, 320), (30, 640)], [1 / 4, 1 / 8]),
        # 66 columns are padded to 96: the longer side misleads, the shorter does not.
        ([(16, 24)], [(64, 66)], [1 / 4]),
        ([(24, 16)], [(66, 64)], [1 / 4]),
    ],
)
@pytest.mark.parametrize("is_compiling", [False, True])  # the compiler has a way of its own
def test_scales_are_inferred(monkeypatch, sizes, image_shapes, expected, is_compiling):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: is_compiling)
    maps = [torch.empty(1, 1, *size, device="meta") for size in sizes]
    assert infer_scales(maps, image_shapes) == expected


@pytest.mark.parametrize("side", [1, 22, 33, 45, 65, 67])
def test_scales_that_padding_makes_ambiguous_warn(side):
    """The map has a stride of 4 of an image that was padded; without padding, the stride would be 2."""
    padded = -(-side // 32) * 32
    maps = [torch.empty(1, 1, padded // 4, padded // 4, device="meta")]
    with pytest.warns(UserWarning, match=rf"cannot be told from images of {side} x {side}.*the argument scales"):
        assert infer_scales(maps, [(side, side)]) != [1 / 4]


@pytest.mark.parametrize("side", [23, 32, 46, 64, 68, 800])
def test_scales_that_padding_leaves_alone_do_not_warn(side):
    padded = -(-side // 32) * 32
    assert infer_scales([torch.empty(1, 1, padded // 4, padded // 4, device="meta")], [(side, side)]) == [1 / 4]


@pytest.mark.parametrize(
    "image_shapes",
    [
        torch.tensor([[256, 320], [200, 300]]),
        [torch.tensor([256, 320]), np.array([200, 300])],
        [torch.Size([256, 320]), (np.int64(200), 300)],
        np.array([[256, 320]]),
    ],
)
def test_forms_of_image_shapes(image_shapes):
    maps = [torch.empty(1, 1, 64, 80, device="meta"), torch.empty(1, 1, 32, 40, device="meta")]
    assert infer_scales(maps, image_shapes) == [1 / 4, 1 / 8]


def test_scales_that_are_known_are_not_inferred():
    maps, rois = maps_of(), boxes_of()
    scales = [1 / 8, 1 / 16, 1 / 32, 1 / 64]
    expected = reference.multiscale_roi_pool(maps, rois, 2, scales)
    named = {str(i): x for i, x in enumerate(maps)}
    pool = roipool.MultiScaleRoIPool(NAMES, 2, scales=scales)
    assert_same_bits(pool(named, rois, [IMAGE]), expected)
    assert_same_bits(pool(named, rois), expected)
    pool = roipool.MultiScaleRoIPool(NAMES, 2)
    pool.scales = scales
    assert_same_bits(pool(named, rois, [IMAGE]), expected)


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
        (
            {"spatial_scales": [0.5, 1]},
            ValueError,
            "maps must go from fine to coarse, got the scales [0.5, 1] (1/stride)",
        ),
        (
            {"spatial_scales": [0.5, (1, 0.5)]},
            ValueError,
            "maps must go from fine to coarse, got the scales [0.5, (1, 0.5)] (1/stride)",
        ),
        (
            {"spatial_scales": [1.0, (1, 0.5, 1)]},
            ValueError,
            "spatial_scales[1] must be a float or a pair of floats (y, x), got 3 numbers",
        ),
        (
            {"spatial_scales": [1.0, (0.5, -1)]},
            ValueError,
            "spatial_scales[1][1] must be finite and greater than 0, got -1",
        ),
        ({"spatial_scales": [(1.0, 0.5)]}, ValueError, "spatial_scales must hold as many numbers as inputs, 2, got 1"),
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


MISSING = (
    "features must have all maps of featmap_names, ['a', 'b'], got {}: name those that there are "
    "(torchvision skips the others: docs/guides/pyramids.md)"
)
IMAGE_SHAPES = "image_shapes must be a list with the (height, width) of each image, got "


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": {"c": X}}, ValueError, MISSING.format("['c']")),
        ({"features": {"a": X, "c": X}}, ValueError, MISSING.format("['a', 'c']")),
        ({"features": [X]}, TypeError, "features must be a dictionary of tensors (N, C, H, W), got list"),
        ({"features": {"a": None}}, TypeError, "features['a'] must be a torch.Tensor, got NoneType"),
        (
            {"features": {"a": X, "b": X.long()}},
            TypeError,
            "features['b'] must be float16, bfloat16, float32 or float64, got int64",
        ),
        (
            {"features": {"a": X[..., :2], "b": X}},
            ValueError,
            "maps must go from fine to coarse, got the scales [0.0078125, 0.015625] (1/stride)",
        ),
        (
            {"features": {"a": X[0], "b": X}},
            ValueError,
            "inputs[0] must be a 4-D tensor (N, C, H, W), got shape (3, 4, 5)",
        ),
        ({"image_shapes": []}, ValueError, IMAGE_SHAPES + "[]"),
        ({"image_shapes": None}, ValueError, IMAGE_SHAPES + "None"),
        ({"image_shapes": (256, 320)}, ValueError, IMAGE_SHAPES + "(256, 320)"),
        ({"image_shapes": [(3, 256, 320)]}, ValueError, IMAGE_SHAPES + "[(3, 256, 320)]"),
        ({"image_shapes": [(0, 0)]}, ValueError, IMAGE_SHAPES + "[(0, 0)]"),
        ({"image_shapes": [(None, "b")]}, ValueError, IMAGE_SHAPES + "[(None, 'b')]"),
        ({"image_shapes": "ab"}, ValueError, IMAGE_SHAPES + "'ab'"),
    ],
)
def test_misuse_of_the_module(change, error, message):
    arguments = {"features": {"a": X, "b": X}, "boxes": ROIS, "image_shapes": [IMAGE, IMAGE], **change}
    with pytest.raises(error) as caught:
        roipool.MultiScaleRoIPool(["a", "b"], 2)(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("scales", "error", "message"),
    [
        ([0.5], ValueError, "scales must hold a scale for each of featmap_names, 2, got 1"),
        ([0.5, 1.0], ValueError, "maps must go from fine to coarse, got the scales [0.5, 1.0] (1/stride)"),
        ([0.5, "1"], TypeError, "scales[1] must be a float, got str"),
        ([0, -1.0], ValueError, "scales[0] must be finite and greater than 0, got 0"),
        (0.5, TypeError, "scales must be a list of floats, got float"),
    ],
)
def test_misuse_of_scales(scales, error, message):
    with pytest.raises(error) as caught:
        roipool.MultiScaleRoIPool(["a", "b"], 2, scales=scales)
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
