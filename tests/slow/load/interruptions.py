"""Checks forks and signals."""

import multiprocessing
import signal
import sys
import time

import torch
from support import assert_same_bits, features, random_rois, same_bits
from torch import Tensor

import roipool
from roipool import reference


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
    """Pools in a child of a process that has used its threads, as DataLoader forks them.

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
    assert pool_forwards_and_backwards()  # the parent still works
    print("a forked child and two workers of a DataLoader give the right bits")


def check_interrupt(seconds: float = 2.5) -> None:
    """Interrupts a long call, which must raise KeyboardInterrupt once it is over, and do no harm."""
    x = features((1, 16, 300, 300), torch.float32, seed=0)
    rois = torch.tensor([[0.0, 0, 0, 299, 299]])
    expected = x.amax((2, 3), keepdim=True)
    num_rois, duration = 1, 0.0
    while duration < seconds:  # finds how many regions take that long
        num_rois = int(num_rois * min(20, 1.2 * seconds / duration)) + 1 if duration else 50
        start = time.monotonic()
        roipool.roi_pool(x, rois.expand(num_rois, 5), 1, out=torch.empty(0))
        duration = time.monotonic() - start

    signal.signal(signal.SIGALRM, signal.default_int_handler)  # handles Ctrl-C as well
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
