"""Holds the reference to MXNet's documentation, max_pool2d, and arithmetic by hand."""

import pytest
import torch
import torch.nn.functional as F
from support import DTYPES, assert_same_bits, features

from roipool import reference

ARANGE48 = torch.arange(48.0).view(1, 1, 8, 6)


@pytest.mark.parametrize(("spatial_scale", "expected"), [(1.0, [[14, 16], [26, 28]]), (0.7, [[7, 9], [19, 21]])])
def test_examples_of_the_mxnet_documentation(spatial_scale, expected):
    output = reference.roi_pool(ARANGE48, torch.tensor([[0.0, 0, 0, 4, 4]]), (2, 2), spatial_scale)
    assert_same_bits(output, torch.tensor([[expected]], dtype=torch.float32))


def test_argmax_is_the_offset_in_the_plane():
    x = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    _, argmax = reference.roi_pool(x, torch.tensor([[1.0, 1, 1, 3, 2]]), 1, return_argmax=True)
    assert argmax.flatten().tolist() == [2 * 5 + 3] * 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["distinct", "ties", "nonfinite"])
@pytest.mark.parametrize(("size", "bins"), [((7, 9), (3, 4)), ((4, 4), (4, 4)), ((3, 2), (5, 7)), ((1, 20), (1, 6))])
def test_whole_map_is_adaptive_max_pool2d(size, bins, kind, dtype):
    height, width = size
    x = features((2, 3, height, width), dtype, seed=1, kind=kind)
    rois = torch.tensor([[n, 0, 0, width - 1, height - 1] for n in range(2)], dtype=torch.float32)
    output, argmax = reference.roi_pool(x, rois, bins, return_argmax=True)
    expected, indices = F.adaptive_max_pool2d(x, bins, return_indices=True)
    assert_same_bits(output, expected)
    assert torch.equal(argmax.long(), indices)


@pytest.mark.parametrize(
    ("corner", "cell"),
    [(0.5, 1), (1.5, 2), (2.5, 3), (0.49999997, 0), (2.4999998, 2), (-0.5, -1), (-0.49999997, 0), (-1.5, -2)],
)
def test_corners_round_half_away_from_zero(corner, cell):
    x = torch.arange(10.0).view(1, 1, 1, 10)
    # The region is one row from the corner to cell 9, in 2 bins. The end of the first bin tells where it begins, even
    # where negative cells are clipped.
    output = reference.roi_pool(x, torch.tensor([[0.0, corner, 0.0, 9.0, 0.0]]), (1, 2))
    size = 9 - cell + 1
    assert output[0, 0, 0, 0] == -(-size // 2) - 1 + cell  # ceil(size / 2) cells from the start on


def test_float_bins_reach_one_cell_past_the_region():
    # 7 * (57 / 7) is above 57 in float32 (58 rows) and exactly 57 in float64.
    x = torch.arange(65.0).view(1, 1, 65, 1)
    box = torch.tensor([[0.0, 0.0, 0.0, 0.0, 56.0]])
    assert float(reference.roi_pool(x, box, (7, 1))[0, 0, -1, 0]) == 57
    assert float(reference.roi_pool(x, box.double(), (7, 1))[0, 0, -1, 0]) == 56


def test_malformed_region_is_one_cell():
    output = reference.roi_pool(ARANGE48, torch.tensor([[0.0, 4, 5, 2, 3]]), 1)
    assert float(output) == 5 * 6 + 4  # the cell of x1, y1


def test_region_outside_the_map_is_empty():
    output, argmax = reference.roi_pool(ARANGE48, torch.tensor([[0.0, 10, 0, 12, 4]]), 2, return_argmax=True)
    assert_same_bits(output, torch.zeros(1, 1, 2, 2))
    assert (argmax == -1).all()


def test_scaled_coordinates_are_clamped_to_2_to_the_29():
    # -2^29 .. 40 are 2^29 + 41 cells, which float32 rounds to 2^29 + 64: the bin ends before cell 64. From -2^28 on it
    # would end before cell 32, and from -2^31 on before cell 0.
    x = torch.arange(65.0).view(1, 1, 1, 65)
    box = torch.tensor([[0.0, -1e30, 0.0, 40.0, 0.0]])
    assert float(reference.roi_pool(x, box, 1)) == 63
    assert float(reference.roi_pool(x, box.double(), 1)) == 40


@pytest.mark.parametrize("batch_index", [-1.0, 2.0, 1e6, 1e30, float("nan"), float("inf"), float("-inf")])
def test_bad_batch_index_is_empty(batch_index):
    x = torch.ones(2, 1, 3, 3)
    output, argmax = reference.roi_pool(x, torch.tensor([[batch_index, 0, 0, 2, 2]]), 1, return_argmax=True)
    assert (float(output), int(argmax)) == (0, -1)


@pytest.mark.parametrize(("batch_index", "image"), [(-0.5, 0), (0.99, 0), (1.0, 1), (1.99, 1)])
def test_batch_index_is_truncated(batch_index, image):
    x = torch.tensor([10.0, 11.0]).view(2, 1, 1, 1)
    assert float(reference.roi_pool(x, torch.tensor([[batch_index, 0, 0, 0, 0]]), 1)) == 10 + image


def test_gradient_is_summed_in_ascending_region_row_column():
    # 1 and -1 come after 2^24 in two orders: in float32, 2^24 + 1 is 2^24 but 2^24 - 1 is not.
    argmax = torch.zeros(1, 1, 1, 3, dtype=torch.int32)
    one_way = reference.roi_pool_backward(
        torch.tensor([2.0**24, 1.0, -1.0]).view(1, 1, 1, 3), torch.zeros(1, 5), argmax, (1, 1, 1, 1)
    )
    other_way = reference.roi_pool_backward(
        torch.tensor([2.0**24, -1.0, 1.0]).view(1, 1, 1, 3), torch.zeros(1, 5), argmax, (1, 1, 1, 1)
    )
    assert float(one_way) == 2**24 - 1
    assert float(other_way) == 2**24


def test_levels_of_half_precision_boxes_are_found_in_float32():
    # 300 x 300 px is an area beyond float16, and of level floor(4 + log2(300 / 224)) = 4: the third of four.
    box = torch.tensor([[0.0, 0, 300, 300]], dtype=torch.float16)
    assert reference.levels_of(box, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 224, 4).tolist() == [2]
