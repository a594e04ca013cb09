"""Empty shapes, regions of no image, argmax that is no cell, half precision and NaN."""

import pytest
import torch
from support import (
    DTYPES,
    assert_same_bits,
    channels_last,
    check_against_reference,
    contiguous,
    features,
)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rois", [0, 2, 20])
@pytest.mark.parametrize(
    "shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (0, 0, 0, 0), (2, 20, 0, 0), (1, 1, 0, 2**40)]
)
def test_empty_shapes(backend, shape, num_rois, dtype, layout):
    x = torch.empty(shape, dtype=dtype, device=backend.device)
    x = x if shape[3] > 5 else layout(x)
    rois = torch.tensor([[0.0, 0, 0, 3, 3]], device=backend.device).expand(num_rois, 5)
    output, argmax = backend.ops.roi_pool_with_argmax(x, rois, 2, 3, 1.0)
    assert_same_bits(output, torch.zeros(num_rois, shape[1], 2, 3, dtype=dtype))
    assert_same_bits(argmax, torch.full((num_rois, shape[1], 2, 3), -1, dtype=torch.int32))
    assert_same_bits(backend.ops.roi_pool(x, rois, 2, 3, 1.0), output)
    assert_same_bits(backend.ops.roi_pool_gather(x, rois, argmax, 1.0), output)
    grad_input = backend.ops.roi_pool_backward(output, rois, argmax, shape[0], shape[2], shape[3], 1.0)
    assert_same_bits(grad_input, torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("channels", [3, 64])
def test_no_region_leaves_a_gradient_of_zeros(backend, channels):
    rois = torch.empty(0, 5, device=backend.device)
    argmax = torch.empty(0, channels, 2, 2, dtype=torch.int32, device=backend.device)
    grad_input = backend.ops.roi_pool_backward(argmax.float(), rois, argmax, 2, 5, 4, 1.0)
    assert_same_bits(grad_input, torch.zeros(2, channels, 5, 4))


@pytest.mark.parametrize(("num_rois", "channels"), [(0, 1), (0, 0), (4, 0)])
def test_nothing_to_pool_into_any_number_of_bins(backend, num_rois, channels):
    """One size is 0; the product of the others is beyond any integer, and tables of them would fill the memory."""
    most = 2**31 - 1
    x = torch.ones(1, channels, 4, 5, device=backend.device)
    rois = torch.zeros(num_rois, 5, device=backend.device)
    output, argmax = backend.ops.roi_pool_with_argmax(x, rois, most, most, 1.0)
    assert output.shape == argmax.shape == (num_rois, channels, most, most)
    assert backend.ops.roi_pool(x, rois, most, most, 1.0).shape == output.shape
    assert backend.ops.roi_pool_gather(x, rois, argmax, 1.0).shape == output.shape
    grad_input = backend.ops.roi_pool_backward(output, rois, argmax, 1, 4, 5, 1.0)
    assert_same_bits(grad_input, torch.zeros(1, channels, 4, 5))


@pytest.mark.parametrize(("height", "width"), [(0, 3), (3, 0), (0, 0)])
def test_gradients_of_any_number_of_images_without_cells(backend, height, width):
    rois = torch.zeros(2, 5, device=backend.device)
    argmax = torch.zeros(2, 1, 2, 2, dtype=torch.int32, device=backend.device)
    grad_input = backend.ops.roi_pool_backward(argmax.float(), rois, argmax, 2**60, height, width, 1.0)
    assert grad_input.shape == (2**60, 1, height, width)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("num_rois", [1, 20])
@pytest.mark.parametrize("batch_index", [-1.0, 2.0, 1e6, 2.0**63, 1e30, float("nan"), float("inf"), float("-inf")])
def test_bad_batch_index(backend, batch_index, num_rois, layout):
    x = layout(features((2, 20, 6, 6), torch.float32, seed=0).to(backend.device))
    rois = torch.tensor([[batch_index, 0, 0, 5, 5]], device=backend.device).expand(num_rois, 5)
    output, argmax = backend.ops.roi_pool_with_argmax(x, rois, 3, 3, 1.0)
    assert (output == 0).all()
    assert (argmax == -1).all()
    full = torch.zeros_like(argmax)  # an argmax that claims a cell gives such a region no gradient either
    assert (backend.ops.roi_pool_backward(torch.ones_like(output), rois, full, 2, 6, 6, 1.0) == 0).all()
    assert (backend.ops.roi_pool_gather(x, rois, full, 1.0) == 0).all()


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("cell", [36, 37, 2**31 - 1, -1, -2, -(2**31)])
def test_argmax_that_is_no_cell_is_ignored(backend, cell, layout):
    x = layout(torch.ones(1, 20, 6, 6, device=backend.device))
    rois = torch.tensor([[0.0, 0, 0, 5, 5]], device=backend.device)
    argmax = layout(torch.full((1, 20, 2, 2), cell, dtype=torch.int32, device=backend.device))
    assert (backend.ops.roi_pool_gather(x, rois, argmax, 1.0) == 0).all()
    grad_output = torch.ones_like(argmax, dtype=torch.float32)
    assert (backend.ops.roi_pool_backward(grad_output, rois, argmax, 1, 6, 6, 1.0) == 0).all()


def test_nan_payloads_and_signed_zeros_survive(backend):
    """The output is a cell of the input, bit for bit: a NaN keeps its payload, -0.0 its sign."""
    # Lists signalling NaNs without and with the sign bit, then the NaNs next to infinity.
    bits = {
        torch.float64: [0x7FF4000000000001, -0x000BFFFFFFFFFFFF, 0x7FF0000000000001, -0x000FFFFFFFFFFFFF],
        torch.float32: [0x7FA00001, -0x005FFFFF, 0x7F800001, -0x007FFFFF],
        torch.bfloat16: [0x7FA1, -0x005F, 0x7F81, -0x007F],
        torch.float16: [0x7D01, -0x02FF, 0x7C01, -0x03FF],
    }
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    for dtype, payloads in bits.items():
        for payload in payloads:
            for layout in [contiguous, channels_last]:
                for channels in [3, 20]:
                    x = torch.zeros(1, channels, 3, 20, dtype=dtype).view(integers[dtype.itemsize])
                    x[:, ::2, 1, 1] = payload
                    assert x.view(dtype)[0, 0, 1, 1].isnan()
                    x = x.view(dtype)
                    x[:, 1::2] = -0.0
                    rois = torch.zeros(8, 5)
                    rois[:, 3:] = 19
                    check_against_reference(backend, layout(x.to(backend.device)), rois, (1, 1), 1.0)
                    check_against_reference(backend, layout(x.to(backend.device)), rois, (3, 7), 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_every_half_precision_gradient_passes_through(backend, layout, dtype):
    """Each of the 65536 numbers is alone in its cell."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(1, 1, 256, 256)
    argmax = torch.arange(2**16, dtype=torch.int32).view(1, 1, 256, 256)
    channels = 2 if backend.name == "cuda_host" else 20
    every, argmax = (layout(t.expand(1, channels, 256, 256)) for t in [every, argmax])
    rois = torch.tensor([[0.0, 0, 0, 255, 255]])  # a bin for each cell
    arguments = [t.to(backend.device) for t in [every, rois, argmax]]
    grad_input = backend.ops.roi_pool_backward(*arguments, 1, 256, 256, 1.0).cpu()
    numbers = ~every.isnan()
    assert_same_bits(grad_input[numbers], (every + 0.0)[numbers])  # the sum starts from 0, so -0.0 becomes 0.0
    assert grad_input[~numbers].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_are_rounded_to_nearest_even(backend, dtype):
    """Sums of two numbers lie halfway, are subnormal, or overflow."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (2, 1, 300, 300), generator=generator).to(torch.int16)
    a, b = bits.view(dtype).nan_to_num(1.0, 2.0, 3.0)
    b[:, ::2] = (a * 2.0**-9)[:, ::2]  # brings sums near the halfway points
    grads = torch.stack([a, b])
    argmax = torch.arange(300 * 300, dtype=torch.int32).view(1, 1, 300, 300).expand(2, 1, 300, 300)
    rois = torch.tensor([[0.0, 0, 0, 299, 299]]).expand(2, 5)  # a bin for each cell
    arguments = [t.to(backend.device) for t in [grads, rois, argmax]]
    grad_input = backend.ops.roi_pool_backward(*arguments, 1, 300, 300, 1.0)
    assert_same_bits(grad_input[0], (0.0 + a.float() + b.float()).to(dtype))
