"""Shapes and values that make the kernels take each of their ways, against the reference, bit for bit."""

import cached_reference
import pytest
import torch
from support import (
    CPU,
    DTYPES,
    assert_same_bits,
    channels_last,
    check_against_reference,
    contiguous,
    features,
    random_rois,
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [256, 67])
@pytest.mark.parametrize("output_size", [(7, 7), (20, 21)])
def test_results_too_large_for_the_caches(output_size, channels, layout, dtype):
    """The CPU kernels write such results past the caches, to any address; groups of many bins in the ordinary way."""
    x = layout(features((2, channels, 9, 8), dtype, seed=0))
    num_bins = output_size[0] * output_size[1]
    num_rois = 2**22 // (channels * num_bins * x.element_size()) + 1
    rois = random_rois(num_rois, 2, 9.0, 8.0, seed=0)
    check_against_reference(CPU, x, rois, output_size, 1.0)
    expected = CPU.ops.roi_pool(x, rois, *output_size, 1.0)
    memory = torch.full((expected.numel() + 2,), 7.0, dtype=dtype)
    out = memory[1:-1].as_strided(expected.shape, expected.stride())
    CPU.ops.roi_pool.out(x, rois, *output_size, 1.0, out=out)
    assert_same_bits(out, expected)
    assert memory[0] == memory[-1] == 7


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", ["distinct", "positive ties", "ties", "nonfinite"])
@pytest.mark.parametrize("shape", [(1, 20, 75, 31), (3, 150, 41, 20)])  # few channel groups for all threads, and many
def test_bins_of_many_rows(backend, shape, kind, layout, dtype):
    """Inference merges rows where the bins have several, and no NaN or negative zero gives their order a meaning."""
    x = features(shape, dtype, seed=0, kind=kind.removeprefix("positive "))
    x = layout(x.abs() if kind == "positive ties" else x).to(backend.device)
    n, _, h, w = shape
    rois = random_rois(100, n, h, w, seed=0)
    rois[:, 4] = rois[:, 4].clamp(min=0.6 * h)  # most are tall
    rois[::10, 4] = rois[::10, 2] + 3
    for output_size in [(2, 3), (1, 1), (5, 2)]:
        expected = cached_reference.roi_pool(x.cpu(), rois, output_size)
        assert_same_bits(backend.ops.roi_pool(x, rois.to(backend.device), *output_size, 1.0), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("tall", [0, 1])
def test_bins_of_many_rows_in_one_image_of_two(backend, tall, layout, dtype):
    """Merging rows may pay in one image and not in the other."""
    x = layout(features((2, 20, 75, 31), dtype, seed=0)).to(backend.device)
    rois = random_rois(100, 2, 75, 31, seed=0)
    rois[:, 0] = tall
    rois[:, 4] = 75
    rois[::10] = torch.tensor([1.0 - tall, 3, 3, 7, 12])
    for output_size in [(2, 3), (5, 2)]:
        expected = cached_reference.roi_pool(x.cpu(), rois, output_size)
        assert_same_bits(backend.ops.roi_pool(x, rois.to(backend.device), *output_size, 1.0), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", ["distinct", "positive ties", "ties", "nonfinite"])
@pytest.mark.parametrize("channels", [16, 21])
def test_more_bins_than_cells(backend, channels, kind, layout, dtype):
    """Each cell is read many times over, by bins that have no cell, a few, or hundreds."""
    x = features((2, channels, 20, 30), dtype, seed=0, kind=kind.removeprefix("positive "))
    x = layout(x.abs() if kind == "positive ties" else x)
    check_against_reference(backend, x, random_rois(80, 2, 20, 30, seed=0, wild=True), (3, 5), 1.0)
    check_against_reference(backend, x, random_rois(200, 2, 20, 30, seed=1, wild=True), (3, 2), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("found", ["nan", "-nan", "last nan", "-0.0"])
@pytest.mark.parametrize(("channels", "width"), [(70, 7), (3, 20)])
def test_nan_or_negative_zero_in_a_single_channel(backend, channels, width, found, layout, dtype):
    """Image i has a NaN or a negative zero in channel i alone, so that each channel must be looked at."""
    x = torch.full((channels, channels, 5, width), -1.0, dtype=dtype)
    each = x[torch.arange(channels), torch.arange(channels)]  # a copy (channels, 5, W), written back below
    value = torch.tensor(0.0 if found == "-0.0" else float("nan"), dtype=dtype)
    if found == "-0.0":
        row, column = 0, 4
        each[:, 1, 2] = -0.0  # comes after the other zero, but in a column before it
    else:
        row, column = (4, width - 1) if found == "last nan" else (1, 2)
        value = -value if found == "-nan" else value
        each[:, 3, 3] = 5.0
    each[:, row, column] = value
    x[torch.arange(channels), torch.arange(channels)] = each
    rois = torch.tensor([[n, 0, 0, width - 1, 4] for n in range(channels)], dtype=torch.float32)
    output = torch.where(torch.eye(channels, dtype=torch.bool), value, value.new_tensor(-1.0))[..., None, None]
    argmax = ((row * width + column) * torch.eye(channels, dtype=torch.int32))[..., None, None]

    x, rois = layout(x).to(backend.device), rois.to(backend.device)
    for chosen in [torch.arange(channels).repeat(9), torch.arange(0, channels, 2), torch.arange(1, channels, 2)]:
        assert_same_bits(backend.ops.roi_pool(x, rois[chosen], 1, 1, 1.0), output[chosen])
        pooled, cells = backend.ops.roi_pool_with_argmax(x, rois[chosen], 1, 1, 1.0)
        assert_same_bits(pooled, output[chosen])
        assert_same_bits(cells, argmax[chosen])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", ["distinct", "ties", "nonfinite"])
@pytest.mark.parametrize("shape", [(2, 70, 41, 83), (2, 20, 90, 17), (1, 9, 150, 11), (2, 3, 41, 83)])
def test_regions_that_cover_little_of_the_maps(backend, shape, kind, layout, dtype):
    """The CPU kernels then pack each region alone: narrow ones, whole rows and columns, at the borders, and outside."""
    x = layout(features(shape, dtype, seed=0, kind=kind))
    height, width = shape[2:]
    boxes = [[5, 7, 12, 18], [width - 2, height - 8, width + 5, height + 2], [0, 0, 3, 9], [-9, -9, -2, -1]]
    boxes += [[0, 4, width - 1, 9], [2, 0, 2, height - 1], [1, 1, 45, 8], [-3, 30, 9, 30], [9, 9, float("nan"), 12]]
    for few in [boxes[:5], boxes[5:]]:
        rois = torch.tensor([[i % shape[0], *box] for i, box in enumerate(few)])
        check_against_reference(backend, x, rois, (3, 4), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [3, 70])
def test_gradient_of_few_regions(backend, channels, layout, dtype):
    """The gradient is 0 nearly everywhere, whatever its memory held before."""
    x = layout(features((2, channels, 40, 50), dtype, seed=0)).to(backend.device)
    rois = torch.tensor([[1.0, 3, 4, 30, 20], [1.0, 3, 4, 5, 6]], device=backend.device)
    output, argmax = backend.ops.roi_pool_with_argmax(x, rois, 2, 3, 1.0)
    expected = cached_reference.roi_pool_backward(output.cpu(), rois.cpu(), argmax.cpu(), x.shape)
    for _ in range(3):
        grad_input = backend.ops.roi_pool_backward(output, rois, argmax, *x.shape[::2], x.shape[3], 1.0)
        assert_same_bits(grad_input, expected)
        torch.full_like(x, float("nan"))  # the next result is likely to lie in the memory of this one


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [3, 70])
@pytest.mark.parametrize("row", [7, 8, 9])
def test_nan_in_one_row_of_a_region(backend, row, channels, layout):
    x = torch.zeros(1, channels, 40, 90)
    x[0, channels - 1, row] = float("nan")
    for rois in [torch.tensor([[0.0, 9, 7, 28, 9]]), torch.tensor([[0.0, 0, 7, 89, 9]])]:
        check_against_reference(backend, layout(x), rois, (1, 1), 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_bins_of_more_cells_than_16_bits_can_number(backend, layout, dtype):
    """The CPU kernels number the cells of a bin in as many bits as its values have, where those are enough."""
    x = torch.zeros(1, 150, 257, 256, dtype=dtype)
    x[..., 255, 255] = 1  # is the last of 2^16 cells
    x[..., 256, 0] = 2
    rois = torch.tensor([[0, 0, 0, 255, 255], [0, 0, 0, 0, 256], [0, 0, 0, 255, 256]], device=backend.device)
    output, argmax = backend.ops.roi_pool_with_argmax(layout(x).to(backend.device), rois, 1, 1, 1.0)
    assert_same_bits(output[:, :, 0, 0], torch.tensor([[1.0], [2.0], [2.0]], dtype=dtype).expand(3, 150))
    cells = torch.tensor([[2**16 - 1], [2**16], [2**16]], dtype=torch.int32)
    assert_same_bits(argmax[:, :, 0, 0], cells.expand(3, 150))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", ["distinct", "ties"])
@pytest.mark.parametrize("channels", [3, 70])
def test_many_bins(backend, channels, kind, layout, dtype):
    """There are more rows of bins than a register has lanes, and more bins than the first-level cache holds."""
    x = layout(features((2, channels, 33, 29), dtype, seed=0, kind=kind))
    rois = random_rois(5, 2, 33, 29, seed=0)
    for output_size in [(37, 5), (9, 11)]:
        check_against_reference(backend, x, rois, output_size, 1.0)
