"""Checks Python threads that pool at the same time."""

import threading
import time
from collections.abc import Callable

import torch
from support import assert_same_bits, channels_last, contiguous, features, random_rois
from torch import Tensor

import roipool
from roipool import reference

ops = torch.ops.roipool


def expected_gradients(pool: roipool.RoIPool, x: Tensor, rois: Tensor, grad_output: Tensor) -> list[Tensor]:
    """Returns the output and the gradient, from the reference."""
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
    """Lists (call, expected). call(own) returns the output and the gradients of its own tensors, or of shared ones."""
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
            ((2, 70, 20, 20), 40, torch.float32, contiguous),  # by channel groups
            ((2, 70, 20, 20), 40, torch.float32, channels_last),
            ((3, 3, 60, 70), 60, torch.float32, contiguous),  # by rows
            ((1, 40, 15, 17), 30, torch.bfloat16, channels_last),
            ((1, 20, 9, 8), 1, torch.float64, contiguous),  # too little for a second thread
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
    """Runs threads that share two modules, and inputs at times; compares every result to the reference's."""
    problems = thread_problems()
    counts = [0] * num_threads
    failures: list[str] = []
    end = time.monotonic() + seconds

    def work(thread: int) -> None:
        try:
            while not failures and (time.monotonic() < end or counts[thread] < len(problems)):
                i = counts[thread] + thread  # threads start with different problems
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
