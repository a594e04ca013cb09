"""roipool.mxnet.roi_pooling() has MXNet's signature and limits."""

import inspect

import pytest
import torch
from support import assert_same_bits

from roipool import mxnet

X = torch.arange(48.0).view(1, 1, 8, 6)
ROIS = torch.tensor([[0.0, 0, 0, 4, 4]])
EXPECTED = torch.tensor([[[[14.0, 16.0], [26.0, 28.0]]]])


def test_signature():
    parameters = list(inspect.signature(mxnet.roi_pooling).parameters)
    assert parameters == ["data", "rois", "pooled_size", "spatial_scale", "out", "name"]


@pytest.mark.parametrize("pooled_size", [(2, 2), [2, 2]])
def test_examples_of_the_mxnet_documentation(device, pooled_size):
    x, rois = X.to(device), ROIS.to(device)
    assert_same_bits(mxnet.roi_pooling(x, rois, pooled_size, 1.0), EXPECTED)
    assert_same_bits(
        mxnet.roi_pooling(data=x, rois=rois, pooled_size=pooled_size, spatial_scale=0.7, name="pool"),
        torch.tensor([[[[7.0, 9.0], [19.0, 21.0]]]]),
    )


def test_scale_of_0_is_cell_0():
    rois = torch.tensor([[0.0, 2, 3, 4, 4], [1.0, 0, 0, 1, 1]])
    assert mxnet.roi_pooling(X + 1, rois, (1, 1), 0.0).flatten().tolist() == [1, 0]


def test_out(device):
    out = torch.full((1, 1, 2, 2), -1.0, device=device)
    assert mxnet.roi_pooling(X.to(device), ROIS.to(device), (2, 2), 1.0, out=out) is out
    assert_same_bits(out, EXPECTED)


def test_differentiable():
    x = X.clone().requires_grad_()
    mxnet.roi_pooling(x, ROIS, (2, 2), 1.0).sum().backward()
    assert x.grad.nonzero()[:, 2:].tolist() == [[2, 2], [2, 4], [4, 2], [4, 4]]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pooled_size": 2}, TypeError, "pooled_size must be a pair of ints (PH, PW), got 2"),
        ({"pooled_size": (2.0, 2)}, TypeError, "pooled_size must be a pair of ints (PH, PW), got (2.0, 2)"),
        ({"pooled_size": (2,)}, ValueError, "pooled_size must be a pair of ints (PH, PW), each at least 1, got (2,)"),
        (
            {"pooled_size": (0, 2)},
            ValueError,
            "pooled_size must be a pair of ints (PH, PW), each at least 1, got (0, 2)",
        ),
        ({"spatial_scale": "1"}, TypeError, "spatial_scale must be a float, got str"),
        ({"spatial_scale": None}, TypeError, "spatial_scale must be a float, got NoneType"),
        ({"data": X.numpy()}, TypeError, "data must be a torch.Tensor, got ndarray"),
        ({"data": X[0]}, ValueError, "data must be a 4-D tensor (N, C, H, W), got shape (1, 8, 6)"),
        ({"data": X.long()}, TypeError, "data must be float16, bfloat16, float32 or float64, got int64"),
        (
            {"rois": ROIS[:, 1:], "spatial_scale": 0.0},
            ValueError,
            "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (1, 4)",
        ),
        (
            {"rois": torch.zeros(3, 1), "spatial_scale": 0.0},
            ValueError,
            "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (3, 1)",
        ),
        (
            {"rois": ROIS.bool()},
            TypeError,
            "rois must be float16, bfloat16, float32, float64, int32 or int64, got bool",
        ),
        ({"rois": ROIS.to("meta")}, ValueError, "rois must be on the device of data (cpu), got meta"),
        ({"out": "here"}, TypeError, "out must be a torch.Tensor, got str"),
        ({"spatial_scale": 1.5}, ValueError, "spatial_scale must be in [0, 1], got 1.5"),
        ({"spatial_scale": -0.1}, ValueError, "spatial_scale must be in [0, 1], got -0.1"),
        ({"spatial_scale": float("nan")}, ValueError, "spatial_scale must be in [0, 1], got nan"),
        ({"rois": [ROIS[:, 1:]]}, TypeError, "rois must be a torch.Tensor, got list"),
        (
            {"out": torch.empty(1, 1, 3, 2)},
            ValueError,
            "out must be a tensor of shape (1, 1, 2, 2), dtype torch.float32 and device cpu, "
            "got shape (1, 1, 3, 2), dtype torch.float32 and device cpu",
        ),
        (
            {"out": torch.empty(1, 1, 2, 2, dtype=torch.float64)},
            ValueError,
            "out must be a tensor of shape (1, 1, 2, 2), dtype torch.float32 and device cpu, "
            "got shape (1, 1, 2, 2), dtype torch.float64 and device cpu",
        ),
        (
            {"data": X.clone().requires_grad_(), "out": torch.empty(1, 1, 2, 2)},
            RuntimeError,
            "roi_pool(): functions with out=... arguments don't support automatic differentiation, "
            "but one of the arguments requires grad.",
        ),
    ],
)
def test_bad_arguments(changes, error, message):
    with pytest.raises(error) as caught:
        mxnet.roi_pooling(**{"data": X, "rois": ROIS, "pooled_size": (2, 2), "spatial_scale": 1.0, **changes})
    assert str(caught.value) == message
