"""The operators on feature pyramids as PyTorch sees them: opcheck, and misuse that native and fake kernels refuse."""

import pytest
import torch
from pyramid import PYRAMID, boxes_of, maps_of
from support import (
    RaisesRuntimeErrors,
    channels_last,
    contiguous,
    to_device,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from roipool._ops.autograd import call_below_autograd

ops = torch.ops.roipool


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_opcheck(device, layout, requires_grad):
    maps, rois = to_device((maps_of(layout=layout), boxes_of().float()), device)
    output, argmax = ops.multiscale_roi_pool_with_argmax(maps, rois, 3, 2, *PYRAMID)
    sizes = (2, [x.shape[2] for x in maps], [x.shape[3] for x in maps])
    maps = [x.requires_grad_(requires_grad) for x in maps]
    for op, arguments in [
        (ops.multiscale_roi_pool, (maps, rois, 3, 2, *PYRAMID)),
        (ops.multiscale_roi_pool_with_argmax, (maps, rois, 3, 2, *PYRAMID)),
        (ops.multiscale_roi_pool_backward, (output.requires_grad_(requires_grad), rois, argmax, *sizes, *PYRAMID)),
        (ops.multiscale_roi_pool_gather, (maps, rois, argmax, *PYRAMID)),
    ]:
        torch.library.opcheck(op.default, arguments)


X, ROIS = torch.zeros(2, 3, 4, 5), torch.zeros(6, 5)
GRAD, ARGMAX = torch.zeros(6, 3, 2, 2), torch.zeros(6, 3, 2, 2, dtype=torch.int32)
ONE = ([1.0], 224.0, 4)
TWO = ([1.0, 0.5], 224.0, 4)
MISUSE = {
    "multiscale_roi_pool": {
        "inputs must hold 1 to 8 levels, got 0": ([], ROIS, 2, 2, [], 224.0, 4),
        "inputs must hold 1 to 8 levels, got 9": ([X] * 9, ROIS, 2, 2, [1.0] * 9, 224.0, 4),
        "inputs[1] must be a 4-D tensor (N, C, H, W), got shape (3, 4, 5)": ([X, X[0]], ROIS, 2, 2, *TWO),
        "inputs[1] must have the N and C of inputs[0], (2, 3), got shape (2, 2, 4, 5)": (
            [X, X[:, 1:]],
            ROIS,
            2,
            2,
            *TWO,
        ),
        "inputs[1] must have the N and C of inputs[0], (2, 3), got shape (1, 3, 4, 5)": ([X, X[1:]], ROIS, 2, 2, *TWO),
        "inputs[1] must be float32 as inputs[0], got float64": ([X, X.double()], ROIS, 2, 2, *TWO),
        "inputs[0] must be float16, bfloat16, float32 or float64, got int32": ([X.int()], ROIS, 2, 2, *ONE),
        "inputs[1] must have at most 2147483647 cells in a plane (H*W), got 65536 x 32768": (
            [X, torch.zeros(1).expand(2, 3, 2**16, 2**15)],
            ROIS,
            2,
            2,
            *TWO,
        ),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (6, 4)": (
            [X],
            ROIS[:, 1:],
            2,
            2,
            *ONE,
        ),
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (2, 0)": (
            [X],
            ROIS,
            2,
            0,
            *ONE,
        ),
        "spatial_scales must hold as many numbers as inputs, 2, got 1": ([X, X], ROIS, 2, 2, *ONE),
        "spatial_scales[1] must be finite and greater than 0, got 0": ([X, X], ROIS, 2, 2, [1.0, 0.0], 224.0, 4),
        "canonical_scale must be finite and greater than 0, got nan": ([X], ROIS, 2, 2, [1.0], float("nan"), 4),
    },
    "multiscale_roi_pool_backward": {
        "heights must hold 1 to 8 levels, got 0": (GRAD, ROIS, ARGMAX, 2, [], [], [], 224.0, 4),
        "widths must hold as many numbers as heights, 1, got 2": (GRAD, ROIS, ARGMAX, 2, [4], [5, 5], *ONE),
        "spatial_scales must hold as many numbers as heights, 1, got 2": (GRAD, ROIS, ARGMAX, 2, [4], [5], *TWO),
        "batch_size, heights and widths must not be negative, got 2, 4 and -5": (
            GRAD,
            ROIS,
            ARGMAX,
            2,
            [4, 4],
            [5, -5],
            *TWO,
        ),
        "argmax must be int32, got int64": (GRAD, ROIS, ARGMAX.long(), 2, [4], [5], *ONE),
        "grad_inputs must have at most 2147483647 cells in a plane (H*W), got 1048576 x 1048576": (
            GRAD,
            ROIS,
            ARGMAX,
            2,
            [2**20],
            [2**20],
            *ONE,
        ),
    },
    "multiscale_roi_pool_gather": {
        "argmax must have shape (K, C, PH, PW) with K = 6 as in rois and C = 3 as in inputs[0], "
        "got shape (6, 2, 2, 2)": (
            [X],
            ROIS,
            ARGMAX[:, 1:],
            *ONE,
        ),
        "spatial_scales must hold as many numbers as inputs, 2, got 1": ([X, X], ROIS, ARGMAX, *ONE),
    },
}
MISUSE["multiscale_roi_pool_with_argmax"] = MISUSE["multiscale_roi_pool"]
CASES = [(op, message, arguments) for op, cases in MISUSE.items() for message, arguments in cases.items()]


@pytest.mark.parametrize(("op", "message", "arguments"), CASES)
def test_misuse_is_one_clear_error(backend, op, message, arguments):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is compared
        getattr(backend.ops, op)(*to_device(arguments, backend.device))
    assert str(caught.value) == message


@pytest.mark.parametrize(("op", "message", "arguments"), CASES)
def test_fake_kernels_refuse_the_same_in_the_same_words(op, message, arguments):
    with FakeTensorMode() as mode, pytest.raises(ValueError) as caught:  # noqa: PT011
        getattr(ops, op)(*torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, arguments))
    assert str(caught.value) == message


@pytest.mark.parametrize(("op", "message", "arguments"), CASES)
def test_refusals_may_arrive_as_runtime_errors(op, message, arguments):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call_below_autograd(RaisesRuntimeErrors(getattr(ops, op).default), *arguments)
    assert str(caught.value) == message


def test_maps_on_two_devices(device):
    with pytest.raises(ValueError, match=r"inputs\[1\] must be on the device of inputs\[0\]"):
        ops.multiscale_roi_pool([X.to(device), X.to("meta")], ROIS.to(device), 2, 2, *TWO)
