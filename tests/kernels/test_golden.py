"""Outputs and gradients that MXNet 1.9.1 and torchvision 0.28.0 gave, recorded (tests/data/README.md)."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import CPU, Backend, assert_same_bits, channels_last, contiguous, same_bits

import roipool

DATA = np.load(Path(__file__).parents[1] / "data" / "roi_pool_cases.npz")
CASES = {case["name"]: dict(case, index=i) for i, case in enumerate(json.loads(str(DATA["cases"])))}

# Says where roipool differs on purpose, whether (output, gradient) agree then, and why. All else agrees bit for bit.
NAN_PROPAGATES = "NaN features propagate; there they are skipped"
STARTS_AT_MINUS_INFINITY = "a bin starts from -inf; there from -FLT_MAX"
FLOAT32_GEOMETRY = "float16 features do not touch the geometry; there it is in float16"
FLOAT32_SUMS = "float16 gradients are summed in float32; there in float16"
FLOAT64_SCALE = "the scale is a float64 beside float64 boxes; there a float32"
NOT_FINITE = "a coordinate that is not finite makes the region empty; there the conversion is undefined"
CLAMPED = "coordinates beyond int32 are clamped; there they overflow"
DIFFERENCES = {
    ("mxnet", "-FLT_MAX"): ((True, False), STARTS_AT_MINUS_INFINITY),
    ("mxnet", "all-inf"): ((False, False), STARTS_AT_MINUS_INFINITY),
    ("mxnet", "some-inf"): ((False, False), STARTS_AT_MINUS_INFINITY),
    ("mxnet", "f64_below-FLT_MAX"): ((False, False), STARTS_AT_MINUS_INFINITY),
    ("mxnet", "some-nan"): ((False, False), NAN_PROPAGATES),
    ("mxnet", "all-nan"): ((False, False), NAN_PROPAGATES),
    ("mxnet", "first-nan"): ((False, False), NAN_PROPAGATES),
    ("mxnet", "f64_scale0.7"): ((False, False), FLOAT64_SCALE),
    ("mxnet", "f16_rand"): ((True, False), FLOAT32_SUMS),
    ("mxnet", "f16_scale1/16"): ((False, False), FLOAT32_GEOMETRY),
    ("mxnet", "f16_scale0.7"): ((True, False), FLOAT32_SUMS),
    ("mxnet", "f16_bigmap"): ((False, False), FLOAT32_GEOMETRY),
    ("mxnet", "f16_bin166/9"): ((False, False), FLOAT32_GEOMETRY),
    ("mxnet", "f16_below-65504"): ((True, False), STARTS_AT_MINUS_INFINITY),
    ("mxnet", "roi_nan"): ((False, False), NOT_FINITE),
    ("mxnet", "roi_inf"): ((False, False), NOT_FINITE),
    ("mxnet", "roi_1e10"): ((False, False), CLAMPED),
    ("mxnet", "roi_2e9"): ((False, False), CLAMPED),
}
# torchvision differs in the same cases, but holds the scale of float64 boxes in float64 as roipool does, and reads
# out of bounds for a batch index of N, so that its output is whatever lay there.
DIFFERENCES |= {
    ("torchvision", name): difference
    for (system, name), difference in DIFFERENCES.items()
    if system == "mxnet" and name != "f64_scale0.7"
}
DIFFERENCES["torchvision", "batch_N"] = ((False, True), "a bad batch index gives 0; there it reads out of bounds")

CRASHES_TORCHVISION = {"batch_-1", "batch_1e6"}


def load(name: str, layout=contiguous) -> SimpleNamespace:
    case = CASES[name]
    arrays = {
        key: torch.from_numpy(DATA[f"{case['index']}.{key}"])
        for key in ["input", "rois", "grad_output"]
        + [
            f"{system}_{result}"
            for system in ["mxnet", "torchvision"]
            if case[system]["ran"]
            for result in ["output", "grad_input"]
        ]
    }
    arrays["input"] = layout(arrays["input"])
    return SimpleNamespace(output_size=tuple(case["output_size"]), spatial_scale=case["spatial_scale"], **arrays)


def pooled(backend: Backend, case: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the output and the gradient, by what users call where the backend has it."""
    input, rois, grad_output = (t.to(backend.device) for t in [case.input, case.rois, case.grad_output])
    if backend.ops is not torch.ops.roipool:
        output, argmax = backend.ops.roi_pool_with_argmax(input, rois, *case.output_size, case.spatial_scale)
        size = (input.shape[0], *input.shape[2:])
        return output, backend.ops.roi_pool_backward(grad_output, rois, argmax, *size, case.spatial_scale)
    input = input.clone(memory_format=torch.preserve_format).requires_grad_()
    output = roipool.roi_pool(input, rois, case.output_size, case.spatial_scale)
    (grad_input,) = torch.autograd.grad(output, input, grad_output)
    return output, grad_input


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with(backend, name, layout):
    case = load(name, layout)
    output, grad_input = pooled(backend, case)
    for system in ["mxnet", "torchvision"]:
        if system == "torchvision" and name in CRASHES_TORCHVISION:
            assert not hasattr(case, "torchvision_output")  # nothing was recorded; MXNet's is compared
            continue
        same = (
            same_bits(output, getattr(case, f"{system}_output")),
            same_bits(grad_input, getattr(case, f"{system}_grad_input")),
        )
        expected, _why = DIFFERENCES.get((system, name), ((True, True), ""))
        assert same == expected, system


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("name", sorted({name for _, name in DIFFERENCES}))
def test_reference_decides_where_they_differ(backend, name, layout):
    case = load(name, layout)
    output, grad_input = pooled(backend, case)
    expected, argmax = roipool.reference.roi_pool(
        case.input, case.rois, case.output_size, case.spatial_scale, return_argmax=True
    )
    assert_same_bits(output, expected)
    assert_same_bits(
        grad_input, roipool.reference.roi_pool_backward(case.grad_output, case.rois, argmax, case.input.shape)
    )


# ---- What must come instead of each difference, in numbers that no implementation computed.


def test_minus_infinity_is_a_value_with_its_first_cell():
    case = load("all-inf")
    assert case.input.isneginf().all()
    output, argmax = roipool.roi_pool(case.input, case.rois, 2, 1.0, return_argmax=True)
    assert output[argmax >= 0].isneginf().all()
    assert (output[argmax < 0] == 0).all()
    assert case.mxnet_output.isfinite().all()


@pytest.mark.parametrize("name", ["-FLT_MAX", "f16_below-65504", "f64_below-FLT_MAX"])
def test_the_lowest_numbers_keep_value_and_gradient(name):
    case = load(name)
    lowest = case.input.unique().item()  # the map has one value
    output, argmax = roipool.roi_pool(case.input, case.rois, case.output_size, return_argmax=True)
    assert (output[argmax >= 0] == lowest).all()
    _, grad_input = pooled(CPU, case)
    torch.testing.assert_close(grad_input.double().sum(), case.grad_output[argmax >= 0].double().sum())


def test_nan_features_propagate():
    case = load("all-nan")
    output, argmax = roipool.roi_pool(case.input, case.rois, 2, return_argmax=True)
    assert output[argmax >= 0].isnan().all()
    assert (argmax >= 0).any()
    assert not case.mxnet_output.isnan().any()


@pytest.mark.parametrize("name", ["roi_nan", "roi_inf"])
def test_a_coordinate_that_is_not_finite_makes_the_region_empty(name):
    case = load(name)
    output, argmax = roipool.roi_pool(case.input, case.rois, 2, return_argmax=True)
    empty = ~case.rois.isfinite().all(1)
    assert empty.any()
    assert (output[empty] == 0).all()
    assert (argmax[empty] == -1).all()


@pytest.mark.parametrize("name", ["roi_1e10", "roi_2e9"])
def test_huge_coordinates_are_clamped(name):
    # The region from -2^29 to 2^29 has 2 x 2 bins of 2^29 cells on an axis, of which the last starts at cell 0; the
    # region from 0 to 2^29 has bins of 2^28 cells, of which the first does. That bin holds the map, the others nothing.
    case = load(name)
    output = roipool.roi_pool(case.input, case.rois, 2)
    expected = torch.zeros_like(output)
    expected[0, :, 1, 1] = expected[1, :, 0, 0] = case.input.amax((0, 2, 3))
    assert_same_bits(output, expected)


def test_float64_scale_is_not_rounded_to_float32():
    # 45 * 0.7 is 31.5 in float32 and just below in float64: it rounds to 32 and to 31.
    x = torch.arange(40.0, dtype=torch.float64).view(1, 1, 1, 40)
    box = torch.tensor([[0.0, 45.0, 0.0, 45.0, 0.0]])
    assert float(roipool.roi_pool(x, box, 1, 0.7)) == 32
    assert float(roipool.roi_pool(x, box.double(), 1, 0.7)) == 31


def test_half_precision_geometry_is_in_float32():
    # Cell 2049 is beyond what float16 can number; boxes in float32 reach it.
    x = torch.zeros(1, 1, 1, 2051, dtype=torch.float16)
    x[..., 2049] = 1
    box = torch.tensor([[0.0, 2049.0, 0.0, 2049.0, 0.0]])
    output, argmax = roipool.roi_pool(x, box, 1, return_argmax=True)
    assert float(output) == 1
    assert int(argmax) == 2049


def test_half_precision_gradients_are_summed_in_float32():
    # 2048 + 1 is 2048 in float16: 4096 ones, one by one, would stop there.
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float16, requires_grad=True)
    output = roipool.roi_pool(x, torch.zeros(4096, 5), 1)
    output.sum().backward()
    assert float(x.grad) == 4096


def test_counts():
    """docs/semantics.md says how many of the recorded cases agree."""
    counts = {}
    for system in ["mxnet", "torchvision"]:
        recorded = [name for name in CASES if CASES[name][system]["ran"]]
        differing = [DIFFERENCES[system, name][0] for name in recorded if (system, name) in DIFFERENCES]
        counts[system] = (
            len(recorded),
            len(recorded) - sum(not output for output, _ in differing),
            len(recorded) - sum(not gradient for _, gradient in differing),
        )
    assert counts == {"mxnet": (84, 70, 66), "torchvision": (82, 68, 65)}
