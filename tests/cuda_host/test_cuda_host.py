"""The CUDA kernels on small devices: what a large one would only do for huge tensors."""

import pytest
import torch
from cuda_host.build import DEVICE, SMALL_DEVICE
from hypothesis import given, settings
from support import (
    DTYPES,
    assert_same_bits,
    channels_last,
    check_against_reference,
    check_pyramid_against_reference,
    contiguous,
    features,
    problems,
    pyramid_problems,
    random_rois,
)

from roipool import reference


@pytest.fixture
def set_device(cuda_host):
    """torch.ops.roipool_cuda_host.set_device, undone after the test."""
    yield cuda_host.ops.set_device
    cuda_host.ops.set_device(*DEVICE)


@settings(max_examples=100)
@given(problem=problems())
def test_random_problems_on_a_small_device(cuda_host, problem):
    """A grid of few blocks has each take several turns."""
    x, layout, *arguments = problem
    cuda_host.ops.set_device(*SMALL_DEVICE)
    check_against_reference(cuda_host, layout(x), *arguments)
    cuda_host.ops.set_device(*DEVICE)


@settings(max_examples=50)
@given(problem=pyramid_problems())
def test_random_pyramids_on_a_small_device(cuda_host, problem):
    cuda_host.ops.set_device(*SMALL_DEVICE)
    check_pyramid_against_reference(cuda_host, *problem)
    cuda_host.ops.set_device(*DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kilobytes", [40, 227])
@pytest.mark.parametrize("num_channels", [3, 40])
def test_planes_larger_than_shared_memory(set_device, cuda_host, num_channels, kilobytes, layout, dtype):
    """Every cell gets the gradient of the one bin that is this cell."""
    set_device(1024 * kilobytes, 4, 2**31 - 1)
    height, width = 101, 61
    grad_output = layout(features((2, num_channels, height, width), dtype, seed=0))
    argmax = (
        torch.arange(height * width, dtype=torch.int32).view(1, 1, height, width).expand(2, num_channels, height, width)
    )
    rois = torch.tensor([[0.0, 0, 0, 60, 100], [1.0, 0, 0, 60, 100]])  # a bin for each cell
    grad_input = cuda_host.ops.roi_pool_backward(grad_output, rois, layout(argmax), 2, height, width, 1.0)
    assert_same_bits(grad_input, grad_output + 0.0)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("limit", ["1", "7", "100"])
def test_limits_from_the_environment(monkeypatch, cuda_host, limit, layout):
    """Small tiles and shares, as benchmarks ask for them."""
    monkeypatch.setenv("ROIPOOL_CUDA_TILE_CELLS", limit)
    monkeypatch.setenv("ROIPOOL_CUDA_SHARE_REGIONS", limit)
    x = layout(features((2, 20, 9, 11), torch.float32, seed=0))
    check_against_reference(cuda_host, x, random_rois(12, 2, 9.0, 11.0, seed=0, wild=True), (3, 4), 1.0)


def test_more_regions_than_are_sorted_together(cuda_host):
    x = features((2, 3, 9, 9), torch.float32, seed=0)
    check_against_reference(cuda_host, x, random_rois(4200, 2, 9.0, 9.0, seed=0, wild=True), (1, 1), 1.0)


def test_a_launch_that_is_refused(set_device, cuda_host):
    """A launch that fails is an error, never a result."""
    x = features((1, 3, 9, 9), torch.float32, seed=0)
    rois = torch.tensor([[0.0, 0, 0, 8, 8]])
    output, argmax = reference.roi_pool(x, rois, 2, return_argmax=True)
    set_device(*DEVICE[:2], 0)
    with pytest.raises(ValueError, match="the launch was refused"):
        cuda_host.ops.roi_pool_backward(output, rois, argmax, 1, 9, 9, 1.0)
