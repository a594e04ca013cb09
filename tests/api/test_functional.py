"""The forms of roi_pool()'s arguments, and its errors."""

import inspect

import numpy as np
import pytest
import torch
from support import assert_same_bits, features, random_rois, to_device

import roipool
from roipool import reference

X = features((2, 3, 8, 6), torch.float32, seed=0)
ROIS = torch.tensor([[0.0, 0, 0, 4, 4], [0.0, 1, 2, 5, 6], [1.0, 2, 2, 5, 7]])
LIST = [ROIS[:2, 1:], ROIS[2:, 1:]]
EXPECTED = reference.roi_pool(X, ROIS, (2, 3), 0.5)


def test_documented_example_with_integer_boxes():
    x = torch.arange(48.0).view(1, 1, 8, 6)
    rois = torch.tensor([[0, 0, 0, 4, 4]])
    assert roipool.roi_pool(x, rois, 2).flatten().tolist() == [14, 16, 26, 28]
    assert roipool.roi_pool(x, rois, 2, 0.7).flatten().tolist() == [7, 9, 19, 21]


@pytest.mark.parametrize(
    "call",
    [
        lambda pool, x, rois, lists: pool(x, rois, (2, 3), 0.5),
        lambda pool, x, rois, lists: pool(x, rois, [2, 3], spatial_scale=0.5),
        lambda pool, x, rois, lists: pool(x, rois, torch.Size([2, 3]), 0.5),
        lambda pool, x, rois, lists: pool(input=x, boxes=rois, output_size=(2, 3), spatial_scale=0.5),
        lambda pool, x, rois, lists: pool(x, lists, (2, 3), 0.5),
        lambda pool, x, rois, lists: pool(x, tuple(lists), (2, 3), 0.5),
        lambda pool, x, rois, lists: pool(x, rois.double(), (np.int64(2), 3), np.float32(0.5)),
        lambda pool, x, rois, lists: pool(x, [boxes.int() for boxes in lists], (2, 3), 0.5),
        lambda pool, x, rois, lists: pool(x, [boxes.half() for boxes in lists], (2, 3), 0.5),
    ],
)
def test_forms_of_arguments(device, call):
    arguments = to_device([X, ROIS, LIST], device)
    assert_same_bits(call(roipool.roi_pool, *arguments), EXPECTED)
    assert_same_bits(call(reference.roi_pool, X, ROIS, LIST), EXPECTED)


@pytest.mark.parametrize("output_size", [4, (4,), [4], (4, 4), np.int32(4)])
def test_forms_of_output_size(output_size):
    assert_same_bits(roipool.roi_pool(X, ROIS, output_size), reference.roi_pool(X, ROIS, (4, 4)))


def test_scale_defaults_to_1_and_may_be_an_int():
    assert_same_bits(roipool.roi_pool(X, ROIS, 2, 1), reference.roi_pool(X, ROIS, 2))
    assert_same_bits(roipool.roi_pool(X, ROIS, 2), reference.roi_pool(X, ROIS, 2))


def test_scale_above_1():
    assert_same_bits(roipool.roi_pool(X, ROIS, 2, 1.5), reference.roi_pool(X, ROIS, 2, 1.5))


def test_return_argmax(device):
    output, argmax = roipool.roi_pool(X.to(device), ROIS.to(device), (2, 3), 0.5, return_argmax=True)
    expected, expected_argmax = reference.roi_pool(X, ROIS, (2, 3), 0.5, return_argmax=True)
    assert_same_bits(output, expected)
    assert_same_bits(argmax, expected_argmax)
    assert argmax.dtype == torch.int32


def test_reference_has_the_same_signature():
    parameters = inspect.signature(roipool.roi_pool).parameters
    assert list(parameters) == ["input", "boxes", "output_size", "spatial_scale", "return_argmax", "out"]
    shared = [parameter for name, parameter in parameters.items() if name != "out"]
    assert shared == list(inspect.signature(reference.roi_pool).parameters.values())


def test_images_without_boxes(device):
    x, none = X.to(device), torch.empty(0, 4, device=device)
    assert_same_bits(roipool.roi_pool(x, [none, ROIS[2:, 1:].to(device)], 2), reference.roi_pool(X, ROIS[2:], 2))
    assert roipool.roi_pool(x, [none] * 2, 2).shape == (0, 3, 2, 2)
    assert roipool.roi_pool(x[:0], [], 2).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_lists_reach_images_that_the_dtype_cannot_number(dtype):
    x = torch.arange(2100.0).view(2100, 1, 1, 1)
    boxes = [torch.zeros(1, 4, dtype=dtype)] * 2100
    assert_same_bits(roipool.roi_pool(x, boxes, 1), x)


def test_float64_boxes_in_a_list_are_placed_in_float64():
    x = torch.arange(40.0).view(1, 1, 1, 40)
    box = torch.tensor([[45.0, 0.0, 45.0, 0.0]])
    assert float(roipool.roi_pool(x, [box], 1, 0.7)) == 32  # 45 * 0.7 is 31.5 in float32,
    assert float(roipool.roi_pool(x, [box.double()], 1, 0.7)) == 31  # and just below in float64


def test_unusual_scales(device):
    # float32 rounds these to 0 or to infinity: of no use, but legal.
    x = torch.ones(1, 1, 4, 4)
    box = torch.tensor([[0.0, 0, 0, 3, 3]])
    for spatial_scale in [1e-300, 1e300, 1e-45, 3e38]:
        for rois in [box, box.double(), random_rois(9, 1, 4, 4, seed=0, wild=True)]:
            expected = reference.roi_pool(x, rois, 2, spatial_scale)
            assert_same_bits(roipool.roi_pool(x.to(device), rois.to(device), 2, spatial_scale), expected)


FORM = "boxes must be a tensor (K, 5), rows [batch_index, x1, y1, x2, y2], or a list of N tensors (L_i, 4), got shape "


BAD_ARGUMENTS = [
    ((X.numpy(), ROIS, 2), TypeError, "input must be a torch.Tensor, got ndarray"),
    ((None, ROIS, 2), TypeError, "input must be a torch.Tensor, got NoneType"),
    ((X.int(), ROIS, 2), TypeError, "input must be float16, bfloat16, float32 or float64, got int32"),
    ((X[0], ROIS, 2), ValueError, "input must be a 4-D tensor (N, C, H, W), got shape (3, 8, 6)"),
    ((X, ROIS.numpy(), 2), TypeError, "boxes must be a tensor (K, 5) or a list of N tensors (L_i, 4), got ndarray"),
    ((X, None, 2), TypeError, "boxes must be a tensor (K, 5) or a list of N tensors (L_i, 4), got NoneType"),
    ((X, ROIS[:, 1:], 2), ValueError, FORM + "(3, 4)"),
    ((X, ROIS[0], 2), ValueError, FORM + "(5,)"),
    (
        (X, ROIS.bool(), 2),
        TypeError,
        "boxes must be float16, bfloat16, float32, float64, int32 or int64, got bool",
    ),
    ((X, ROIS.to("meta"), 2), ValueError, "boxes must be on the device of input (cpu), got meta"),
    (
        (X, LIST[:1], 2),
        ValueError,
        "boxes must hold one tensor (L_i, 4) for each of the 2 images of input, got 1",
    ),
    (
        (X, [LIST[0], ROIS], 2),
        ValueError,
        "boxes[1] must have shape (L, 4), rows [x1, y1, x2, y2], got shape (3, 5)",
    ),
    ((X, [[0, 0, 1, 1], LIST[1]], 2), TypeError, "boxes[0] must be a torch.Tensor, got list"),
    (
        (X, [LIST[0], LIST[1].to(torch.int16)], 2),
        TypeError,
        "boxes[1] must be float16, bfloat16, float32, float64, int32 or int64, got int16",
    ),
    ((X, [LIST[0], LIST[1].to("meta")], 2), ValueError, "boxes[1] must be on the device of input (cpu), got meta"),
    ((X, ROIS, 2.0), TypeError, "output_size must be an int or a pair of ints (PH, PW), got 2.0"),
    ((X, ROIS, (2, "3")), TypeError, "output_size must be an int or a pair of ints (PH, PW), got (2, '3')"),
    ((X, ROIS, True), TypeError, "output_size must be an int or a pair of ints (PH, PW), got True"),
    ((X, ROIS, (1, 2, 3)), ValueError, "output_size must be an int or a pair of ints (PH, PW), got (1, 2, 3)"),
    ((X, ROIS, ()), ValueError, "output_size must be an int or a pair of ints (PH, PW), got ()"),
    (
        (X, ROIS, 0),
        ValueError,
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (0, 0)",
    ),
    (
        (X, ROIS, 2**64),
        ValueError,
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, "
        "got (18446744073709551616, 18446744073709551616)",
    ),
    (
        (X, ROIS, 2, 10**400),
        ValueError,
        "spatial_scale must be finite and greater than 0, got an int beyond the range of floats",
    ),
    (
        (X, ROIS, 2, 2**1024 - 1),
        ValueError,
        "spatial_scale must be finite and greater than 0, got an int beyond the range of floats",
    ),
    ((X, ROIS, 2, "1"), TypeError, "spatial_scale must be a float, got str"),
    ((X, ROIS, 2, True), TypeError, "spatial_scale must be a float, got bool"),
    ((X, ROIS, 2, (1.0, "1")), TypeError, "spatial_scale must be a float, got str"),
    (
        (X, ROIS, 2, (1.0, 1.0, 1.0)),
        ValueError,
        "spatial_scale must be a float or a pair of floats (y, x), got 3 numbers",
    ),
    ((X, ROIS, 2, ()), ValueError, "spatial_scale must be a float or a pair of floats (y, x), got 0 numbers"),
    ((X, ROIS, 2, (0.5, 0.0)), ValueError, "spatial_scale[1] must be finite and greater than 0, got 0"),
    ((X, ROIS, 2, (-1.0, 0.5)), ValueError, "spatial_scale[0] must be finite and greater than 0, got -1"),
    ((X, ROIS, 2, (0.0, 0.0)), ValueError, "spatial_scale must be finite and greater than 0, got 0"),
    ((X[None], ROIS[:, 1:], 2), ValueError, "input must be a 4-D tensor (N, C, H, W), got shape (1, 2, 3, 8, 6)"),
    ((X[None], [ROIS], 2), ValueError, "input must be a 4-D tensor (N, C, H, W), got shape (1, 2, 3, 8, 6)"),
    ((X, ROIS, 2, 0.0), ValueError, "spatial_scale must be finite and greater than 0, got 0"),
    ((X, ROIS, 2, -1), ValueError, "spatial_scale must be finite and greater than 0, got -1"),
    ((X, ROIS, 2, float("nan")), ValueError, "spatial_scale must be finite and greater than 0, got nan"),
    ((X, ROIS, 2, float("inf")), ValueError, "spatial_scale must be finite and greater than 0, got inf"),
    (
        (torch.zeros(1).expand(1, 1, 2**16, 2**15), ROIS, 2),
        ValueError,
        "input must have at most 2147483647 cells in a plane (H*W), got 65536 x 32768",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
@pytest.mark.parametrize("return_argmax", [False, True])
def test_bad_arguments(device, arguments, error, message, return_argmax):
    with pytest.raises(error) as caught:
        roipool.roi_pool(*to_device(arguments, device), return_argmax=return_argmax)
    assert str(caught.value) == message.replace("(cpu)", f"({device})")


class Pool(torch.nn.Module):
    def __init__(self, *arguments):
        super().__init__()
        self.arguments = arguments

    def forward(self, x, boxes):
        return roipool.roi_pool(x, boxes, *self.arguments)


def is_tensors(arguments) -> bool:
    """Returns whether torch.export takes the arguments: it has an error of its own for what is no tensor."""
    x, boxes = arguments[:2]
    boxes = boxes if isinstance(boxes, list) else [boxes]
    return all(isinstance(tensor, torch.Tensor) for tensor in [x, *boxes])


@pytest.mark.parametrize(("arguments", "error", "message"), [case for case in BAD_ARGUMENTS if is_tensors(case[0])])
def test_export_refuses_the_same_in_the_same_words(arguments, error, message):
    with pytest.raises(error) as caught:
        torch.export.export(Pool(*arguments[2:]), arguments[:2], strict=False)
    # Sizes of lists of tensors may be symbols by then.
    assert str(caught.value).split(", got shape")[0] == message.split(", got shape")[0]


@pytest.mark.parametrize(("arguments", "error", "message"), [case for case in BAD_ARGUMENTS if is_tensors(case[0])])
def test_compile_refuses_the_same_in_the_same_words(arguments, error, message):
    torch._dynamo.reset()
    compiled = torch.compile(Pool(*arguments[2:]), backend="eager", fullgraph=True)
    with pytest.raises(Exception) as caught:  # noqa: PT011 torch wraps it in an exception of its own
        compiled(*arguments[:2])
    assert message in str(caught.value)
