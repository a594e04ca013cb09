"""roipool.RoIPool as a module."""

import copy
import pickle

import pytest
import torch
from support import assert_same_bits, features

import roipool

X = features((2, 3, 8, 6), torch.float32, seed=0)
ROIS = torch.tensor([[0.0, 0, 0, 4, 4], [1.0, 2, 2, 5, 7]])
EXPECTED = roipool.reference.roi_pool(X, ROIS, (2, 3), 0.5)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, rois: roipool.RoIPool((2, 3), 0.5)(x, rois),
        lambda x, rois: roipool.RoIPool(output_size=(2, 3), spatial_scale=0.5)(input=x, boxes=rois),
        lambda x, rois: roipool.RoIPool([2, 3], 0.5)(x, [rois[:1, 1:], rois[1:, 1:]]),
        # torchvision.ops.RoIPool names it so.
        lambda x, rois: roipool.RoIPool((2, 3), spatial_scale=0.5)(input=x, rois=rois),
        lambda x, rois: roipool.RoIPool((2, 3), spatial_scale=0.5)(x, rois=[rois[:1, 1:], rois[1:, 1:]]),
        lambda x, rois: roipool.RoIPool((2, 3), 0.5)(x, None, rois),  # as the exporter of traces calls it
    ],
)
def test_calls(device, call):
    assert_same_bits(call(X.to(device), ROIS.to(device)), EXPECTED)


def test_scale_defaults_to_1():
    assert_same_bits(roipool.RoIPool(2)(X, ROIS), roipool.reference.roi_pool(X, ROIS, 2))


@pytest.mark.parametrize("arguments", [{}, {"boxes": ROIS, "rois": ROIS}])
def test_regions_under_one_name_only(arguments):
    with pytest.raises(TypeError, match="RoIPool takes the regions either as boxes or, by torchvision's name, as rois"):
        roipool.RoIPool(2)(X, **arguments)


def test_repr():
    assert repr(roipool.RoIPool((7, 7), 0.0625)) == "RoIPool(output_size=(7, 7), spatial_scale=0.0625)"
    assert repr(roipool.RoIPool(7)) == "RoIPool(output_size=(7, 7), spatial_scale=1.0)"


def test_output_size_is_kept_as_a_pair():
    """mmdetection reads a pair from the layer."""
    assert roipool.RoIPool(7).output_size == (7, 7)
    with pytest.raises(TypeError, match="output_size must be an int or a pair of ints"):
        roipool.RoIPool("7")


def test_nothing_in_state_dict():
    pool = roipool.RoIPool(7)
    assert not pool.state_dict()
    assert not list(pool.parameters())
    pool.load_state_dict({})


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda pool: pickle.loads(pickle.dumps(pool))])
def test_copies_work(duplicate):
    pool = duplicate(roipool.RoIPool((2, 3), 0.5))
    assert repr(pool) == "RoIPool(output_size=(2, 3), spatial_scale=0.5)"
    assert_same_bits(pool(X, ROIS), EXPECTED)


def test_saved_and_loaded_within_a_model(device, tmp_path):
    model = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(3, 3, 1), "pool": roipool.RoIPool(2)}).to(device)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    x, rois = X.to(device), ROIS.to(device)
    assert_same_bits(loaded["pool"](x, rois), model["pool"](x, rois))
    assert list(loaded.state_dict()) == ["conv.weight", "conv.bias"]
