"""Maps as large as they may be, many regions, and more elements than an int32 can count."""

import pytest
import torch
from support import (
    CPU,
    assert_same_bits,
    channels_last,
    contiguous,
    features,
)

from roipool import reference

LARGEST, TOO_LARGE = [(1, 2**31 - 1), (2**31 - 1, 1), (46340, 46341)], [(1, 2**31), (2**31, 1), (46341, 46341)]


@pytest.mark.parametrize(("batch_size", "place"), [(1, "meta"), (0, "cpu")])
@pytest.mark.parametrize("size", [*LARGEST, *TOO_LARGE])
def test_largest_maps(size, batch_size, place):
    ops = CPU.ops
    x = torch.empty(batch_size, 1, *size, device=place)
    rois, grad_output = torch.zeros(3, 5, device=place), torch.zeros(3, 1, 2, 2, device=place)
    argmax, (h, w) = grad_output.int(), size
    pyramid = ([1.0], 224.0, 4)
    calls = {
        "input": [
            (lambda: ops.roi_pool(x, rois, 2, 2, 1.0), grad_output),
            (lambda: ops.roi_pool_with_argmax(x, rois, 2, 2, 1.0)[1], argmax),
            (lambda: ops.roi_pool.out(x, rois, 2, 2, 1.0, out=grad_output.clone()), grad_output),
            (lambda: ops.roi_pool_gather(x, rois, argmax, 1.0), grad_output),
        ],
        "grad_input": [(lambda: ops.roi_pool_backward(grad_output, rois, argmax, batch_size, h, w, 1.0), x)],
        "inputs[0]": [
            (lambda: ops.multiscale_roi_pool([x], rois, 2, 2, *pyramid), grad_output),
            (lambda: ops.multiscale_roi_pool_with_argmax([x], rois, 2, 2, *pyramid)[1], argmax),
            (lambda: ops.multiscale_roi_pool_gather([x], rois, argmax, *pyramid), grad_output),
        ],
        "grad_inputs": [
            (
                lambda: ops.multiscale_roi_pool_backward(grad_output, rois, argmax, batch_size, [h], [w], *pyramid)[0],
                x,
            )
        ],
    }
    for name, calls_of_name in calls.items():
        for call, like in calls_of_name:
            if size in LARGEST:
                result = call()
                assert (result.shape, result.dtype, result.device) == (like.shape, like.dtype, like.device)
                continue
            with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is compared
                call()
            message = f"{name} must have at most 2147483647 cells in a plane (H*W), got {h} x {w}"
            assert str(caught.value) == message


@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, 5, 6),  # cell by cell
        (2, 3, 5, 70),  # by rows
        pytest.param((2, 16, 5, 6), marks=pytest.mark.large),  # by channel groups: 3 GB
    ],
)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.slow
def test_ten_million_regions(device, layout, shape):
    num_rois = 10_000_000
    n, _, h, w = shape
    x = layout(features(shape, torch.float32, seed=0))
    generator = torch.Generator().manual_seed(0)
    rois = torch.rand(num_rois, 5, generator=generator)
    rois *= torch.tensor([n, w, h, 2, 2])
    rois[:, 3:] += rois[:, 1:3]  # regions have one to three cells on an axis
    rois = rois.to(device)
    output, argmax = torch.ops.roipool.roi_pool_with_argmax(x.to(device), rois, 1, 1, 1.0)
    samples = torch.cat([torch.randint(num_rois, (500,), generator=generator), torch.tensor([0, num_rois - 1])])
    samples = samples.unique()
    some_rois = rois[samples.to(device)].cpu()
    expected, expected_argmax = reference.roi_pool(x, some_rois, 1, return_argmax=True)
    assert_same_bits(output[samples.to(device)], expected)
    assert_same_bits(argmax[samples.to(device)], expected_argmax)

    grads = features(expected.shape, torch.float32, seed=1)
    grad_output = output.zero_()  # all of the gradient comes from the samples
    grad_output[samples.to(device)] = grads.to(device)
    grad_input = torch.ops.roipool.roi_pool_backward(grad_output, rois, argmax, n, h, w, 1.0)
    assert_same_bits(grad_input, reference.roi_pool_backward(grads, some_rois, expected_argmax, shape))


@pytest.mark.large
def test_input_of_more_than_2_to_the_31_elements(backend):
    x = torch.zeros(2, 16, 8200, 8200, dtype=torch.bfloat16, device=backend.device)
    assert x.numel() > 2**31
    x[1, 15, 8199, 8190:] = 1
    x[1, 15, 8199, 8195] = 3
    rois = torch.tensor([[1.0, 8190, 8190, 8199, 8199]], device=backend.device)
    output, argmax = backend.ops.roi_pool_with_argmax(x, rois, 1, 1, 1.0)
    assert output.flatten().tolist() == [0.0] * 15 + [3.0]
    assert argmax[0, 15].item() == 8199 * 8200 + 8195
    assert_same_bits(backend.ops.roi_pool_gather(x, rois, argmax, 1.0), output)
    del x
    grad_input = backend.ops.roi_pool_backward(torch.ones_like(output), rois, argmax, 2, 8200, 8200, 1.0)
    assert grad_input[1, 15, 8199, 8195] == 1
    assert grad_input[1, :, 8190:].float().sum() == 16


@pytest.mark.large
def test_output_of_more_than_2_to_the_31_elements(device):
    x = features((1, 64, 3, 3), torch.bfloat16, seed=0).to(device)
    rois = torch.tensor([[0.0, 0, 0, 2, 2]], device=device).expand(2**31 // (64 * 49) + 1, 5)
    output = torch.ops.roipool.roi_pool(x, rois, 7, 7, 1.0)
    assert output.numel() > 2**31
    expected = reference.roi_pool(x.cpu(), rois[:1].cpu(), 7)
    assert_same_bits(output[-1:], expected)
    assert_same_bits(output[len(rois) // 2][None], expected)


@pytest.mark.large
def test_gradient_of_an_output_of_more_than_2_to_the_31_elements(device):
    num_rois = 2**31 // (16 * 4) + 1
    x = features((1, 16, 2, 2), torch.bfloat16, seed=0).to(device)
    rois = torch.tensor([[0.0, 0, 0, 1, 1]], device=device).expand(num_rois, 5)
    output, argmax = torch.ops.roipool.roi_pool_with_argmax(x, rois, 2, 2, 1.0)
    assert argmax.numel() > 2**31
    assert torch.equal(argmax[-1].cpu(), torch.arange(4, dtype=torch.int32).view(1, 2, 2).expand(16, 2, 2))
    output.zero_()
    output[-1] = 1  # all of the gradient comes from the last region
    grad_input = torch.ops.roipool.roi_pool_backward(output, rois, argmax, 1, 2, 2, 1.0)
    assert_same_bits(grad_input, torch.ones_like(grad_input))


@pytest.mark.large
def test_a_map_of_nearly_2_to_the_31_cells(device):
    h, w = 46340, 46341
    x = torch.zeros(1, 1, h, w, device=device)
    x[0, 0, -1, -1] = 1
    rois = torch.tensor([[0.0, w - 3, h - 3, w - 1, h - 1], [0.0, 0, 0, 0, 0]], device=device)
    output, argmax = torch.ops.roipool.roi_pool_with_argmax(x, rois, 1, 1, 1.0)
    assert output.flatten().tolist() == [1.0, 0.0]
    assert argmax.flatten().tolist() == [h * w - 1, 0]
    assert_same_bits(torch.ops.roipool.roi_pool_gather(x, rois, argmax, 1.0), output)
    del x
    grad_output = torch.tensor([2.0, 3.0], device=device).view(2, 1, 1, 1)
    grad_input = torch.ops.roipool.roi_pool_backward(grad_output, rois, argmax, 1, h, w, 1.0)
    assert grad_input[0, 0, -1, -1] == 2
    assert grad_input[0, 0, 0, 0] == 3
    assert grad_input.count_nonzero() == 2
