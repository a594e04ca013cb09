"""PyTorch's opcheck of the operators; fake kernels say what the native ones return."""

import pytest
import torch
from support import DTYPES, channels_last, contiguous, features, random_rois, to_device
from torch._prims_common import suggest_memory_format

import roipool

ops = torch.ops.roipool


def sample_inputs():
    """Yields maps and regions of every dtype in both layouts, and a problem without a region."""
    cases = [(dtype, layout, 4) for dtype in DTYPES for layout in [contiguous, channels_last]]
    for dtype, layout, num_rois in [*cases, (torch.float32, contiguous, 0)]:
        x = layout(features((2, 3, 6, 7), dtype, seed=0))
        yield x, random_rois(num_rois, 2, 12, 14, seed=0).float()


def test_opcheck(device):
    for x, rois in to_device(list(sample_inputs()), device):
        output, argmax = ops.roi_pool_with_argmax(x, rois, 3, 2, 0.5)
        x, grad_output = x.requires_grad_(), output.detach().clone().requires_grad_()
        torch.library.opcheck(ops.roi_pool.default, (x, rois, 3, 2, 0.5))
        torch.library.opcheck(ops.roi_pool_with_argmax.default, (x, rois, 3, 2, 0.5))
        torch.library.opcheck(ops.roi_pool_backward.default, (grad_output, rois, argmax, 2, 6, 7, 0.5))
        torch.library.opcheck(ops.roi_pool_gather.default, (x, rois, argmax, 0.5))


def test_opcheck_without_a_gradient(device):
    x, rois = to_device(next(sample_inputs()), device)
    output, argmax = ops.roi_pool_with_argmax(x, rois, 3, 2, 0.5)
    torch.library.opcheck(ops.roi_pool.default, (x, rois, 3, 2, 0.5))
    torch.library.opcheck(ops.roi_pool_with_argmax.default, (x, rois, 3, 2, 0.5))
    torch.library.opcheck(ops.roi_pool_backward.default, (output, rois, argmax, 2, 6, 7, 0.5))
    torch.library.opcheck(ops.roi_pool_gather.default, (x, rois, argmax, 0.5))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (1, 1, 1, 1), (2, 3, 1, 1), (1, 3, 1, 4), (0, 3, 4, 5)])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_fake_and_native_strides_agree(device, layout, shape):
    """Runs opcheck's faketensor test on shapes where contiguous and channels_last coincide."""
    x, rois = layout(torch.zeros(shape, device=device)), torch.zeros(2, 5, device=device)
    for size in [1, 2]:
        arguments = (x, rois, size, size, 1.0)
        torch.library.opcheck(ops.roi_pool_with_argmax.default, arguments, test_utils="test_faketensor")
        output, argmax = ops.roi_pool_with_argmax(*arguments)
        for op, arguments in [
            (ops.roi_pool_gather, (x, rois, argmax, 1.0)),
            (ops.roi_pool_backward, (output, rois, argmax, shape[0], *shape[2:], 1.0)),
        ]:
            torch.library.opcheck(op.default, arguments, test_utils="test_faketensor")


def test_fake_and_native_strides_agree_where_formats_differ(device):
    """Takes an argmax in another format than the map, and maps that are expanded."""
    x, rois = torch.zeros(2, 3, 4, 5, device=device), torch.zeros(2, 5, device=device)
    argmax = torch.zeros(2, 3, 2, 2, dtype=torch.int32, device=device)
    for arguments in [(x, rois, channels_last(argmax), 1.0), (channels_last(x), rois, argmax, 1.0)]:
        torch.library.opcheck(ops.roi_pool_gather.default, arguments, test_utils="test_faketensor")
    for expanded in [
        x[:, :1].expand(2, 3, 4, 5),
        channels_last(x)[:1].expand(2, 3, 4, 5),
        x[..., :1].expand(2, 3, 4, 5),
    ]:
        torch.library.opcheck(ops.roi_pool.default, (expanded, rois, 2, 2, 1.0), test_utils="test_faketensor")
        # Both kernels follow PyTorch's own choice of a format.
        pooled = ops.roi_pool(expanded, rois, 2, 2, 1.0)
        assert pooled.stride() == torch.empty_like(pooled, memory_format=suggest_memory_format(expanded)).stride()


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (3, 1, 1, 5), (3, 1, 4, 1), (1, 1, 1, 1), (3, 2, 1, 1)])
def test_maps_of_both_formats_count_as_pytorch_counts_them(device, shape):
    """Compares the strides of dimensions of 1 as well, which opcheck does not."""
    for layout in [contiguous, channels_last]:
        x = layout(torch.zeros(shape, device=device))
        pooled = ops.roi_pool(x, torch.zeros(2, 5, device=device), 2, 2, 1.0)
        assert pooled.stride() == torch.empty_like(pooled, memory_format=suggest_memory_format(x)).stride()


X = torch.zeros(2, 3, 4, 5)
ROIS = torch.zeros(6, 5)


def test_meta_tensors():
    output = roipool.roi_pool(X.to("meta"), ROIS.to("meta"), (3, 2))
    assert output.device.type == "meta"
    assert output.shape == (6, 3, 3, 2)
