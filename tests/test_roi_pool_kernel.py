"""The kernels of each device against the reference and against peers, bit for bit."""

import threading

import onnx
import onnx.helper
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from support import (
    CPU,
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

import roipool
from roipool import reference


@settings(max_examples=400)
@given(problems())
def test_random_problems(backend, problem):
    x, layout, *arguments = problem
    check_against_reference(backend, layout(x.to(backend.device)), *arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["distinct", "ties", "special"])
@pytest.mark.parametrize("num_rois", [3, 20])
def test_every_dtype_and_layout(backend, num_rois, kind, layout, dtype):
    """A fixed grid beside the random problems: no combination is left to chance."""
    for channels in [3, 70]:
        x = layout(features((2, channels, 13, 11), dtype, seed=channels, kind=kind).to(backend.device))
        check_against_reference(backend, x, random_rois(num_rois, 2, 26.0, 22.0, seed=7), (4, 3), 0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [256, 67])
def test_results_too_large_for_the_caches(channels, dtype):
    """Which the CPU kernels write past them, to any address."""
    x = channels_last(features((2, channels, 9, 8), dtype, seed=0))
    num_rois = 2**22 // (channels * 49 * x.element_size()) + 1
    rois = random_rois(num_rois, 2, 9.0, 8.0, seed=0)
    check_against_reference(CPU, x, rois, (7, 7), 1.0)
    expected = CPU.ops.roi_pool(x, rois, 7, 7, 1.0)
    memory = torch.full((expected.numel() + 2,), 7.0, dtype=dtype)
    out = memory[1:-1].as_strided(expected.shape, expected.stride())
    CPU.ops.roi_pool.out(x, rois, 7, 7, 1.0, out=out)
    assert_same_bits(out, expected)
    assert memory[0] == memory[-1] == 7


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
    expected = reference.roi_pool(x, rois, 2)
    x, rois = x.to(backend.device), rois.to(backend.device)
    assert_same_bits(backend.ops.roi_pool(x, rois.t().contiguous().t(), 2, 2, 1.0), expected)
    assert_same_bits(backend.ops.roi_pool(x, torch.stack([rois, rois], 1)[:, 1], 2, 2, 1.0), expected)


@pytest.mark.parametrize("num_rois", [1, 40])
def test_scaled_coordinates_are_clamped_to_2_to_the_29(backend, num_rois):
    """By hand in test_reference.py, where it says why."""
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
    """Of no more than their elements' alignment, as slices of larger tensors may have."""

    def moved(x):
        storage = torch.empty(x.numel() + 1, dtype=dtype, device=backend.device)
        return storage[1:].as_strided(x.shape, x.stride(), 1).copy_(x)

    x = layout(features((2, 16, 9, 9), dtype, seed=0))
    rois = random_rois(num_rois, 2, 9, 9, seed=0)
    expected = reference.roi_pool(x, rois, (3, 2))
    for input in [x.to(backend.device), moved(x)]:
        out = moved(layout(torch.zeros_like(expected)))
        backend.ops.roi_pool.out(input, rois.to(backend.device), 3, 2, 1.0, out=out)
        assert_same_bits(out, expected)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rois", [0, 2, 20])
@pytest.mark.parametrize(
    "shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (0, 0, 0, 0), (2, 20, 0, 0), (1, 1, 0, 2**40)]
)
def test_empty_shapes(backend, shape, num_rois, dtype, layout):
    x = torch.empty(shape, dtype=dtype, device=backend.device)
    x = x if shape[3] > 5 else layout(x)
    rois = torch.tensor([[0.0, 0, 0, 3, 3]], device=backend.device).expand(num_rois, 5)
    output, argmax = backend.ops.roi_pool_with_argmax(x, rois, 2, 3, 1.0)
    assert_same_bits(output, torch.zeros(num_rois, shape[1], 2, 3, dtype=dtype))
    assert_same_bits(argmax, torch.full((num_rois, shape[1], 2, 3), -1, dtype=torch.int32))
    assert_same_bits(backend.ops.roi_pool(x, rois, 2, 3, 1.0), output)
    assert_same_bits(backend.ops.roi_pool_gather(x, rois, argmax), output)
    grad_input = backend.ops.roi_pool_backward(output, rois, argmax, shape[0], shape[2], shape[3])
    assert_same_bits(grad_input, torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("channels", [3, 64])
def test_no_region_leaves_a_gradient_of_zeros(backend, channels):
    rois = torch.empty(0, 5, device=backend.device)
    argmax = torch.empty(0, channels, 2, 2, dtype=torch.int32, device=backend.device)
    grad_input = backend.ops.roi_pool_backward(argmax.float(), rois, argmax, 2, 5, 4)
    assert_same_bits(grad_input, torch.zeros(2, channels, 5, 4))


@pytest.mark.parametrize(("num_rois", "channels"), [(0, 1), (0, 0), (4, 0)])
def test_nothing_to_pool_into_any_number_of_bins(backend, num_rois, channels):
    """Sizes beside one of 0, whose product is beyond any integer, or whose tables would fill the memory."""
    most = 2**31 - 1
    x = torch.ones(1, channels, 4, 5, device=backend.device)
    rois = torch.zeros(num_rois, 5, device=backend.device)
    output, argmax = backend.ops.roi_pool_with_argmax(x, rois, most, most, 1.0)
    assert output.shape == argmax.shape == (num_rois, channels, most, most)
    assert backend.ops.roi_pool(x, rois, most, most, 1.0).shape == output.shape
    assert backend.ops.roi_pool_gather(x, rois, argmax).shape == output.shape
    assert_same_bits(backend.ops.roi_pool_backward(output, rois, argmax, 1, 4, 5), torch.zeros(1, channels, 4, 5))


@pytest.mark.parametrize(("height", "width"), [(0, 3), (3, 0), (0, 0)])
def test_gradients_of_any_number_of_images_without_cells(backend, height, width):
    rois = torch.zeros(2, 5, device=backend.device)
    argmax = torch.zeros(2, 1, 2, 2, dtype=torch.int32, device=backend.device)
    grad_input = backend.ops.roi_pool_backward(argmax.float(), rois, argmax, 2**60, height, width)
    assert grad_input.shape == (2**60, 1, height, width)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("num_rois", [1, 20])
@pytest.mark.parametrize("batch_index", [-1.0, 2.0, 1e6, 2.0**63, 1e30, float("nan"), float("inf"), float("-inf")])
def test_bad_batch_index(backend, batch_index, num_rois, layout):
    x = layout(features((2, 20, 6, 6), torch.float32, seed=0).to(backend.device))
    rois = torch.tensor([[batch_index, 0, 0, 5, 5]], device=backend.device).expand(num_rois, 5)
    output, argmax = backend.ops.roi_pool_with_argmax(x, rois, 3, 3, 1.0)
    assert (output == 0).all()
    assert (argmax == -1).all()
    full = torch.zeros_like(argmax)  # even an argmax that claims a cell gives such a region no gradient
    assert (backend.ops.roi_pool_backward(torch.ones_like(output), rois, full, 2, 6, 6) == 0).all()
    assert (backend.ops.roi_pool_gather(x, rois, full) == 0).all()


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("cell", [36, 37, 2**31 - 1, -1, -2, -(2**31)])
def test_argmax_that_is_no_cell_is_ignored(backend, cell, layout):
    x = layout(torch.ones(1, 20, 6, 6, device=backend.device))
    rois = torch.tensor([[0.0, 0, 0, 5, 5]], device=backend.device)
    argmax = layout(torch.full((1, 20, 2, 2), cell, dtype=torch.int32, device=backend.device))
    assert (backend.ops.roi_pool_gather(x, rois, argmax) == 0).all()
    grad_output = torch.ones_like(argmax, dtype=torch.float32)
    assert (backend.ops.roi_pool_backward(grad_output, rois, argmax, 1, 6, 6) == 0).all()


def test_nan_payloads_and_signed_zeros_survive(backend):
    """The output is a cell of the input, bit for bit: a NaN keeps its payload, -0.0 its sign."""
    # signalling NaNs, without and with the sign bit; those that are next to infinity
    bits = {
        torch.float64: [0x7FF4000000000001, -0x000BFFFFFFFFFFFF, 0x7FF0000000000001, -0x000FFFFFFFFFFFFF],
        torch.float32: [0x7FA00001, -0x005FFFFF, 0x7F800001, -0x007FFFFF],
        torch.bfloat16: [0x7FA1, -0x005F, 0x7F81, -0x007F],
        torch.float16: [0x7D01, -0x02FF, 0x7C01, -0x03FF],
    }
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    for dtype, payloads in bits.items():
        for payload in payloads:
            for layout in [contiguous, channels_last]:
                for channels in [3, 20]:
                    x = torch.zeros(1, channels, 3, 20, dtype=dtype).view(integers[dtype.itemsize])
                    x[:, ::2, 1, 1] = payload
                    assert x.view(dtype)[0, 0, 1, 1].isnan()
                    x = x.view(dtype)
                    x[:, 1::2] = -0.0
                    rois = torch.zeros(8, 5)
                    rois[:, 3:] = 19
                    check_against_reference(backend, layout(x.to(backend.device)), rois, (1, 1), 1.0)
                    check_against_reference(backend, layout(x.to(backend.device)), rois, (3, 7), 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_every_half_precision_gradient_passes_through(backend, layout, dtype):
    """All 65536 of them, each alone in its cell."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(1, 1, 256, 256)
    argmax = torch.arange(2**16, dtype=torch.int32).view(1, 1, 256, 256)
    every, argmax = (layout(t.expand(1, 20, 256, 256)) for t in [every, argmax])
    arguments = [t.to(backend.device) for t in [every, torch.zeros(1, 5), argmax]]
    grad_input = backend.ops.roi_pool_backward(*arguments, 1, 256, 256).cpu()
    numbers = ~every.isnan()
    assert_same_bits(grad_input[numbers], (every + 0.0)[numbers])  # the sum starts from 0, so -0.0 becomes 0.0
    assert grad_input[~numbers].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_are_rounded_to_nearest_even(backend, dtype):
    """Sums of two, of all magnitudes: those that lie halfway, that are subnormal, that overflow."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (2, 1, 300, 300), generator=generator).to(torch.int16)
    a, b = bits.view(dtype).nan_to_num(1.0, 2.0, 3.0)
    b[:, ::2] = (a * 2.0**-9)[:, ::2]  # near the halfway points
    grads = torch.stack([a, b])
    argmax = torch.arange(300 * 300, dtype=torch.int32).view(1, 1, 300, 300).expand(2, 1, 300, 300)
    arguments = [t.to(backend.device) for t in [grads, torch.zeros(2, 5), argmax]]
    grad_input = backend.ops.roi_pool_backward(*arguments, 1, 300, 300)
    assert_same_bits(grad_input[0], (0.0 + a.float() + b.float()).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_whole_map_is_adaptive_max_pool2d(backend, layout, dtype):
    x = layout(features((2, 40, 30, 41), dtype, seed=3, kind="special"))
    rois = torch.tensor([[n, 0, 0, 40, 29] for n in [0, 1] * 5], dtype=torch.float32, device=backend.device)
    for bins in [(1, 1), (7, 7), (6, 5), (30, 41), (40, 50)]:
        output, argmax = backend.ops.roi_pool_with_argmax(x.to(backend.device), rois, *bins, 1.0)
        # in float32, as bfloat16's own pooling has bugs in some versions (and rewrites the bits of NaNs)
        wide = x.float() if dtype.itemsize == 2 else x
        expected, indices = F.adaptive_max_pool2d(wide.contiguous(), bins, return_indices=True)
        assert_same_bits(output.cpu().nan_to_num(7.0), expected.to(dtype).nan_to_num(7.0).repeat(5, 1, 1, 1))
        assert torch.equal(argmax.cpu().long(), indices.repeat(5, 1, 1, 1))


def max_roi_pool(x, rois, output_size, spatial_scale):
    """ONNX Runtime's MaxRoiPool: a peer that was written elsewhere."""
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
    x = layout(features((2, 300, 180, 180), dtype, seed=0))
    rois = random_rois(12, 2, 180, 180, seed=0)
    rois[3, 0] = 2  # of no image
    rois[5, 2] = float("nan")
    rois[7] = torch.tensor([1.0, 0, 0, 179, 179])
    check_against_reference(backend, x, rois, (3, 3), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", ["distinct", "positive ties", "ties", "special"])
@pytest.mark.parametrize("shape", [(1, 20, 75, 31), (3, 150, 41, 20)])  # few blocks for all threads, and many
def test_bins_of_many_rows(backend, shape, kind, layout, dtype):
    """Inference takes maxima of several rows at a time, where the bins have as many and the order does not matter."""
    x = features(shape, dtype, seed=0, kind=kind.removeprefix("positive "))
    x = layout(x.abs() if kind == "positive ties" else x).to(backend.device)
    n, _, h, w = shape
    rois = random_rois(100, n, h, w, seed=0)
    rois[:, 4] = rois[:, 4].clamp(min=0.6 * h)  # tall ones, beside those that the map cuts off
    rois[::10, 4] = rois[::10, 2] + 3
    for output_size in [(2, 3), (1, 1), (5, 2)]:
        expected = reference.roi_pool(x.cpu(), rois, output_size)
        assert_same_bits(backend.ops.roi_pool(x, rois.to(backend.device), *output_size, 1.0), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("tall", [0, 1])
def test_bins_of_many_rows_in_one_image_of_two(backend, tall, layout, dtype):
    """What pays in an image need not pay in the other."""
    x = layout(features((2, 20, 75, 31), dtype, seed=0)).to(backend.device)
    rois = random_rois(100, 2, 75, 31, seed=0)
    rois[:, 0] = tall
    rois[:, 4] = 75
    rois[::10] = torch.tensor([1.0 - tall, 3, 3, 7, 12])
    for output_size in [(2, 3), (5, 2)]:
        expected = reference.roi_pool(x.cpu(), rois, output_size)
        assert_same_bits(backend.ops.roi_pool(x, rois.to(backend.device), *output_size, 1.0), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", ["distinct", "positive ties", "ties", "special"])
@pytest.mark.parametrize("channels", [16, 21])
def test_more_bins_than_cells(backend, channels, kind, layout, dtype):
    """Maps of which each cell is read many times over, by bins that have none, a few, or hundreds."""
    x = features((2, channels, 20, 30), dtype, seed=0, kind=kind.removeprefix("positive "))
    x = layout(x.abs() if kind == "positive ties" else x)
    check_against_reference(backend, x, random_rois(80, 2, 20, 30, seed=0, wild=True), (3, 5), 1.0)
    check_against_reference(backend, x, random_rois(200, 2, 20, 30, seed=1, wild=True), (3, 2), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("special", ["nan", "-nan", "last nan", "-0.0"])
@pytest.mark.parametrize(("channels", "width"), [(70, 7), (3, 20)])
def test_a_single_channel_with_what_is_special(backend, channels, width, special, layout, dtype):
    """Each channel in turn, in an image of its own: a NaN, or two zeros, that only a look at this channel finds."""
    x = torch.full((channels, channels, 5, width), -1.0, dtype=dtype)
    each = x[torch.arange(channels), torch.arange(channels)]  # (channels, 5, W), to be written back
    value = torch.tensor(0.0 if special == "-0.0" else float("nan"), dtype=dtype)
    if special == "-0.0":
        row, column = 0, 4
        each[:, 1, 2] = -0.0  # after the other zero, but in a column before it
    else:
        row, column = (4, width - 1) if special == "last nan" else (1, 2)
        value = -value if special == "-nan" else value
        each[:, 3, 3] = 5.0
    each[:, row, column] = value
    x[torch.arange(channels), torch.arange(channels)] = each
    rois = torch.tensor([[n, 0, 0, width - 1, 4] for n in range(channels)], dtype=torch.float32)
    output = torch.where(torch.eye(channels, dtype=torch.bool), value, value.new_tensor(-1.0))[..., None, None]
    argmax = ((row * width + column) * torch.eye(channels, dtype=torch.int32))[..., None, None]

    x, rois = layout(x).to(backend.device), rois.to(backend.device)
    for chosen in [torch.arange(channels).repeat(9), torch.arange(0, channels, 2), torch.arange(1, channels, 2)]:
        assert_same_bits(backend.ops.roi_pool(x, rois[chosen], 1, 1, 1.0), output[chosen])
        pooled, cells = backend.ops.roi_pool_with_argmax(x, rois[chosen], 1, 1, 1.0)
        assert_same_bits(pooled, output[chosen])
        assert_same_bits(cells, argmax[chosen])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", ["distinct", "ties", "special"])
@pytest.mark.parametrize("shape", [(2, 70, 41, 83), (2, 20, 90, 17), (1, 9, 150, 11), (2, 3, 41, 83)])
def test_regions_that_cover_little_of_the_maps(backend, shape, kind, layout, dtype):
    """On CPU, each is then prepared for itself: narrow ones, whole rows and columns, at the borders, and outside."""
    x = layout(features(shape, dtype, seed=0, kind=kind))
    height, width = shape[2:]
    boxes = [[5, 7, 12, 18], [width - 2, height - 8, width + 5, height + 2], [0, 0, 3, 9], [-9, -9, -2, -1]]
    boxes += [[0, 4, width - 1, 9], [2, 0, 2, height - 1], [1, 1, 45, 8], [-3, 30, 9, 30], [9, 9, float("nan"), 12]]
    for few in [boxes[:5], boxes[5:]]:
        rois = torch.tensor([[i % shape[0], *box] for i, box in enumerate(few)])
        check_against_reference(backend, x, rois, (3, 4), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [3, 70])
def test_gradient_of_few_regions(backend, channels, layout, dtype):
    """Which is 0 nearly everywhere, whatever the memory held before."""
    x = layout(features((2, channels, 40, 50), dtype, seed=0)).to(backend.device)
    rois = torch.tensor([[1.0, 3, 4, 30, 20], [1.0, 3, 4, 5, 6]], device=backend.device)
    output, argmax = backend.ops.roi_pool_with_argmax(x, rois, 2, 3, 1.0)
    expected = reference.roi_pool_backward(output.cpu(), rois.cpu(), argmax.cpu(), x.shape)
    for _ in range(3):
        assert_same_bits(backend.ops.roi_pool_backward(output, rois, argmax, *x.shape[::2], x.shape[3]), expected)
        torch.full_like(x, float("nan"))  # the next result is likely to lie where this one did


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [3, 70])
@pytest.mark.parametrize("row", [7, 8, 9])
def test_what_is_special_is_in_one_row_of_a_region(backend, row, channels, layout):
    x = torch.zeros(1, channels, 40, 90)
    x[0, channels - 1, row] = float("nan")
    for rois in [torch.tensor([[0.0, 9, 7, 28, 9]]), torch.tensor([[0.0, 0, 7, 89, 9]])]:
        check_against_reference(backend, layout(x), rois, (1, 1), 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_bins_of_more_cells_than_16_bits_can_number(backend, layout, dtype):
    """On CPU, the cells of a bin are numbered in as many bits as its values have, where those are enough."""
    x = torch.zeros(1, 150, 257, 256, dtype=dtype)
    x[..., 255, 255] = 1  # the last of 2^16 cells
    x[..., 256, 0] = 2
    rois = torch.tensor([[0, 0, 0, 255, 255], [0, 0, 0, 0, 256], [0, 0, 0, 255, 256]], device=backend.device)
    output, argmax = backend.ops.roi_pool_with_argmax(layout(x).to(backend.device), rois, 1, 1, 1.0)
    assert_same_bits(output[:, :, 0, 0], torch.tensor([[1.0], [2.0], [2.0]], dtype=dtype).expand(3, 150))
    cells = torch.tensor([[2**16 - 1], [2**16], [2**16]], dtype=torch.int32)
    assert_same_bits(argmax[:, :, 0, 0], cells.expand(3, 150))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("kind", ["distinct", "ties"])
@pytest.mark.parametrize("channels", [3, 70])
def test_many_bins(backend, channels, kind, layout, dtype):
    """More rows of bins than a register has lanes, and more bins than are put together in the first-level cache."""
    x = layout(features((2, channels, 33, 29), dtype, seed=0, kind=kind))
    rois = random_rois(5, 2, 33, 29, seed=0)
    for output_size in [(37, 5), (9, 11)]:
        check_against_reference(backend, x, rois, output_size, 1.0)


# ---- The same bits whatever the circumstances.


def all_results(ops, x, rois, output_size):
    output, argmax = ops.roi_pool_with_argmax(x, rois, *output_size, 1.0)
    return [
        output,
        argmax,
        ops.roi_pool(x, rois, *output_size, 1.0),
        ops.roi_pool_gather(x, rois, argmax),
        ops.roi_pool_backward(output, rois, argmax, x.shape[0], *x.shape[2:]),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("channels", [1, 3, 100])
def test_same_bits_for_any_number_of_threads(set_num_threads, channels, layout, dtype):
    x = layout(features((3, channels, 40, 40), dtype, seed=0))
    # By cells; then by rows, or by blocks of channels. The last is more work than one thread gets.
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
    """Of which there are fewer than threads, and each is more work than one thread gets."""
    x = layout(features((1, channels, 300, 400), dtype, seed=0))
    rois = random_rois(30, 1, 300, 400, seed=0)
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


# ---- Maps as large as they may be, 2^31 - 1 cells (a prime): on the meta device, or of no image, there is no memory.

LARGEST, TOO_LARGE = [(1, 2**31 - 1), (2**31 - 1, 1), (46340, 46341)], [(1, 2**31), (2**31, 1), (46341, 46341)]


@pytest.mark.parametrize(("batch_size", "place"), [(1, "meta"), (0, "cpu")])
@pytest.mark.parametrize("size", [*LARGEST, *TOO_LARGE])
def test_largest_maps(size, batch_size, place):
    ops = CPU.ops
    x = torch.empty(batch_size, 1, *size, device=place)
    rois, grad_output = torch.zeros(3, 5, device=place), torch.zeros(3, 1, 2, 2, device=place)
    argmax, (h, w) = grad_output.int(), size
    pyramid = ([1.0], 224.0, 4)
    calls = {
        "input": [
            (lambda: ops.roi_pool(x, rois, 2, 2, 1.0), grad_output),
            (lambda: ops.roi_pool_with_argmax(x, rois, 2, 2, 1.0)[1], argmax),
            (lambda: ops.roi_pool.out(x, rois, 2, 2, 1.0, out=grad_output.clone()), grad_output),
            (lambda: ops.roi_pool_gather(x, rois, argmax), grad_output),
        ],
        "grad_input": [(lambda: ops.roi_pool_backward(grad_output, rois, argmax, batch_size, h, w), x)],
        "inputs[0]": [
            (lambda: ops.multiscale_roi_pool([x], rois, 2, 2, *pyramid), grad_output),
            (lambda: ops.multiscale_roi_pool_with_argmax([x], rois, 2, 2, *pyramid)[1], argmax),
            (lambda: ops.multiscale_roi_pool_gather([x], rois, argmax, *pyramid), grad_output),
        ],
        "grad_inputs": [
            (
                lambda: ops.multiscale_roi_pool_backward(grad_output, rois, argmax, batch_size, [h], [w], *pyramid)[0],
                x,
            )
        ],
    }
    for name, calls_of_name in calls.items():
        for call, like in calls_of_name:
            if size in LARGEST:
                result = call()
                assert (result.shape, result.dtype, result.device) == (like.shape, like.dtype, like.device)
                continue
            with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is compared
                call()
            message = f"{name} must have at most 2147483647 cells in a plane (H*W), got {h} x {w}"
            assert str(caught.value) == message


# ---- Many regions.


@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, 5, 6),  # cell by cell
        (2, 3, 5, 70),  # by rows
        pytest.param((2, 16, 5, 6), marks=pytest.mark.large),  # by blocks of channels: 3 GB
    ],
)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_ten_million_regions(device, layout, shape):
    num_rois = 10_000_000
    n, _, h, w = shape
    x = layout(features(shape, torch.float32, seed=0))
    generator = torch.Generator().manual_seed(0)
    rois = torch.rand(num_rois, 5, generator=generator)
    rois *= torch.tensor([n, w, h, 2, 2])
    rois[:, 3:] += rois[:, 1:3]  # of one to three cells on an axis
    rois = rois.to(device)
    output, argmax = torch.ops.roipool.roi_pool_with_argmax(x.to(device), rois, 1, 1, 1.0)
    samples = torch.cat([torch.randint(num_rois, (500,), generator=generator), torch.tensor([0, num_rois - 1])])
    samples = samples.unique()
    some_rois = rois[samples.to(device)].cpu()
    expected, expected_argmax = reference.roi_pool(x, some_rois, 1, return_argmax=True)
    assert_same_bits(output[samples.to(device)], expected)
    assert_same_bits(argmax[samples.to(device)], expected_argmax)

    grads = features(expected.shape, torch.float32, seed=1)
    grad_output = output.zero_()  # all of the gradient comes from the samples
    grad_output[samples.to(device)] = grads.to(device)
    grad_input = torch.ops.roipool.roi_pool_backward(grad_output, rois, argmax, n, h, w)
    assert_same_bits(grad_input, reference.roi_pool_backward(grads, some_rois, expected_argmax, shape))


# ---- More elements than an int32 can count: 5 GB of memory, and 13 GB for the last but one.


@pytest.mark.large
def test_input_of_more_than_2_to_the_31_elements(backend):
    x = torch.zeros(2, 16, 8200, 8200, dtype=torch.bfloat16, device=backend.device)
    assert x.numel() > 2**31
    x[1, 15, 8199, 8190:] = 1
    x[1, 15, 8199, 8195] = 3
    rois = torch.tensor([[1.0, 8190, 8190, 8199, 8199]], device=backend.device)
    output, argmax = backend.ops.roi_pool_with_argmax(x, rois, 1, 1, 1.0)
    assert output.flatten().tolist() == [0.0] * 15 + [3.0]
    assert argmax[0, 15].item() == 8199 * 8200 + 8195
    assert_same_bits(backend.ops.roi_pool_gather(x, rois, argmax), output)
    del x
    grad_input = backend.ops.roi_pool_backward(torch.ones_like(output), rois, argmax, 2, 8200, 8200)
    assert grad_input[1, 15, 8199, 8195] == 1
    assert grad_input[1, :, 8190:].float().sum() == 16


@pytest.mark.large
def test_output_of_more_than_2_to_the_31_elements(device):
    x = features((1, 64, 3, 3), torch.bfloat16, seed=0).to(device)
    rois = torch.tensor([[0.0, 0, 0, 2, 2]], device=device).expand(2**31 // (64 * 49) + 1, 5)
    output = torch.ops.roipool.roi_pool(x, rois, 7, 7, 1.0)
    assert output.numel() > 2**31
    expected = reference.roi_pool(x.cpu(), rois[:1].cpu(), 7)
    assert_same_bits(output[-1:], expected)
    assert_same_bits(output[len(rois) // 2][None], expected)


@pytest.mark.large
def test_gradient_of_an_output_of_more_than_2_to_the_31_elements(device):
    num_rois = 2**31 // (16 * 4) + 1
    x = features((1, 16, 2, 2), torch.bfloat16, seed=0).to(device)
    rois = torch.tensor([[0.0, 0, 0, 1, 1]], device=device).expand(num_rois, 5)
    output, argmax = torch.ops.roipool.roi_pool_with_argmax(x, rois, 2, 2, 1.0)
    assert argmax.numel() > 2**31
    assert torch.equal(argmax[-1].cpu(), torch.arange(4, dtype=torch.int32).view(1, 2, 2).expand(16, 2, 2))
    output.zero_()
    output[-1] = 1  # all of the gradient comes from the last region
    grad_input = torch.ops.roipool.roi_pool_backward(output, rois, argmax, 1, 2, 2)
    assert_same_bits(grad_input, torch.ones_like(grad_input))


@pytest.mark.large
def test_a_map_of_nearly_2_to_the_31_cells(device):
    h, w = 46340, 46341
    x = torch.zeros(1, 1, h, w, device=device)
    x[0, 0, -1, -1] = 1
    rois = torch.tensor([[0.0, w - 3, h - 3, w - 1, h - 1], [0.0, 0, 0, 0, 0]], device=device)
    output, argmax = torch.ops.roipool.roi_pool_with_argmax(x, rois, 1, 1, 1.0)
    assert output.flatten().tolist() == [1.0, 0.0]
    assert argmax.flatten().tolist() == [h * w - 1, 0]
    assert_same_bits(torch.ops.roipool.roi_pool_gather(x, rois, argmax), output)
    del x
    grad_output = torch.tensor([2.0, 3.0], device=device).view(2, 1, 1, 1)
    grad_input = torch.ops.roipool.roi_pool_backward(grad_output, rois, argmax, 1, h, w)
    assert grad_input[0, 0, -1, -1] == 2
    assert grad_input[0, 0, 0, 0] == 3
    assert grad_input.count_nonzero() == 2
