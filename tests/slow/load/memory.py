"""Checks calls that lack memory."""

import contextlib
import ctypes
import resource
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from support import assert_same_bits, channels_last, contiguous, features, random_rois
from torch import Tensor

import roipool

ops = torch.ops.roipool


@contextlib.contextmanager
def memory_limit(extra: int) -> Iterator[None]:
    """Limits the addresses of the process to so many bytes more than now."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (now + extra, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)


def memory_problems() -> Iterator[dict[str, Callable[[], object]]]:
    """Yields calls whose scratch memory, of each kind, is most of what they need: their results are small."""
    for layout in [contiguous, channels_last]:
        for dtype in [torch.float32, torch.bfloat16]:
            for shape, num_rois in [
                ((2, 256, 30, 30), 10),  # few channel groups for the threads
                ((4, 600, 16, 16), 20),  # many channel groups
                ((2, 3, 120, 120), 60),  # by rows
                ((2, 40, 40, 40), 1),  # regions packed alone
                ((2, 3, 120, 120), 1),  # regions alone, by rows
            ]:
                x = layout(features(shape, dtype, seed=0))
                yield calls_of_all_operators(x, random_rois(num_rois, shape[0], *shape[2:], seed=0))


def calls_of_all_operators(x: Tensor, rois: Tensor) -> dict[str, Callable[[], object]]:
    n, _, h, w = x.shape
    output, argmax = ops.roi_pool_with_argmax(x, rois, 3, 3, 1.0)
    out, leaf = output.clone(), x.clone().requires_grad_()
    maps, pyramid = [x, x[:, :, ::2, ::2]], ([1.0, 0.5], 40.0, 1)
    pyramid_argmax = ops.multiscale_roi_pool_with_argmax(maps, rois, 3, 3, *pyramid)[1]
    return {
        "forward": lambda: ops.roi_pool(x, rois, 3, 3, 1.0),
        "forward, what must be copied": lambda: ops.roi_pool(x.transpose(2, 3), rois.bfloat16(), 3, 3, 1.0),
        "argmax": lambda: ops.roi_pool_with_argmax(x, rois, 3, 3, 1.0),
        "out": lambda: ops.roi_pool.out(x, rois, 3, 3, 1.0, out=out),
        "backward": lambda: ops.roi_pool_backward(output, rois, argmax, n, h, w, 1.0),
        "gather": lambda: ops.roi_pool_gather(x, rois, argmax, 1.0),
        "gradient": lambda: torch.autograd.grad(roipool.roi_pool(leaf, rois, 3).sum(), leaf),
        "pyramid": lambda: ops.multiscale_roi_pool(maps, rois, 3, 3, *pyramid),
        "pyramid, gather": lambda: ops.multiscale_roi_pool_gather(maps, rois, pyramid_argmax, *pyramid),
    }


def tensors_of(result: object) -> list[Tensor]:
    return [result.clone()] if isinstance(result, Tensor) else [tensor.clone() for tensor in result]


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # options of mallopt


def check_out_of_memory(steps: int) -> None:
    """Runs every call with memory for a part of what it needs. It must succeed with the same bits, or raise.

    An exception that got out of a thread of OpenMP would end the process.
    """
    # malloc maps what is larger than 24 KiB, and keeps none of it. A reserve serves smaller requests: torch crashes
    # where an error has no memory for its backtrace (c10::GetBacktraceImpl::symbolize).
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    for option, value in [(M_MMAP_THRESHOLD, 24 << 10), (M_TRIM_THRESHOLD, 0), (M_TOP_PAD, 0)]:
        libc.mallopt(option, value)
    reserve = [(libc.malloc(23 << 10), libc.malloc(16)) for _ in range(100)]
    for chunk, _ in reserve:  # the small chunks between them keep them apart
        libc.free(chunk)
    outcomes: Counter[str] = Counter()
    torch.set_num_threads(2)
    for calls in memory_problems():
        for name, call in calls.items():
            expected = tensors_of(call())
            enough = 1 << 18
            while not succeeds(call, enough, outcomes, expected):
                enough *= 2
                assert enough < 2**32, f"{name} needs 4 GiB"
            for step in range(steps):
                succeeds(call, enough * step // steps, outcomes, expected)
            for actual, right in zip(tensors_of(call()), expected, strict=True):  # later calls work
                assert_same_bits(actual, right)
    print(", ".join(f"{outcome}: {count}" for outcome, count in outcomes.most_common()))
    known = {"success", "MemoryError", "cannot allocate a tensor", "DefaultCPUAllocator: can't allocate memory"}
    assert set(outcomes) <= known, "an error does not say that memory is short"
    assert outcomes["MemoryError"] > 0, "scratch memory was never short"
    assert outcomes["cannot allocate a tensor"] > 0, "tensors were never short"


def succeeds(call: Callable[[], object], extra: int, outcomes: Counter[str], expected: list[Tensor]) -> bool:
    try:
        with memory_limit(extra):
            result = call()
    except (MemoryError, RuntimeError) as error:
        outcome = "MemoryError" if isinstance(error, MemoryError) else str(error)
        for known in ["cannot allocate a tensor", "DefaultCPUAllocator: can't allocate memory"]:
            outcome = known if known in outcome else outcome
        outcomes[outcome] += 1
        return False
    for actual, right in zip(tensors_of(result), expected, strict=True):
        assert_same_bits(actual, right)
    outcomes["success"] += 1
    return True
