"""Each way of the CPU's forward on the same problems, against the reference, bit for bit.

The kernels choose their way by its cost, so that each must be right for whatever a change of prices may send it.
"""

import pytest
import torch
from support import CPU, DTYPES, channels_last, check_against_reference, contiguous, features, random_rois

WAYS = ["packed_maps", "packed_parts", "in_place", "rows", "cells"]
KINDS = ["ties", "positive ties", "nonfinite"]


@pytest.fixture(params=WAYS, autouse=True)
def way(request, monkeypatch):
    """Makes the kernels take a way, where it can pool such maps."""
    monkeypatch.setenv("ROIPOOL_CPU_FORWARD", request.param)


def features_of_kind(shape, dtype, kind):
    x = features(shape, dtype, seed=0, kind=kind.removeprefix("positive "))
    return x.abs() if kind == "positive ties" else x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 70, 21, 43), (3, 3, 21, 43), (1, 1, 90, 17), (1, 9, 50, 11), (2, 33, 1, 19)])
def test_any_region(cpu_backend, shape, kind, layout, dtype):
    """Regions lie anywhere, also beside the map and in no image; bins have no cell, a few, or many."""
    x = layout(features_of_kind(shape, dtype, kind))
    rois = random_rois(24, shape[0], *shape[2:], seed=0, wild=True)
    for output_size in [(3, 4), (1, 1), (17, 2)]:
        check_against_reference(cpu_backend, x, rois, output_size, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [2, 20])
def test_large_bins(cpu_backend, channels, kind, layout, dtype):
    """Bins are higher than the rows that are merged, wider than a register has lanes, and wider than two of them."""
    x = layout(features_of_kind((2, channels, 75, 150), dtype, kind))
    rois = random_rois(12, 2, 75, 150, seed=0)
    rois[:4, 3:] = torch.tensor([149.0, 74.0])
    for output_size in [(1, 1), (2, 3)]:
        check_against_reference(cpu_backend, x, rois, output_size, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", KINDS)
def test_many_visits_of_tall_bins(cpu_backend, kind, layout, dtype):
    """Cells are visited so often that packed rows are merged, for training as well."""
    x = layout(features_of_kind((2, 20, 40, 17), dtype, kind))
    rois = random_rois(250, 2, 40, 17, seed=0)
    rois[:, 4] = rois[:, 4].clamp(min=30)
    for output_size in [(1, 2), (3, 1)]:
        check_against_reference(cpu_backend, x, rois, output_size, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [1, 5, 66])
def test_last_cells_of_the_maps(cpu_backend, channels, layout, dtype):
    """Vectors must not reach beyond the memory of the maps, which ends here where that of the tensor does."""
    x = layout(features((2, channels, 9, 18), dtype, seed=0))
    rois = torch.tensor([[1.0, 16, 7, 17, 8], [1, 17, 8, 17, 8], [1, 0, 8, 17, 8], [0, 16, 7, 17, 8]])
    rois = torch.cat([rois, torch.tensor([[1.0, 2, 30, 5, 40], [1, 40, 2, 50, 5]])])  # below the map, and beside it
    for output_size in [(1, 1), (2, 2), (3, 1)]:
        check_against_reference(cpu_backend, x, rois, output_size, 1.0)


def test_unknown_way(monkeypatch):
    monkeypatch.setenv("ROIPOOL_CPU_FORWARD", "row")
    with pytest.raises(RuntimeError, match=r"ROIPOOL_CPU_FORWARD must be one of packed_maps, .*, cells, got row"):
        CPU.ops.roi_pool(torch.zeros(1, 1, 2, 2), torch.zeros(1, 5), 1, 1, 1.0)
