"""Misuse of the operators: fake kernels refuse what the native ones refuse, in the same words."""

import pytest
import torch
from support import RaisesRuntimeErrors, to_device
from torch._subclasses.fake_tensor import FakeTensorMode

from roipool._ops.autograd import call_below_autograd

ops = torch.ops.roipool
X = torch.zeros(2, 3, 4, 5)
ROIS = torch.zeros(6, 5)
ARGMAX = torch.zeros(6, 3, 2, 2, dtype=torch.int32)
GRAD = torch.zeros(6, 3, 2, 2)
FORWARD = {
    "input of rank 3": ((X[0], ROIS, 2, 2, 1.0), "input must be a 4-D tensor (N, C, H, W), got shape (3, 4, 5)"),
    "input of rank 0": ((X[0, 0, 0, 0], ROIS, 2, 2, 1.0), "input must be a 4-D tensor (N, C, H, W), got shape ()"),
    "integer input": ((X.long(), ROIS, 2, 2, 1.0), "input must be float16, bfloat16, float32 or float64, got int64"),
    "complex input": (
        (X.to(torch.complex64), ROIS, 2, 2, 1.0),
        "input must be float16, bfloat16, float32 or float64, got complex64",
    ),
    "huge map": (
        (torch.zeros(1).expand(1, 1, 2**16, 2**15), ROIS, 2, 2, 1.0),
        "input must have at most 2147483647 cells in a plane (H*W), got 65536 x 32768",
    ),
    "rois without a batch index": (
        (X, ROIS[:, :4], 2, 2, 1.0),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (6, 4)",
    ),
    "rois with a column more": (
        (X, torch.zeros(6, 6), 2, 2, 1.0),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (6, 6)",
    ),
    "rois of rank 1": (
        (X, ROIS[0], 2, 2, 1.0),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (5,)",
    ),
    "boolean rois": (
        (X, ROIS.bool(), 2, 2, 1.0),
        "rois must be float16, bfloat16, float32, float64, int32 or int64, got bool",
    ),
    "output_size of 0": (
        (X, ROIS, 0, 2, 1.0),
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (0, 2)",
    ),
    "output_size below 0": (
        (X, ROIS, 2, -3, 1.0),
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (2, -3)",
    ),
    "huge output_size": (
        (X, ROIS, 2, 2**31, 1.0),
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (2, 2147483648)",
    ),
    "huge height of output_size": (
        (X, ROIS, 2**31, 2, 1.0),
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (2147483648, 2)",
    ),
    "scale of 0": ((X, ROIS, 2, 2, 0.0), "spatial_scale must be finite and greater than 0, got 0"),
    "scale below 0": ((X, ROIS, 2, 2, -0.5), "spatial_scale must be finite and greater than 0, got -0.5"),
    "NaN scale": ((X, ROIS, 2, 2, float("nan")), "spatial_scale must be finite and greater than 0, got nan"),
    "infinite scale": ((X, ROIS, 2, 2, float("inf")), "spatial_scale must be finite and greater than 0, got inf"),
}
BACKWARD = {
    "grad_output of rank 2": (
        (GRAD[0, 0], ROIS, ARGMAX, 2, 4, 5, 1.0),
        "grad_output must be a 4-D tensor (K, C, PH, PW), got shape (2, 2)",
    ),
    "integer grad_output": (
        (GRAD.int(), ROIS, ARGMAX, 2, 4, 5, 1.0),
        "grad_output must be float16, bfloat16, float32 or float64, got int32",
    ),
    "rois of rank 1": (
        (GRAD, ROIS[0], ARGMAX, 2, 4, 5, 1.0),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (5,)",
    ),
    "argmax of other regions": (
        (GRAD, ROIS[:5], ARGMAX, 2, 4, 5, 1.0),
        "argmax must have shape (K, C, PH, PW) with K = 5 as in rois and C = 3 as in grad_output, "
        "got shape (6, 3, 2, 2)",
    ),
    "int64 argmax": ((GRAD, ROIS, ARGMAX.long(), 2, 4, 5, 1.0), "argmax must be int32, got int64"),
    "argmax of other bins": (
        (GRAD, ROIS, ARGMAX[..., :1], 2, 4, 5, 1.0),
        "grad_output must have the shape of argmax (6, 3, 2, 1), got shape (6, 3, 2, 2)",
    ),
    "negative size": (
        (GRAD, ROIS, ARGMAX, 2, -4, 5, 1.0),
        "batch_size, height and width must not be negative, got 2, -4 and 5",
    ),
    "huge map": (
        (GRAD, ROIS, ARGMAX, 2, 2**20, 2**20, 1.0),
        "grad_input must have at most 2147483647 cells in a plane (H*W), got 1048576 x 1048576",
    ),
    "zero scale": ((GRAD, ROIS, ARGMAX, 2, 4, 5, 0.0), "spatial_scale must be finite and greater than 0, got 0"),
}
GATHER = {
    "input of rank 3": ((X[0], ROIS, ARGMAX, 1.0), "input must be a 4-D tensor (N, C, H, W), got shape (3, 4, 5)"),
    "rois of rank 1": (
        (X, ROIS[0], ARGMAX, 1.0),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (5,)",
    ),
    "argmax of rank 3": (
        (X, ROIS, ARGMAX[0], 1.0),
        "argmax must have shape (K, C, PH, PW) with K = 6 as in rois and C = 3 as in input, got shape (3, 2, 2)",
    ),
    "argmax of other channels": (
        (X, ROIS, ARGMAX[:, :2], 1.0),
        "argmax must have shape (K, C, PH, PW) with K = 6 as in rois and C = 3 as in input, got shape (6, 2, 2, 2)",
    ),
    "floating argmax": ((X, ROIS, ARGMAX.float(), 1.0), "argmax must be int32, got float32"),
    "NaN scale": ((X, ROIS, ARGMAX, float("nan")), "spatial_scale must be finite and greater than 0, got nan"),
}
MISUSE = [
    pytest.param(op, *case, id=f"{op}: {name}")
    for op, cases in {
        "roi_pool": FORWARD,
        "roi_pool_with_argmax": FORWARD,
        "roi_pool_backward": BACKWARD,
        "roi_pool_gather": GATHER,
    }.items()
    for name, case in cases.items()
]


@pytest.mark.parametrize(("op", "arguments", "message"), MISUSE)
def test_misuse_is_one_clear_error(backend, op, arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is compared
        getattr(backend.ops, op)(*to_device(arguments, backend.device))
    assert str(caught.value) == message


@pytest.mark.parametrize(("op", "arguments", "message"), MISUSE)
def test_fake_kernels_refuse_the_same_in_the_same_words(op, arguments, message):
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            getattr(ops, op)(*fake)
    assert str(caught.value) == message


@pytest.mark.parametrize(("op", "arguments", "message"), MISUSE)
def test_refusals_may_arrive_as_runtime_errors(op, arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call_below_autograd(RaisesRuntimeErrors(getattr(ops, op).default), *arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("a driver must be installed, got none"), RuntimeError),
        (RuntimeError("std::bad_alloc"), MemoryError),
        (NotImplementedError("input must be a 4-D tensor (N, C, H, W), got shape (3, 4, 5)"), NotImplementedError),
    ],
)
def test_other_errors_are_passed_on(error, expected):
    """Even where an argument should have been refused."""

    def op(*_):
        raise error

    op.name = ops.roi_pool.default.name
    with pytest.raises(expected) as caught:
        call_below_autograd(op, X[0], ROIS, 2, 2, 1.0)
    assert type(caught.value) is expected
    assert str(caught.value) == str(error)


def test_the_largest_map_is_taken(backend):
    rois = ROIS.to(backend.device)
    assert backend.ops.roi_pool(torch.empty(1, 0, 1, 2**31 - 1, device=backend.device), rois, 2, 2, 1.0).numel() == 0
    with FakeTensorMode() as mode:
        x, rois = torch.empty(1, 3, 1, 2**31 - 1), mode.from_tensor(ROIS)
        assert ops.roi_pool(x, rois, 2, 2, 1.0).shape == (6, 3, 2, 2)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("roi_pool", (X, ROIS.to("meta"), 2, 2, 1.0), "rois must be on the device of input (cpu), got meta"),
        ("roi_pool", (X.to("meta"), ROIS, 2, 2, 1.0), "rois must be on the device of input (meta), got cpu"),
        (
            "roi_pool_backward",
            (GRAD, ROIS, ARGMAX.to("meta"), 2, 4, 5, 1.0),
            "argmax must be on the device of grad_output (cpu), got meta",
        ),
        ("roi_pool_gather", (X, ROIS, ARGMAX.to("meta"), 1.0), "argmax must be on the device of input (cpu), got meta"),
    ],
)
def test_tensors_on_two_devices(device, op, arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        getattr(ops, op)(*to_device(arguments, device))
    assert str(caught.value) == message.replace("cpu", str(device))


def test_out_of_memory_says_so(device):
    x, rois = torch.zeros(1, 8, 4, 5, device=device), torch.zeros(2**20, 5, device=device)
    with pytest.raises(RuntimeError, match=r"cannot allocate a tensor of shape \(1048576, 8, 65536, 65536\)"):
        ops.roi_pool(x, rois, 2**16, 2**16, 1.0)
    assert ops.roi_pool(x, rois[:1], 1, 1, 1.0).shape == (1, 8, 1, 1)  # later calls work
