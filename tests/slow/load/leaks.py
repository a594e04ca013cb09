"""Checks what calls leave behind: bytes of malloc, objects of Python."""

import ctypes
import gc
import math
import resource
import sys
from collections.abc import Callable

import numpy as np
import torch
from support import features, random_rois

import roipool

ops = torch.ops.roipool


class Mallinfo2(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]


def bytes_in_use() -> int:
    """Returns what malloc has given out, without Python's own memory; 0 where there is no glibc to ask."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = Mallinfo2
    info = mallinfo2()
    return info.field4 + info.field7  # hblkhd counts mappings, uordblks heaps


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
    """Returns a call of each kind that users make, on small tensors."""
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
    fixed = torch.from_numpy(np.empty(0, np.float32))  # NumPy's memory cannot grow
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
        "operator, backward": lambda: ops.roi_pool_backward(output, rois, argmax, 2, 8, 6, 0.5),
        "operator, gather": lambda: ops.roi_pool_gather(x, rois, argmax, 0.5),
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
        "refused: backward": refused(lambda: ops.roi_pool_backward(output, rois, argmax, 2, -8, 6, 0.5)),
        "refused: freed storage": refused(lambda: pool(freed, rois)),
        "refused: out": refused(lambda: roipool.roi_pool(x, rois, 2, out=out.double())),
        "refused: out of another library": refused(lambda: ops.roi_pool.out(x, rois, 2, 2, 1.0, out=fixed)),
        "refused: out of memory": refused(lambda: ops.roi_pool(x, rois, 2**31 - 1, 2**31 - 1, 1.0)),
        "refused: no memory for a copy": refused(lambda: ops.roi_pool(x, rois[:1].expand(2**45, 5), 1, 1, 1.0)),
    }


STRETCHES = 5
RARE = ["refused: out of memory", "refused: no memory for a copy"]  # PyTorch takes 20 ms to word such an error


def growth(call: Callable[[], object], calls: int) -> tuple[int, int]:
    """Returns how many bytes of malloc and objects of Python so many calls leave behind."""
    gc.collect()
    before = bytes_in_use(), sys.getallocatedblocks()
    for _ in range(calls):
        call()
    gc.collect()
    return bytes_in_use() - before[0], sys.getallocatedblocks() - before[1]


def check_leaks(calls: int, kinds: dict[str, Callable[[], object]] | None = None) -> None:
    """Fails where calls leave something behind, be it one handle of a tensor or one object of Python a call."""
    kinds = kinds or small_calls()
    weights = {name: 0.1 if name in RARE else 1.0 for name in kinds}
    counts = {name: math.ceil(calls * weight / (STRETCHES * sum(weights.values()))) for name, weight in weights.items()}
    for name, call in kinds.items():  # torch.func fills its caches for hundreds of calls
        for _ in range(10 if name in RARE else 1000):
            call()
    gc.collect()
    gc.freeze()  # spares the collector what is there already
    resident = resident_bytes()
    for name, call in kinds.items():
        # A leak shows in each of the stretches; a cache grows only now and then.
        stretches = [growth(call, counts[name]) for _ in range(STRETCHES)]
        bytes_grown, objects_grown = (min(numbers) for numbers in zip(*stretches, strict=True))
        # The smallest leaks, of 32 bytes (a handle) or 1 object a call, exceed these limits.
        assert bytes_grown < 8 * counts[name], f"{name}: {counts[name]} calls leak {bytes_grown} bytes"
        assert objects_grown < 0.8 * counts[name], f"{name}: {counts[name]} calls leak {objects_grown} Python objects"
    grown = (resident_bytes() - resident) / 2**20
    gc.unfreeze()
    made = STRETCHES * sum(counts.values())
    print(f"{made} calls of {len(kinds)} kinds: {resident / 2**20:.1f} MiB, then {grown:+.1f} MiB")
    assert grown < 4
