"""Tensors and numbers that an operator cannot take give one clear error; all others give the right result.

What is merely of a wrong shape, dtype or size is in the tables of test_checks.py and test_multiscale.py.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import RaisesRuntimeErrors, assert_same_bits, features, random_rois
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

import roipool
from roipool import reference
from roipool._ops import out
from roipool._ops.autograd import call_below_autograd

ops = torch.ops.roipool

X, COARSE_X = features((2, 3, 8, 6), torch.float32, seed=0), features((2, 3, 4, 3), torch.float32, seed=1)
ROIS = random_rois(5, 2, 8, 6, seed=0).float()
EXPECTED, ARGMAX = reference.roi_pool(X, ROIS, 2, return_argmax=True)
GRAD = features(EXPECTED.shape, torch.float32, seed=2)
BINS = {"pooled_height": 2, "pooled_width": 2}
PYRAMID = {"spatial_scales": [1.0, 0.5], "canonical_scale": 4.0, "canonical_level": 1}

# Holds a right call of each operator, into which tests put one wrong thing.
CALLS = {
    ops.roi_pool.default: {"input": X, "rois": ROIS, **BINS, "spatial_scale": 1.0},
    ops.roi_pool.out: {"input": X, "rois": ROIS, **BINS, "spatial_scale": 1.0, "out": torch.empty_like(EXPECTED)},
    ops.roi_pool_with_argmax.default: {"input": X, "rois": ROIS, **BINS, "spatial_scale": 1.0},
    ops.roi_pool_backward.default: {
        **{"grad_output": GRAD, "rois": ROIS, "argmax": ARGMAX},
        **{"batch_size": 2, "height": 8, "width": 6, "spatial_scale": 1.0},
    },
    ops.roi_pool_gather.default: {"input": X, "rois": ROIS, "argmax": ARGMAX, "spatial_scale": 1.0},
    ops.multiscale_roi_pool.default: {"inputs": [X, COARSE_X], "rois": ROIS, **BINS, **PYRAMID},
    ops.multiscale_roi_pool_with_argmax.default: {"inputs": [X, COARSE_X], "rois": ROIS, **BINS, **PYRAMID},
    ops.multiscale_roi_pool_backward.default: {
        **{"grad_output": GRAD, "rois": ROIS, "argmax": ARGMAX},
        **{"batch_size": 2, "heights": [8, 4], "widths": [6, 3]},
        **PYRAMID,
    },
    ops.multiscale_roi_pool_gather.default: {"inputs": [X, COARSE_X], "rois": ROIS, "argmax": ARGMAX, **PYRAMID},
}
TENSORS = [
    pytest.param(op, "inputs[1]" if name == "inputs" else name, id=f"{op} {name}")
    for op, arguments in CALLS.items()
    for name, value in arguments.items()
    if isinstance(value, torch.Tensor) or name == "inputs"
]


def get(op, name):
    return CALLS[op]["inputs"][1] if name == "inputs[1]" else CALLS[op][name]


def put(op, name, value):
    """Returns the arguments of the right call, with another value for one of them."""
    if name == "inputs[1]":
        return {**CALLS[op], "inputs": [X, value]}
    return {**CALLS[op], name: value}


def tensors_of(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


# ---- Tensors of another kind.

OTHER_LAYOUTS = {
    "layout torch.sparse_coo": lambda tensor: tensor.to_sparse(),
    "layout torch.sparse_csr": lambda tensor: tensor.to_sparse_csr(),
    "layout torch._mkldnn": lambda tensor: tensor.float().to_mkldnn(),
    "a NestedTensor": lambda tensor: torch.nested.nested_tensor(list(tensor), layout=torch.strided),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch warns that such tensors are in beta, or deprecated
@pytest.mark.parametrize("layout", OTHER_LAYOUTS)
@pytest.mark.parametrize(("op", "name"), TENSORS)
def test_other_layouts_are_refused(op, name, layout):
    with pytest.raises(TypeError) as caught:
        op(**put(op, name, OTHER_LAYOUTS[layout](torch.ones_like(get(op, name)))))
    assert str(caught.value) == f"{name} must be a dense tensor, got {layout}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("op", "name"), TENSORS)
def test_quantized_tensors_are_refused(op, name):
    quantized = torch.quantize_per_tensor(torch.ones_like(get(op, name)).float(), 0.1, 0, torch.qint8)
    with pytest.raises(
        NotImplementedError, match=f"Could not run '{op._schema.name}.* from the 'QuantizedCPU' backend"
    ):
        op(**put(op, name, quantized))


DTYPES_OF = {
    "rois": "float16, bfloat16, float32, float64, int32 or int64",
    "argmax": "int32",
    "out": "float32 as input",
}
ALL_DTYPES = {dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
# The library has no name for these where the torch that it was built beside had none.
NEWER_DTYPES = {"bcomplex32"}
QUANTIZED_DTYPES = {torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4}


@pytest.mark.filterwarnings("ignore:(ComplexHalf|BComplex32) support is experimental")
@pytest.mark.parametrize(("op", "name"), TENSORS)
def test_every_other_dtype_is_refused_by_its_name(op, name):
    allowed = DTYPES_OF.get(name, "float16, bfloat16, float32 or float64")
    names = allowed.replace(" as input", "").replace(" or ", ", ").split(", ")
    others = {str(dtype).removeprefix("torch."): dtype for dtype in ALL_DTYPES - QUANTIZED_DTYPES}
    for dtype_name in sorted(others.keys() - set(names)):
        tensor = torch.empty(get(op, name).shape, dtype=others[dtype_name])
        with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is compared
            op(**put(op, name, tensor))
        message = f"{name} must be {allowed}, got "
        words = {dtype_name, *(["unknown_scalar"] if dtype_name in NEWER_DTYPES else [])}
        assert str(caught.value) in {message + word for word in words}
        with FakeTensorMode() as mode, pytest.raises(ValueError) as fake:  # noqa: PT011
            op(**tree_map_only(torch.Tensor, mode.from_tensor, put(op, name, tensor)))
        assert str(fake.value) == message + dtype_name


def imaginary_part_of_a_conjugate(tensor):
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


def negated(tensor):
    return torch._neg_view(-tensor)


@pytest.mark.parametrize("view", [negated, imaginary_part_of_a_conjugate])
@pytest.mark.parametrize(("op", "name"), TENSORS)
def test_views_that_are_negated_when_they_are_read(op, name, view):
    if name == "argmax":  # there are no complex integers
        view = negated
    tensor = view(get(op, name).clone())
    assert tensor.is_neg()
    expected = [result.clone() for result in tensors_of(op(**CALLS[op]))]
    for actual, right in zip(tensors_of(op(**put(op, name, tensor))), expected, strict=True):
        assert torch.equal(actual, right)
    if op is ops.roi_pool.default:
        assert_same_bits(expected[0], EXPECTED)
    if name == "out":
        assert tensor.is_neg()
        assert torch.equal(tensor, EXPECTED)


@pytest.mark.parametrize(("op", "name"), TENSORS)
def test_tensors_of_zeros_that_have_no_memory(op, name):
    """Derivatives may be such tensors."""
    tensor = torch._efficientzerotensor(get(op, name).shape, dtype=get(op, name).dtype)
    if name == "out":
        with pytest.raises(RuntimeError, match="ZeroTensors are immutable"):
            op(**put(op, name, tensor))
        return
    expected = tensors_of(op(**put(op, name, torch.zeros_like(get(op, name)))))
    for actual, right in zip(tensors_of(op(**put(op, name, tensor))), expected, strict=True):
        assert_same_bits(actual, right)


@pytest.mark.parametrize(("op", "name"), TENSORS)
def test_storage_that_was_made_smaller(op, name):
    """PyTorch's own functions read past the end of such a storage, and may crash."""
    tensor = get(op, name)
    for bytes_left in [0, 4 * tensor.numel() - 1]:
        freed = tensor.clone()
        freed.untyped_storage().resize_(bytes_left)
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            op(**put(op, name, freed))
        needed = 4 * tensor.numel()
        message = f"{name} must lie within its storage, of which it needs {needed} bytes, got {bytes_left}"
        assert str(caught.value) == message
    view = torch.cat([tensor, tensor])[len(tensor) :]
    assert view.storage_offset() > 0
    for actual, right in zip(tensors_of(op(**put(op, name, view))), tensors_of(op(**CALLS[op])), strict=True):
        assert_same_bits(actual, right)
    view.untyped_storage().resize_(4 * tensor.numel())
    with pytest.raises(ValueError, match=f"of which it needs {8 * tensor.numel()} bytes, got {4 * tensor.numel()}"):
        op(**put(op, name, view))


@pytest.mark.parametrize(("op", "name"), TENSORS)
def test_refusals_of_memory_may_arrive_as_runtime_errors(monkeypatch, op, name):
    freed = get(op, name).clone()
    freed.untyped_storage().resize_(3)
    *arguments, last = put(op, name, freed).values()
    refusal = pytest.raises(ValueError, match=r"must lie within its storage, of which it needs .* bytes, got 3$")
    if op is ops.roi_pool.out:
        monkeypatch.setattr(out, "ops", SimpleNamespace(roi_pool=SimpleNamespace(out=RaisesRuntimeErrors(op))))
        with refusal:
            out.write_new_version(*arguments, out=last)
    else:
        with refusal:
            call_below_autograd(RaisesRuntimeErrors(op), *arguments, last)


def test_what_is_empty_needs_no_storage():
    x, rois = X[:0].clone(), ROIS.clone()
    x.untyped_storage().resize_(0)
    assert_same_bits(ops.roi_pool(x, rois, 2, 2, 1.0), torch.zeros(5, 3, 2, 2))
    rois = rois[:0].clone()
    rois.untyped_storage().resize_(0)
    assert ops.roi_pool(X, rois, 2, 2, 1.0).shape == (0, 3, 2, 2)


# ---- What is no tensor, or no number.


@pytest.mark.parametrize("op", CALLS, ids=str)
def test_values_of_other_types(op):
    for name, value in CALLS[op].items():
        wrong = [None, "2", object(), [None], {}, np.zeros(3), 1j]
        if isinstance(value, int):
            wrong += [2.5, 2**63, -(2**63) - 1, float("nan"), torch.zeros(2)]
        elif isinstance(value, float):
            wrong += [10**400, torch.zeros(2)]
        elif isinstance(value, list):
            wrong += [[*value, None], [*value, "2"], [value]]
        else:
            wrong += [2, 2.0, [value]]
        for other in wrong:
            # PyTorch passes None on as an undefined tensor, which the operator must refuse.
            with pytest.raises((ValueError, TypeError, RuntimeError), match=name):
                op(**{**CALLS[op], name: other})
        missing = {key: other for key, other in CALLS[op].items() if key != name}
        with pytest.raises((RuntimeError, TypeError), match=f"missing.*{name}|{name}.*missing"):
            op(**missing)
    with pytest.raises((RuntimeError, TypeError), match=r"expected at most|unexpected|more"):
        op(**CALLS[op], more=1)
    op(**CALLS[op])  # the right call still works


# ---- Sizes beyond what there is. Products of them, in elements or bytes, are 2^64, which is 0 to a 64-bit integer.

ONE = torch.zeros(1, 1, 4, 5)
INT_ONE = torch.zeros(1, 1, 1, 1, dtype=torch.int32)
HUGE_ARGMAX = INT_ONE.expand(1, 1, 2**29, 2**29)
HUGE = {
    "elements of the output": (ops.roi_pool, (ONE, torch.zeros(16, 5), 2**30, 2**30, 1.0), (16, 1, 2**30, 2**30)),
    "bytes of the output": (ops.roi_pool, (ONE, torch.zeros(4, 5), 2**30, 2**30, 1.0), (4, 1, 2**30, 2**30)),
    "with argmax": (ops.roi_pool_with_argmax, (ONE, torch.zeros(16, 5), 2**30, 2**30, 1.0), (16, 1, 2**30, 2**30)),
    "of a pyramid": (
        ops.multiscale_roi_pool,
        ([ONE], torch.zeros(16, 5), 2**30, 2**30, [1.0], 224.0, 4),
        (16, 1, 2**30, 2**30),
    ),
    "bytes of the gradient": (
        ops.roi_pool_backward,
        (torch.zeros(1, 1, 1, 1), torch.zeros(1, 5), INT_ONE, 2**60, 4, 1, 1.0),
        (2**60, 1, 4, 1),
    ),
    "elements of the gradient": (
        ops.roi_pool_backward,
        (torch.zeros(1, 1, 1, 1), torch.zeros(1, 5), INT_ONE, 2**62, 4, 1, 1.0),
        (2**62, 1, 4, 1),
    ),
    "most images": (
        ops.roi_pool_backward,
        (torch.zeros(1, 1, 1, 1), torch.zeros(1, 5), INT_ONE, 2**63 - 1, 2, 1, 1.0),
        (2**63 - 1, 1, 2, 1),
    ),
    "gradient of a pyramid": (
        ops.multiscale_roi_pool_backward,
        (torch.zeros(1, 1, 1, 1), torch.zeros(1, 5), INT_ONE, 2**62, [4, 4], [1, 1], [1.0, 0.5], 224.0, 4),
        (2**62, 1, 4, 1),
    ),
}
HUGE_COPIES = {
    "input": (ops.roi_pool, (torch.zeros(1).expand(2**20, 2**10, 2**15, 2**15), ROIS, 1, 1, 1.0)),
    "rois": (ops.roi_pool, (ONE, torch.zeros(1, 5).expand(2**58, 5), 1, 1, 1.0)),
    "rois in half precision": (ops.roi_pool, (ONE, torch.zeros(1, 5).half().expand(2**58, 5), 1, 1, 1.0)),
    "argmax": (ops.roi_pool_gather, (ONE, torch.zeros(1, 5), HUGE_ARGMAX, 1.0)),
    "grad_output": (
        ops.roi_pool_backward,
        (
            torch.zeros(1).expand(1, 1, 2**29, 2**29),
            torch.zeros(1, 5),
            INT_ONE.expand(1, 1, 2**29, 2**29),
            1,
            4,
            5,
            1.0,
        ),
    ),
}


@pytest.mark.parametrize("case", HUGE)
def test_huge_results(case):
    op, arguments, shape = HUGE[case]
    with pytest.raises(RuntimeError) as caught:
        op(*arguments)
    message = f"cannot allocate a tensor of shape {shape} and dtype float32 on cpu: out of memory"
    assert str(caught.value).startswith(message)
    with pytest.raises(RuntimeError, match=r"overflow|[Ii]nvalid|numel"):
        op(*tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), arguments))


@pytest.mark.parametrize("case", HUGE_COPIES)
def test_tensors_that_are_huge_only_in_name(case):
    """Expanded tensors may be so large that no copy of them can be made."""
    op, arguments = HUGE_COPIES[case]
    with pytest.raises(RuntimeError, match=r"cannot allocate a tensor of shape \(.*: out of memory"):
        op(*arguments)


def test_empty_results_of_any_size():
    most = 2**31 - 1
    assert ops.roi_pool(X, ROIS[:0], most, 1, 1.0).shape == (0, 3, most, 1)
    assert ops.roi_pool(X[:, :0], ROIS, most, most, 1.0).shape == (5, 0, most, most)
    assert ops.multiscale_roi_pool([X[:, :0]], ROIS, most, most, [1.0], 224.0, 4).shape == (5, 0, most, most)
    no_bins = torch.empty(5, 3, 0, most), ROIS, torch.empty(5, 3, 0, most, dtype=torch.int32)
    assert_same_bits(ops.roi_pool_backward(*no_bins, 2, 8, 6, 1.0), torch.zeros(2, 3, 8, 6))
    assert ops.roi_pool_gather(X, ROIS, no_bins[2], 1.0).shape == (5, 3, 0, most)
    no_regions = torch.empty(0, 3, most, 1).half(), ROIS[:0], torch.empty(0, 3, most, 1, dtype=torch.int32)
    assert_same_bits(ops.roi_pool_backward(*no_regions, 2, 8, 6, 1.0), torch.zeros(2, 3, 8, 6).half())
    for batch_size in [2**30, 2**60]:
        grad_input = ops.roi_pool_backward(GRAD, ROIS, ARGMAX, batch_size, 0, 1, 1.0)
        assert grad_input.shape == (batch_size, 3, 0, 1)
        sizes = (batch_size, [0, 0], [1, 1], [1.0, 0.5], 224.0, 4)
        for grad_input in ops.multiscale_roi_pool_backward(GRAD, ROIS, ARGMAX, *sizes):
            assert grad_input.shape == (batch_size, 3, 0, 1)


# ---- out.


def test_out_whose_elements_overlap():
    """PyTorch does not look for such overlaps either: all elements are written, in any order."""
    memory = torch.full((32,), 7.0)
    out = memory[4:].as_strided(EXPECTED.shape, (3, 2, 1, 1))
    assert ops.roi_pool.out(X, ROIS, 2, 2, 1.0, out=out) is out
    like = memory.clone()[4:].as_strided(EXPECTED.shape, (3, 2, 1, 1)).copy_(EXPECTED)
    assert_same_bits(out, like)
    assert (memory[:4] == 7).all()
    assert (memory[4 + 12 + 4 + 1 + 1 + 1 :] == 7).all()


def test_out_that_shares_memory_with_rois():
    x, rois = features((1, 1, 4, 4), torch.float32, seed=0), torch.tensor([[0.0, 0, 0, 3, 3]]).repeat(6, 1)
    expected = reference.roi_pool(x, rois, (1, 5))
    assert_same_bits(ops.roi_pool.out(x, rois, 1, 5, 1.0, out=rois.view(6, 1, 1, 5)), expected)


def test_out_that_cannot_grow(capfd):
    """NumPy's memory cannot be resized."""
    out = torch.from_numpy(np.zeros(3, np.float32))
    with pytest.raises(RuntimeError) as caught:
        ops.roi_pool.out(X, ROIS, 2, 2, 1.0, out=out)
    message = "out of shape (3,) cannot be resized to (5, 3, 2, 2): it is another library's memory, or there is no more"
    assert str(caught.value) == message
    assert "was resized" in capfd.readouterr().err  # PyTorch's warning


# ---- Tensors that require gradients, and tensors of inference mode, in any place.


@pytest.mark.parametrize("op", [ops.roi_pool, roipool.roi_pool])
def test_rois_get_no_gradient(op):
    arguments = (2, 2, 1.0) if op is ops.roi_pool else (2,)
    rois = ROIS.clone().requires_grad_()
    output = op(X, rois, *arguments)
    assert_same_bits(output.detach(), EXPECTED)
    assert output.requires_grad  # as torchvision's does, so that backward() passes
    output.sum().backward()
    assert rois.grad is None
    with torch.no_grad():
        assert not op(X, rois, *arguments).requires_grad
    leaf = X.clone().requires_grad_()
    op(leaf, rois, *arguments).sum().backward()
    assert leaf.grad is not None
    assert rois.grad is None


@pytest.mark.parametrize(("op", "name"), TENSORS)
def test_tensors_of_inference_mode(op, name):
    with torch.inference_mode():
        tensor = get(op, name).clone()
    if name == "out":
        with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
            op(**put(op, name, tensor))
        return
    for actual, right in zip(tensors_of(op(**put(op, name, tensor))), tensors_of(op(**CALLS[op])), strict=True):
        assert_same_bits(actual, right)


def test_tensors_of_inference_mode_in_a_graph():
    with torch.inference_mode():
        rois = ROIS.clone()
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        roipool.roi_pool(X.clone().requires_grad_(), rois, 2)
