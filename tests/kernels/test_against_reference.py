"""The kernels of each device against the reference and against peers, bit for bit."""

import cached_reference
import onnx
import onnx.helper
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from support import (
    DTYPES,
    LAYOUTS,
    assert_same_bits,
    channels_last,
    check_against_reference,
    contiguous,
    features,
    problems,
    random_rois,
)


@settings(max_examples=200)
@given(problems())
def test_random_problems(backend, problem):
    x, layout, *arguments = problem
    check_against_reference(backend, layout(x.to(backend.device)), *arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["distinct", "ties", "nonfinite"])
@pytest.mark.parametrize("num_rois", [3, 20])
def test_every_dtype_and_layout(backend, num_rois, kind, layout, dtype):
    """No combination is left to the chance of random problems."""
    for channels in [3, 70]:
        x = layout(features((2, channels, 13, 11), dtype, seed=channels, kind=kind).to(backend.device))
        check_against_reference(backend, x, random_rois(num_rois, 2, 26.0, 22.0, seed=7), (4, 3), 0.5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integer_rois_are_taken_as_float32(backend, dtype):
    x = features((1, 2, 9, 9), torch.float16, seed=0)
    rois = torch.tensor([[0, 1, 2, 7, 8], [0, 0, 0, 3, 3], [1, 0, 0, 3, 3]], device=backend.device)
    check_against_reference(backend, x, rois.to(dtype), (3, 2), 0.7)
    x = x.to(backend.device)
    expected = backend.ops.roi_pool(x, rois.float(), 3, 2, 0.7)
    assert_same_bits(backend.ops.roi_pool(x, rois.to(dtype), 3, 2, 0.7), expected)


def test_rois_of_any_strides(backend):
    x = features((2, 3, 9, 9), torch.float32, seed=0)
    rois = random_rois(6, 2, 9, 9, seed=1).float()
    expected = cached_reference.roi_pool(x, rois, 2)
    x, rois = x.to(backend.device), rois.to(backend.device)
    assert_same_bits(backend.ops.roi_pool(x, rois.t().contiguous().t(), 2, 2, 1.0), expected)
    assert_same_bits(backend.ops.roi_pool(x, torch.stack([rois, rois], 1)[:, 1], 2, 2, 1.0), expected)


@pytest.mark.parametrize("num_rois", [1, 40])
def test_scaled_coordinates_are_clamped_to_2_to_the_29(backend, num_rois):
    """test_reference.py has the arithmetic."""
    x = torch.arange(65.0, device=backend.device).view(1, 1, 1, 65)
    rois = torch.tensor([[0.0, -1e30, 0.0, 40.0, 0.0]], device=backend.device).repeat(num_rois, 1)
    assert (backend.ops.roi_pool(x, rois, 1, 1, 1.0) == 63).all()
    assert (backend.ops.roi_pool(x, rois.double(), 1, 1, 1.0) == 40).all()


def test_overlapping_memory(backend):
    x = features((1, 1, 5, 6), torch.float32, seed=0).to(backend.device).expand(3, 20, 5, 6)
    check_against_reference(backend, x, random_rois(15, 3, 5, 6, seed=1), (2, 2), 1.0)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rois", [3, 30])
def test_tensors_at_any_address(backend, num_rois, dtype, layout):
    """Slices of larger tensors are aligned to their elements only."""

    def moved(x):
        storage = torch.empty(x.numel() + 1, dtype=dtype, device=backend.device)
        return storage[1:].as_strided(x.shape, x.stride(), 1).copy_(x)

    x = layout(features((2, 16, 9, 9), dtype, seed=0))
    rois = random_rois(num_rois, 2, 9, 9, seed=0)
    expected = cached_reference.roi_pool(x, rois, (3, 2))
    for input in [x.to(backend.device), moved(x)]:
        out = moved(layout(torch.zeros_like(expected)))
        backend.ops.roi_pool.out(input, rois.to(backend.device), 3, 2, 1.0, out=out)
        assert_same_bits(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_whole_map_is_adaptive_max_pool2d(backend, layout, dtype):
    x = layout(features((2, 40, 30, 41), dtype, seed=3, kind="nonfinite"))
    rois = torch.tensor([[n, 0, 0, 40, 29] for n in [0, 1] * 5], dtype=torch.float32, device=backend.device)
    for bins in [(1, 1), (7, 7), (6, 5), (30, 41), (40, 50)]:
        output, argmax = backend.ops.roi_pool_with_argmax(x.to(backend.device), rois, *bins, 1.0)
        # PyTorch pools in float32 here: its pooling of bfloat16 has bugs in some versions, and rewrites NaNs.
        wide = x.float() if dtype.itemsize == 2 else x
        expected, indices = F.adaptive_max_pool2d(wide.contiguous(), bins, return_indices=True)
        assert_same_bits(output.cpu().nan_to_num(7.0), expected.to(dtype).nan_to_num(7.0).repeat(5, 1, 1, 1))
        assert torch.equal(argmax.cpu().long(), indices.repeat(5, 1, 1, 1))


def max_roi_pool(x, rois, output_size, spatial_scale):
    """Runs ONNX Runtime's MaxRoiPool, which was written by others."""
    helper = onnx.helper
    tensors = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ["input", "rois", "output"]
    ]
    node = helper.make_node(
        "MaxRoiPool", ["input", "rois"], ["output"], pooled_shape=list(output_size), spatial_scale=spatial_scale
    )
    graph = helper.make_graph([node], "max_roi_pool", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": x.numpy(), "rois": rois.numpy()})[0])


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize(
    ("shape", "output_size", "spatial_scale"),
    [((2, 40, 50, 84), (7, 7), 1 / 16), ((1, 3, 80, 120), (16, 16), 1.0), ((3, 64, 25, 42), (3, 5), 0.03125)],
)
def test_onnxruntime_agrees(backend, shape, output_size, spatial_scale, layout):
    x = features(shape, torch.float32, seed=5)
    n, _, h, w = shape
    rois = random_rois(60, n, h / spatial_scale, w / spatial_scale, seed=5).float()
    expected = max_roi_pool(x, rois, output_size, spatial_scale)
    x, rois = layout(x).to(backend.device), rois.to(backend.device)
    assert_same_bits(backend.ops.roi_pool(x, rois, *output_size, spatial_scale), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_large_maps(backend, layout, dtype):
    channels = 30 if backend.name == "cuda_host" else 300
    x = layout(features((2, channels, 180, 180), dtype, seed=0))
    rois = random_rois(12, 2, 180, 180, seed=0)
    rois[3, 0] = 2  # is a region of no image
    rois[5, 2] = float("nan")
    rois[7] = torch.tensor([1.0, 0, 0, 179, 179])
    check_against_reference(backend, x, rois, (3, 3), 1.0)
