"""Results have the same bits for any number of threads, in both memory formats, in every run."""

import threading

import pytest
import torch
from support import (
    CPU,
    DTYPES,
    assert_same_bits,
    channels_last,
    check_against_reference,
    contiguous,
    features,
    random_rois,
)

import roipool
from roipool import reference


def all_results(ops, x, rois, output_size):
    output, argmax = ops.roi_pool_with_argmax(x, rois, *output_size, 1.0)
    return [
        output,
        argmax,
        ops.roi_pool(x, rois, *output_size, 1.0),
        ops.roi_pool_gather(x, rois, argmax, 1.0),
        ops.roi_pool_backward(output, rois, argmax, x.shape[0], *x.shape[2:], 1.0),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [1, 3, 100])
def test_same_bits_for_any_number_of_threads(set_num_threads, channels, layout, dtype):
    x = layout(features((3, channels, 40, 40), dtype, seed=0))
    # Each is more work than the one before it; the last pays for seven threads where there are many channels.
    for num_rois, output_size in [(2, (20, 20)), (60, (5, 6)), (600, (7, 7))]:
        rois = random_rois(num_rois, 3, 40, 40, seed=0)
        set_num_threads(1)
        expected = all_results(CPU.ops, x, rois, output_size)
        for num_threads in [2, 3, 7]:
            set_num_threads(num_threads)
            for actual, one_thread in zip(all_results(CPU.ops, x, rois, output_size), expected, strict=True):
                assert_same_bits(actual, one_thread)
        if num_rois < 100:
            check_against_reference(CPU, x, rois, output_size, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [1, 2])
def test_planes_that_threads_share(set_num_threads, channels, layout, dtype):
    """There are fewer planes than threads, and each is more work than one thread gets."""
    x = layout(features((1, channels, 1000, 1500), dtype, seed=0))
    rois = random_rois(30, 1, 1000, 1500, seed=0)
    for num_threads in [2, 5]:
        set_num_threads(num_threads)
        check_against_reference(CPU, x, rois, (7, 5), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_has_the_same_bits_in_both_memory_formats(device, dtype):
    x = features((2, 70, 12, 12), dtype, seed=0, kind="ties").to(device)
    rois = random_rois(40, 2, 12, 12, seed=0).to(device)
    grads = []
    for layout in [contiguous, channels_last]:
        leaf = layout(x).detach().requires_grad_()
        output = roipool.roi_pool(leaf, rois, 4)
        output.backward(features(output.shape, dtype, seed=1).to(device))
        grads.append(leaf.grad)
    assert_same_bits(*grads)
    assert grads[1].is_contiguous(memory_format=torch.channels_last)


def test_gradient_is_the_same_in_every_run(device):
    x = features((2, 64, 30, 30), torch.float32, seed=0, kind="ties").to(device).requires_grad_()
    rois = random_rois(200, 2, 30, 30, seed=0).to(device)
    output = roipool.roi_pool(x, rois, 7)
    grad_output = features(output.shape, torch.float32, seed=1).to(device)
    first, *others = [torch.autograd.grad(output, x, grad_output, retain_graph=True)[0] for _ in range(20)]
    for other in others:
        assert_same_bits(other, first)


def test_calls_from_several_python_threads(device):
    problems = [
        (features((2, 70, 20, 20), torch.float32, seed=i), random_rois(30, 2, 20, 20, seed=i)) for i in range(4)
    ]
    expected = [reference.roi_pool(x, rois, 4) for x, rois in problems]
    expected_grads = []
    for x, rois in problems:
        output, argmax = reference.roi_pool(x, rois, 4, return_argmax=True)
        expected_grads.append(reference.roi_pool_backward(torch.ones_like(output), rois, argmax, x.shape))
    failures = []

    def work(i):
        for _ in range(20):
            x, rois = (tensor.to(device) for tensor in problems[i])
            leaf = x.clone().requires_grad_()
            output = roipool.roi_pool(leaf, rois, 4)
            output.sum().backward()
            try:
                assert_same_bits(output, expected[i])
                assert_same_bits(leaf.grad, expected_grads[i])
            except AssertionError as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
