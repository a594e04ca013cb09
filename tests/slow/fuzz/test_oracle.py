"""The fuzzer's oracle says what roipool.reference says, bit for bit."""

import ctypes
import subprocess
from ctypes import c_bool, c_double, c_int64, c_void_p
from pathlib import Path

import pytest
import torch
from compilation import COMPILER
from hypothesis import given, settings
from support import assert_same_bits, features, problems, pyramid_problems

from roipool import reference

HERE = Path(__file__).parent


class Arguments(ctypes.Structure):
    _fields_ = (
        ("num_levels", c_int64),
        ("maps", c_void_p),
        ("heights", c_void_p),
        ("widths", c_void_p),
        ("spatial_scales", c_void_p),
        ("num_images", c_int64),
        ("channels", c_int64),
        ("num_rois", c_int64),
        ("pooled_height", c_int64),
        ("pooled_width", c_int64),
        ("canonical_scale", c_double),
        ("canonical_level", c_int64),
        ("rois", c_void_p),
        ("rois_are_double", c_bool),
    )


@pytest.fixture(scope="session")
def oracle(tmp_path_factory):
    library = tmp_path_factory.mktemp("oracle") / "oracle.so"
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*COMPILER, *flags, HERE / "oracle.cpp", "-o", library], check=True)
    return ctypes.CDLL(library)


def pointers(tensors):
    return (c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def check(oracle, maps, rois, output_size, spatial_scales, canonical_scale=1.0, canonical_level=0):
    """Holds the oracle to the reference on a pyramid. With a single map, the canonical level does not matter."""
    n, c = maps[0].shape[:2]
    boxes = rois.to(torch.promote_types(rois.dtype, torch.float32)).contiguous()
    values = [x.double().contiguous() for x in maps]
    arrays = [
        pointers(values),
        (c_int64 * len(maps))(*[x.shape[2] for x in maps]),
        (c_int64 * len(maps))(*[x.shape[3] for x in maps]),
        (c_double * len(maps))(*spatial_scales),
    ]
    arguments = Arguments(
        len(maps),
        *[ctypes.cast(array, c_void_p) for array in arrays],
        *(n, c, len(rois), *output_size, canonical_scale, canonical_level),
        *(boxes.data_ptr(), boxes.dtype == torch.float64),
    )

    canonical = {"canonical_scale": canonical_scale, "canonical_level": canonical_level}
    expected, expected_argmax = reference.multiscale_roi_pool(
        maps, rois, output_size, spatial_scales, **canonical, return_argmax=True
    )
    argmax = torch.empty_like(expected_argmax)
    oracle.oracle_argmax(ctypes.byref(arguments), c_void_p(argmax.data_ptr()))
    assert torch.equal(argmax, expected_argmax)

    levels, cells = (torch.full(argmax.shape, -1) for _ in range(2))
    tensors = [c_void_p(tensor.data_ptr()) for tensor in (argmax, levels, cells)]
    oracle.oracle_cells(ctypes.byref(arguments), *tensors)
    output = torch.zeros_like(expected)
    for level, x in enumerate(maps):
        here = levels == level
        output[here] = x.flatten()[cells[here]]
    assert_same_bits(output.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))

    grad_output = features(expected.shape, maps[0].dtype, seed=len(rois))
    grads = grad_output.double()
    sums = [torch.empty(x.shape, dtype=torch.float64) for x in maps]
    oracle.oracle_backward(
        ctypes.byref(arguments),
        c_void_p(argmax.data_ptr()),
        c_void_p(grads.data_ptr()),
        c_bool(maps[0].dtype == torch.float64),
        pointers(sums),
    )
    shapes = [x.shape for x in maps]
    expected_grads = reference.multiscale_roi_pool_backward(
        grad_output, rois, expected_argmax, shapes, spatial_scales, **canonical
    )
    for actual, grad in zip(sums, expected_grads, strict=True):
        assert_same_bits(actual.to(grad.dtype), grad)


@settings(max_examples=100)
@given(problem=problems())
def test_random_problems(oracle, problem):
    x, layout, rois, output_size, spatial_scale = problem
    check(oracle, [layout(x)], rois, output_size, [spatial_scale])


@settings(max_examples=100)
@given(problem=pyramid_problems())
def test_random_pyramids(oracle, problem):
    maps, rois, output_size, pyramid = problem
    check(oracle, maps, rois, output_size, *pyramid)
