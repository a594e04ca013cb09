"""What single calls do not show: threads, leaks, forks, signals, a lack of memory.

    python tests/load.py [threads leaks fork interrupt out_of_memory] [--seconds 300] [--calls 100000]

Each check runs in a process of its own, prints its figures, and fails by an exception. tests/test_load.py runs short
versions of all of them.
"""

import argparse
import contextlib
import ctypes
import gc
import math
import multiprocessing
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch
from support import assert_same_bits, channels_last, contiguous, features, random_rois, same_bits
from torch import Tensor

import roipool
from roipool import reference

ops = torch.ops.roipool


# ---- Threads.


def expected_gradients(pool: roipool.RoIPool, x: Tensor, rois: Tensor, grad_output: Tensor) -> list[Tensor]:
    """The output and the gradient, from the reference."""
    output, argmax = reference.roi_pool(x, rois, pool.output_size, pool.spatial_scale, return_argmax=True)
    return [output, reference.roi_pool_backward(grad_output, rois, argmax, x.shape)]


def expected_gradients_of_pyramid(
    pool: roipool.MultiScaleRoIPool, maps: list[Tensor], rois: Tensor, grad_output: Tensor
) -> list[Tensor]:
    output, argmax = reference.multiscale_roi_pool(maps, rois, pool.output_size, pool.scales, return_argmax=True)
    shapes = [x.shape for x in maps]
    grads = reference.multiscale_roi_pool_backward(grad_output, rois, argmax, shapes, pool.scales)
    return [output, *grads]


def thread_problems() -> list[tuple[Callable[[bool], list[Tensor]], list[Tensor]]]:
    """(call, expected): call(own) gives the output and the gradients, from tensors of its own or from shared ones."""
    pool = roipool.RoIPool((4, 3), 0.5)
    pyramid_pool = roipool.MultiScaleRoIPool(["0", "1", "2"], (3, 2))
    pyramid_pool.scales = [1 / 4, 1 / 8, 1 / 16]
    problems = []

    def add_problem(inputs: list[Tensor], forward: Callable[..., Tensor], grad_output: Tensor, expected) -> None:
        def call(own: bool) -> list[Tensor]:
            leaves = [(x.clone() if own else x.detach()).requires_grad_() for x in inputs]
            output = forward(leaves)
            return [output.detach(), *torch.autograd.grad(output, leaves, grad_output)]

        problems.append((call, expected))

    for seed, (shape, num_rois, dtype, layout) in enumerate(
        [
            ((2, 70, 20, 20), 40, torch.float32, contiguous),  # in blocks of channels
            ((2, 70, 20, 20), 40, torch.float32, channels_last),
            ((3, 3, 60, 70), 60, torch.float32, contiguous),  # in rows
            ((1, 40, 15, 17), 30, torch.bfloat16, channels_last),
            ((1, 20, 9, 8), 1, torch.float64, contiguous),  # one region: too little for a second thread
            ((2, 5, 6, 7), 0, torch.float16, contiguous),
        ]
    ):
        x = layout(features(shape, dtype, seed, "ties"))
        rois = random_rois(num_rois, shape[0], 2 * shape[2], 2 * shape[3], seed).float()
        grad_output = features((num_rois, shape[1], 4, 3), dtype, seed + 1)
        expected = expected_gradients(pool, x, rois, grad_output)
        add_problem([x], lambda leaves, rois=rois: pool(leaves[0], rois), grad_output, expected)

    for layout in [contiguous, channels_last]:
        maps = [layout(features((2, 20, 64 >> i, 80 >> i), torch.float32, i)) for i in range(3)]
        rois = random_rois(50, 2, 256, 320, seed=0).float()
        grad_output = features((50, 20, 3, 2), torch.float32, seed=1)
        expected = expected_gradients_of_pyramid(pyramid_pool, maps, rois, grad_output)

        def pool_pyramid(leaves: list[Tensor], rois: Tensor = rois) -> Tensor:
            return pyramid_pool({str(i): x for i, x in enumerate(leaves)}, rois, [(256, 320)])

        add_problem(maps, pool_pyramid, grad_output, expected)
    return problems


def check_threads(seconds: float, num_threads: int = 8) -> None:
    """Python threads that share two modules, and inputs at times; every result is compared to the reference's."""
    problems = thread_problems()
    counts = [0] * num_threads
    failures: list[str] = []
    end = time.monotonic() + seconds

    def work(thread: int) -> None:
        try:
            while not failures and (time.monotonic() < end or counts[thread] < len(problems)):
                i = counts[thread] + thread  # so that they start with different ones
                call, expected = problems[i % len(problems)]
                for actual, right in zip(call(i // len(problems) % 2 == 0), expected, strict=True):
                    assert_same_bits(actual, right)
                counts[thread] += 1
        except BaseException as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=seconds + 60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert not failures, failures[0]
    print(f"{sum(counts)} forward and backward passes in {num_threads} threads, all with the right bits")


# ---- Leaks.


class Mallinfo2(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]


def bytes_in_use() -> int:
    """What malloc has given out, to the byte; 0 where there is no glibc to ask. Memory of Python's own is not in it."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = Mallinfo2
    info = mallinfo2()
    return info.field4 + info.field7  # hblkhd, in mappings, and uordblks, in heaps


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def refused(call: Callable[[], object]) -> Callable[[], None]:
    def refused_call() -> None:
        try:
            call()
        except (ValueError, TypeError, RuntimeError):
            return
        raise AssertionError("this call should have been refused")

    return refused_call


def small_calls() -> dict[str, Callable[[], object]]:
    """One of each kind that users make, on tensors of next to no size."""
    x, rois = features((2, 3, 8, 6), torch.float32, seed=0), random_rois(5, 2, 8, 6, seed=0).float()
    boxes = [rois[:2, 1:], rois[2:, 1:].to(torch.bfloat16)]
    wide_boxes = rois.bfloat16()
    strided = x.transpose(2, 3)
    leaf = x.clone().requires_grad_()
    pool = roipool.RoIPool(2, 0.5)
    maps = [x, x[:, :, ::2].contiguous()]
    leaves = [map.clone().requires_grad_() for map in maps]
    pyramid = ([1.0, 0.5], 224.0, 4)
    output, argmax = ops.roi_pool_with_argmax(x, rois, 2, 2, 0.5)
    pyramid_argmax = ops.multiscale_roi_pool_with_argmax(maps, rois, 2, 2, *pyramid)[1]
    out, strided_out = torch.empty_like(output), torch.empty(5, 3, 2, 4)[..., ::2]
    freed = x.clone()
    freed.untyped_storage().resize_(0)
    fixed = torch.from_numpy(np.empty(0, np.float32))  # NumPy's memory: it cannot grow
    batch, batch_rois = torch.stack([x, x]), torch.stack([rois, rois])

    def double_backward() -> None:
        grad = torch.autograd.grad(pool(leaf, rois).square().sum(), leaf, create_graph=True)
        torch.autograd.grad(grad[0].sum(), leaf)

    return {
        "inference": lambda: pool(x, rois),
        "inference, list of boxes": lambda: pool(x, boxes),
        "inference, what must be copied": lambda: pool(strided, wide_boxes),
        "gradient": lambda: torch.autograd.grad(pool(leaf, rois).sum(), leaf),
        "gradient of the gradient": double_backward,
        "a graph that is dropped": lambda: pool(leaf, rois),
        "argmax": lambda: roipool.roi_pool(x, rois, 2, return_argmax=True),
        "out": lambda: roipool.roi_pool(x, rois, 2, out=out),
        "out, strided": lambda: roipool.roi_pool(x, rois, 2, out=strided_out),
        "out, resized": lambda: roipool.roi_pool(x, rois, 2, out=torch.empty(0)),
        "out, resized by the operator": lambda: ops.roi_pool.out(x, rois, 2, 2, 1.0, out=torch.empty(0)),
        "operator, forward": lambda: ops.roi_pool(x, rois, 2, 2, 0.5),
        "operator, backward": lambda: ops.roi_pool_backward(output, rois, argmax, 2, 8, 6),
        "operator, gather": lambda: ops.roi_pool_gather(x, rois, argmax),
        "pyramid": lambda: roipool.multiscale_roi_pool(maps, rois, 2, [1.0, 0.5]),
        "pyramid, gradient": lambda: torch.autograd.grad(
            roipool.multiscale_roi_pool(leaves, rois, 2, [1.0, 0.5]).sum(), leaves
        ),
        "pyramid, argmax": lambda: roipool.multiscale_roi_pool(maps, rois, 2, [1.0, 0.5], return_argmax=True),
        "pyramid, gather": lambda: ops.multiscale_roi_pool_gather(maps, rois, pyramid_argmax, *pyramid),
        "vmap": lambda: torch.func.vmap(lambda x, rois: roipool.roi_pool(x, rois, 2))(batch, batch_rois),
        "torch.func.grad": lambda: torch.func.grad(lambda x: roipool.roi_pool(x, rois, 2).sum())(x),
        "torch.func.jvp": lambda: torch.func.jvp(lambda x: roipool.roi_pool(x, rois, 2), (x,), (x,)),
        "refused: shape": refused(lambda: ops.roi_pool(x, rois[:, 1:], 2, 2, 1.0)),
        "refused: dtype": refused(lambda: pool(x.long(), rois)),
        "refused: box": refused(lambda: roipool.roi_pool(x, [rois[:, 1:], rois], 2)),
        "refused: with a gradient": refused(lambda: ops.roi_pool(leaf, rois, 2, 2, -1.0)),
        "refused: pyramid": refused(lambda: ops.multiscale_roi_pool([*maps, x[0]], rois, 2, 2, *pyramid)),
        "refused: backward": refused(lambda: ops.roi_pool_backward(output, rois, argmax, 2, -8, 6)),
        "refused: freed storage": refused(lambda: pool(freed, rois)),
        "refused: out": refused(lambda: roipool.roi_pool(x, rois, 2, out=out.double())),
        "refused: out of another library": refused(lambda: ops.roi_pool.out(x, rois, 2, 2, 1.0, out=fixed)),
        "refused: out of memory": refused(lambda: ops.roi_pool(x, rois, 2**31 - 1, 2**31 - 1, 1.0)),
        "refused: no memory for a copy": refused(lambda: ops.roi_pool(x, rois[:1].expand(2**45, 5), 1, 1, 1.0)),
    }


STRETCHES = 5
RARE = ["refused: out of memory", "refused: no memory for a copy"]  # PyTorch takes some 20 ms to word such an error


def growth(call: Callable[[], object], calls: int) -> tuple[int, int]:
    """Bytes of malloc, and objects of Python, that so many calls leave behind."""
    gc.collect()
    before = bytes_in_use(), sys.getallocatedblocks()
    for _ in range(calls):
        call()
    gc.collect()
    return bytes_in_use() - before[0], sys.getallocatedblocks() - before[1]


def check_leaks(calls: int, kinds: dict[str, Callable[[], object]] | None = None) -> None:
    """So many calls, all kinds together, leave nothing behind, to the handle of a tensor and the object of Python."""
    kinds = kinds or small_calls()
    weights = {name: 0.1 if name in RARE else 1.0 for name in kinds}
    counts = {name: math.ceil(calls * weight / (STRETCHES * sum(weights.values()))) for name, weight in weights.items()}
    for name, call in kinds.items():  # warm-up: torch.func fills its caches for hundreds of calls
        for _ in range(10 if name in RARE else 1000):
            call()
    gc.collect()
    gc.freeze()  # what there is already need not be collected over and over
    resident = resident_bytes()
    for name, call in kinds.items():
        # A leak is in each of the stretches, what some cache takes now and then is not.
        stretches = [growth(call, counts[name]) for _ in range(STRETCHES)]
        bytes_grown, objects_grown = (min(numbers) for numbers in zip(*stretches, strict=True))
        # The smallest leak, 32 bytes (what malloc gives for a handle) or 1 object in each call, is more than this.
        assert bytes_grown < 8 * counts[name], f"{name}: {counts[name]} calls leak {bytes_grown} bytes"
        assert objects_grown < 0.8 * counts[name], f"{name}: {counts[name]} calls leak {objects_grown} Python objects"
    grown = (resident_bytes() - resident) / 2**20
    gc.unfreeze()
    made = STRETCHES * sum(counts.values())
    print(f"{made} calls of {len(kinds)} kinds: {resident / 2**20:.1f} MiB, then {grown:+.1f} MiB")
    assert grown < 4


# ---- Forks.


class Crops(torch.utils.data.Dataset):
    """Pools in the workers of a DataLoader."""

    def __init__(self, x: Tensor, rois: Tensor) -> None:
        self.x, self.rois = x, rois

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> Tensor:
        assert torch.get_num_threads() == 1
        return roipool.roi_pool(self.x, self.rois, 4)


def check_fork() -> None:
    """A child of a process that has used its threads, as DataLoader forks them.

    With more than one thread, all of PyTorch hangs there (a max_pool2d, too): the OpenMP library of GCC does not
    survive a fork. That is why the workers of a DataLoader set it to one, and so does this.
    """
    torch.set_num_threads(2)
    x, rois = features((2, 70, 40, 40), torch.float32, seed=0), random_rois(100, 2, 40, 40, seed=0)
    expected, argmax = reference.roi_pool(x, rois, 4, return_argmax=True)
    grad_output = torch.ones_like(expected)
    expected_grad = reference.roi_pool_backward(grad_output, rois, argmax, x.shape)

    def pool_forwards_and_backwards() -> bool:
        leaf = x.clone().requires_grad_()
        output = roipool.roi_pool(leaf, rois, 4)
        return same_bits(output, expected) and same_bits(torch.autograd.grad(output.sum(), leaf)[0], expected_grad)

    def run_child() -> None:
        torch.set_num_threads(1)
        sys.exit(0 if pool_forwards_and_backwards() else 1)

    assert pool_forwards_and_backwards()
    child = multiprocessing.get_context("fork").Process(target=run_child, daemon=True)
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0, "a forked child hangs" if child.exitcode is None else "a forked child fails"
    loader = torch.utils.data.DataLoader(
        Crops(x, rois), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    outputs = list(loader)
    assert len(outputs) == 8
    for output in outputs:
        assert_same_bits(output, expected)
    assert pool_forwards_and_backwards()  # in the parent all goes on
    print("a forked child and two workers of a DataLoader give the right bits")


# ---- Signals.


def check_interrupt(seconds: float = 2.5) -> None:
    """Ctrl-C in the middle of a long call is an exception once the call is over, and does no harm."""
    x = features((1, 16, 300, 300), torch.float32, seed=0)
    rois = torch.tensor([[0.0, 0, 0, 299, 299]])
    expected = x.amax((2, 3), keepdim=True)
    num_rois, duration = 1, 0.0
    while duration < seconds:  # how many regions take that long
        num_rois = int(num_rois * min(20, 1.2 * seconds / duration)) + 1 if duration else 50
        start = time.monotonic()
        roipool.roi_pool(x, rois.expand(num_rois, 5), 1, out=torch.empty(0))
        duration = time.monotonic() - start

    signal.signal(signal.SIGALRM, signal.default_int_handler)  # which Ctrl-C has, too
    start = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds / 10)
    try:
        roipool.roi_pool(x, rois.expand(num_rois, 5), 1)
    except KeyboardInterrupt:
        interrupted = time.monotonic() - start
    else:
        raise AssertionError("there was no KeyboardInterrupt")
    assert interrupted > seconds / 4, f"the call took but {interrupted:.2f} s, so nothing was interrupted"
    assert_same_bits(roipool.roi_pool(x, rois, 1), expected)
    leaf = x.clone().requires_grad_()
    roipool.roi_pool(leaf, rois, 1).sum().backward()
    assert_same_bits(leaf.grad.sum((2, 3), keepdim=True), torch.ones_like(expected))
    print(
        f"a signal after {seconds / 10:.1f} s of a call: KeyboardInterrupt after {interrupted:.1f} s, and all goes on"
    )


# ---- A lack of memory.


@contextlib.contextmanager
def memory_limit(extra: int) -> Iterator[None]:
    """At most that many bytes of addresses more than now."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (now + extra, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)


def memory_problems() -> Iterator[dict[str, Callable[[], object]]]:
    """Calls that need scratch memory of all kinds. Their results are small, so that it is most of what they need."""
    for layout in [contiguous, channels_last]:
        for dtype in [torch.float32, torch.bfloat16]:
            for shape, num_rois in [
                ((2, 256, 30, 30), 10),  # in blocks of channels, few for the threads
                ((4, 600, 16, 16), 20),  # many
                ((2, 3, 120, 120), 60),  # in rows
                ((2, 40, 40, 40), 1),  # by themselves
                ((2, 3, 120, 120), 1),  # by themselves, in rows
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
        "backward": lambda: ops.roi_pool_backward(output, rois, argmax, n, h, w),
        "gather": lambda: ops.roi_pool_gather(x, rois, argmax),
        "gradient": lambda: torch.autograd.grad(roipool.roi_pool(leaf, rois, 3).sum(), leaf),
        "pyramid": lambda: ops.multiscale_roi_pool(maps, rois, 3, 3, *pyramid),
        "pyramid, gather": lambda: ops.multiscale_roi_pool_gather(maps, rois, pyramid_argmax, *pyramid),
    }


def tensors_of(result: object) -> list[Tensor]:
    return [result.clone()] if isinstance(result, Tensor) else [tensor.clone() for tensor in result]


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of mallopt


def check_out_of_memory(steps: int) -> None:
    """Every call with memory for a part of what it needs: it must succeed with the same bits, or raise.

    An exception that got out of a thread of OpenMP would end the process.
    """
    # What is larger than 24 KiB gets a mapping of its own, kept by none. Of what is smaller there is a reserve: torch
    # crashes where an error has no memory for its backtrace (c10::GetBacktraceImpl::symbolize).
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    for option, value in [(M_MMAP_THRESHOLD, 24 << 10), (M_TRIM_THRESHOLD, 0), (M_TOP_PAD, 0)]:
        libc.mallopt(option, value)
    reserve = [(libc.malloc(23 << 10), libc.malloc(16)) for _ in range(100)]
    for chunk, _ in reserve:  # what stays between them keeps them apart
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
            for actual, right in zip(tensors_of(call()), expected, strict=True):  # all goes on
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


# ---- All of them.

CHECKS = ["threads", "leaks", "fork", "interrupt", "out_of_memory"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", choices=[[], *CHECKS], help="all by default")  # [] is none given
    parser.add_argument("--seconds", type=float, default=300, help="of the threads (%(default)s)")
    parser.add_argument("--calls", type=int, default=100_000, help="of the leaks (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="of memory, from none to enough (%(default)s)")
    arguments = parser.parse_args()
    if len(arguments.checks) != 1:  # a single one runs here, several each in a process of its own
        options = [f"--{name}={getattr(arguments, name)}" for name in ["seconds", "calls", "steps"]]
        for check in arguments.checks or CHECKS:
            print(f"{check}: ", end="", flush=True)
            subprocess.run([sys.executable, __file__, check, *options], check=True)
        return
    run = {
        "threads": lambda: check_threads(arguments.seconds),
        "leaks": lambda: check_leaks(arguments.calls),
        "fork": check_fork,
        "interrupt": check_interrupt,
        "out_of_memory": lambda: check_out_of_memory(arguments.steps),
    }
    run[arguments.checks[0]]()


if __name__ == "__main__":
    main()
