"""The kernels of each device on feature pyramids, against the reference, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from pyramid import IMAGE, NAMES, PYRAMID, SCALES, boxes_of, maps_of
from support import (
    DTYPES,
    assert_same_bits,
    channels_last,
    check_pyramid_against_reference,
    contiguous,
    features,
    pyramid_problems,
    to_device,
)

import roipool
from roipool import reference


@settings(max_examples=150)
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
    """torchvision 0.28's LevelMapper was recorded for sizes next to each bound, and for random boxes."""
    recorded = np.load(Path(__file__).parents[1] / "data" / "multiscale_levels.npz")
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
        ([500, 0, 0, 500], 0),
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
    """Neither fits into float32. A level that is NaN is the first."""
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
    """An argmax counts in the map of its region's level: 36 cells on the first, 9 on the second."""
    maps = [layout(torch.ones(1, 20, size, size, device=backend.device)) for size in [6, 3]]
    rois = torch.tensor([[0.0, 0, 0, 2, 2], [0.0, 0, 0, 5, 5]], device=backend.device)
    pyramid = ([1.0, 0.5], 4.0, 1)
    levels = reference.levels_of(rois[:, 1:].cpu(), *pyramid)
    assert levels.tolist() == [0, 1]
    argmax = layout(torch.full((2, 20, 2, 2), cell, dtype=torch.int32, device=backend.device))
    is_cell = 0 <= cell < 36  # on the first level; on the second, none of them is
    output = backend.ops.multiscale_roi_pool_gather(maps, rois, argmax, *pyramid)
    assert (output[0] == int(is_cell)).all()
    assert (output[1] == 0).all()
    grads = backend.ops.multiscale_roi_pool_backward(argmax.float().fill_(1), rois, argmax, 1, [6, 3], [6, 3], *pyramid)
    assert grads[0].sum() == (80 if is_cell else 0)
    assert grads[1].sum() == 0


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


@pytest.mark.parametrize("width", [0, 2**40, 2**62 + 1, 2**63 - 1])
def test_gradients_beside_an_empty_level_of_any_width(backend, width):
    one = torch.ones(1, 1, 1, 1, device=backend.device)
    rois = torch.tensor([[0.0, 0, 0, 3, 3]], device=backend.device)
    pyramid = ([1.0, 0.5], 224.0, 4)
    grads = backend.ops.multiscale_roi_pool_backward(one, rois, 7 * one.int(), 1, [5, 0], [5, width], *pyramid)
    expected = torch.zeros(1, 1, 5, 5)
    expected[0, 0, 1, 2] = 1
    assert_same_bits(grads[0], expected)
    assert grads[1].shape == (1, 1, 0, width)
