"""The operators as PyTorch sees them: opcheck, misuse, fake kernels that refuse what the native ones refuse."""

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import DTYPES, channels_last, contiguous, features, random_rois, to_device
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode

import roipool

ops = torch.ops.roipool


def sample_inputs():
    for layout in [contiguous, channels_last]:
        for dtype in DTYPES:
            for channels, num_rois in [(3, 4), (20, 9), (3, 0)]:
                x = layout(features((2, channels, 6, 7), dtype, seed=0))
                yield x, random_rois(num_rois, 2, 12, 14, seed=0).float()


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("op", [ops.roi_pool.default, ops.roi_pool_with_argmax.default])
def test_opcheck_forward(device, op, requires_grad):
    for x, rois in to_device(list(sample_inputs()), device):
        torch.library.opcheck(op, (x.requires_grad_(requires_grad), rois, 3, 2, 0.5))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_backward_and_gather(device, requires_grad):
    for x, rois in to_device(list(sample_inputs()), device):
        output, argmax = ops.roi_pool_with_argmax(x, rois, 3, 2, 0.5)
        grad_output = output.detach().clone().requires_grad_(requires_grad)
        torch.library.opcheck(ops.roi_pool_backward.default, (grad_output, rois, argmax, 2, 6, 7))
        torch.library.opcheck(ops.roi_pool_gather.default, (x.requires_grad_(requires_grad), rois, argmax))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(device, dynamic):
    rois = random_rois(5, 2, 12, 14, seed=0).float().to(device)

    def loss(x):
        return (roipool.roi_pool(x, rois, 3, 0.5) ** 2).sum()

    x = features((2, 3, 6, 7), torch.float32, seed=0).to(device).requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    (expected,) = torch.autograd.grad(loss(x), x)
    (actual,) = torch.autograd.grad(compiled(x), x)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (1, 1, 1, 1), (2, 3, 1, 1), (1, 3, 1, 4), (0, 3, 4, 5)])
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_fake_and_native_strides_agree(device, layout, shape):
    """opcheck's faketensor test over the shapes where contiguous and channels_last coincide."""
    x, rois = layout(torch.zeros(shape, device=device)), torch.zeros(2, 5, device=device)
    for size in [1, 2]:
        arguments = (x, rois, size, size, 1.0)
        torch.library.opcheck(ops.roi_pool_with_argmax.default, arguments, test_utils="test_faketensor")
        output, argmax = ops.roi_pool_with_argmax(*arguments)
        for op, arguments in [
            (ops.roi_pool_gather, (x, rois, argmax)),
            (ops.roi_pool_backward, (output, rois, argmax, shape[0], *shape[2:])),
        ]:
            torch.library.opcheck(op.default, arguments, test_utils="test_faketensor")


def test_fake_and_native_strides_agree_where_formats_differ(device):
    """An argmax in another format than the map, and maps that are expanded."""
    x, rois = torch.zeros(2, 3, 4, 5, device=device), torch.zeros(2, 5, device=device)
    argmax = torch.zeros(2, 3, 2, 2, dtype=torch.int32, device=device)
    for arguments in [(x, rois, channels_last(argmax)), (channels_last(x), rois, argmax)]:
        torch.library.opcheck(ops.roi_pool_gather.default, arguments, test_utils="test_faketensor")
    for expanded in [
        x[:, :1].expand(2, 3, 4, 5),
        channels_last(x)[:1].expand(2, 3, 4, 5),
        x[..., :1].expand(2, 3, 4, 5),
    ]:
        torch.library.opcheck(ops.roi_pool.default, (expanded, rois, 2, 2, 1.0), test_utils="test_faketensor")
        # every format that the two may agree on is PyTorch's own
        pooled = ops.roi_pool(expanded, rois, 2, 2, 1.0)
        assert pooled.stride() == torch.empty_like(pooled, memory_format=suggest_memory_format(expanded)).stride()


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (3, 1, 1, 5), (3, 1, 4, 1), (1, 1, 1, 1), (3, 2, 1, 1)])
def test_maps_of_both_formats_count_as_pytorch_counts_them(device, shape):
    """Down to the strides of dimensions of 1, which make no difference, and which opcheck does not compare."""
    for layout in [contiguous, channels_last]:
        x = layout(torch.zeros(shape, device=device))
        pooled = ops.roi_pool(x, torch.zeros(2, 5, device=device), 2, 2, 1.0)
        assert pooled.stride() == torch.empty_like(pooled, memory_format=suggest_memory_format(x)).stride()


# ---- Misuse of the operators themselves.

X = torch.zeros(2, 3, 4, 5)
ROIS = torch.zeros(6, 5)
ARGMAX = torch.zeros(6, 3, 2, 2, dtype=torch.int32)
GRAD = torch.zeros(6, 3, 2, 2)

FORWARD = {
    "input of rank 3": ((X[0], ROIS, 2, 2, 1.0), "input must be a 4-D tensor (N, C, H, W), got shape (3, 4, 5)"),
    "input of rank 0": ((X[0, 0, 0, 0], ROIS, 2, 2, 1.0), "input must be a 4-D tensor (N, C, H, W), got shape ()"),
    "integer input": ((X.long(), ROIS, 2, 2, 1.0), "input must be float16, bfloat16, float32 or float64, got int64"),
    "complex input": (
        (X.to(torch.complex64), ROIS, 2, 2, 1.0),
        "input must be float16, bfloat16, float32 or float64, got complex64",
    ),
    "huge map": (
        (torch.zeros(1).expand(1, 1, 2**16, 2**15), ROIS, 2, 2, 1.0),
        "input must have at most 2147483647 cells in a plane (H*W), got 65536 x 32768",
    ),
    "rois without a batch index": (
        (X, ROIS[:, :4], 2, 2, 1.0),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (6, 4)",
    ),
    "rois with a column more": (
        (X, torch.zeros(6, 6), 2, 2, 1.0),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (6, 6)",
    ),
    "rois of rank 1": (
        (X, ROIS[0], 2, 2, 1.0),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (5,)",
    ),
    "boolean rois": (
        (X, ROIS.bool(), 2, 2, 1.0),
        "rois must be float16, bfloat16, float32, float64, int32 or int64, got bool",
    ),
    "output_size of 0": (
        (X, ROIS, 0, 2, 1.0),
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (0, 2)",
    ),
    "output_size below 0": (
        (X, ROIS, 2, -3, 1.0),
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (2, -3)",
    ),
    "huge output_size": (
        (X, ROIS, 2, 2**31, 1.0),
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (2, 2147483648)",
    ),
    "huge height of output_size": (
        (X, ROIS, 2**31, 2, 1.0),
        "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (2147483648, 2)",
    ),
    "scale of 0": ((X, ROIS, 2, 2, 0.0), "spatial_scale must be finite and greater than 0, got 0"),
    "scale below 0": ((X, ROIS, 2, 2, -0.5), "spatial_scale must be finite and greater than 0, got -0.5"),
    "NaN scale": ((X, ROIS, 2, 2, float("nan")), "spatial_scale must be finite and greater than 0, got nan"),
    "infinite scale": ((X, ROIS, 2, 2, float("inf")), "spatial_scale must be finite and greater than 0, got inf"),
}
BACKWARD = {
    "grad_output of rank 2": (
        (GRAD[0, 0], ROIS, ARGMAX, 2, 4, 5),
        "grad_output must be a 4-D tensor (K, C, PH, PW), got shape (2, 2)",
    ),
    "integer grad_output": (
        (GRAD.int(), ROIS, ARGMAX, 2, 4, 5),
        "grad_output must be float16, bfloat16, float32 or float64, got int32",
    ),
    "rois of rank 1": (
        (GRAD, ROIS[0], ARGMAX, 2, 4, 5),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (5,)",
    ),
    "argmax of other regions": (
        (GRAD, ROIS[:5], ARGMAX, 2, 4, 5),
        "argmax must have shape (K, C, PH, PW) with K = 5 as in rois and C = 3 as in grad_output, "
        "got shape (6, 3, 2, 2)",
    ),
    "int64 argmax": ((GRAD, ROIS, ARGMAX.long(), 2, 4, 5), "argmax must be int32, got int64"),
    "argmax of other bins": (
        (GRAD, ROIS, ARGMAX[..., :1], 2, 4, 5),
        "grad_output must have the shape of argmax (6, 3, 2, 1), got shape (6, 3, 2, 2)",
    ),
    "negative size": (
        (GRAD, ROIS, ARGMAX, 2, -4, 5),
        "batch_size, height and width must not be negative, got 2, -4 and 5",
    ),
    "huge map": (
        (GRAD, ROIS, ARGMAX, 2, 2**20, 2**20),
        "grad_input must have at most 2147483647 cells in a plane (H*W), got 1048576 x 1048576",
    ),
}
GATHER = {
    "input of rank 3": ((X[0], ROIS, ARGMAX), "input must be a 4-D tensor (N, C, H, W), got shape (3, 4, 5)"),
    "rois of rank 1": (
        (X, ROIS[0], ARGMAX),
        "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape (5,)",
    ),
    "argmax of rank 3": (
        (X, ROIS, ARGMAX[0]),
        "argmax must have shape (K, C, PH, PW) with K = 6 as in rois and C = 3 as in input, got shape (3, 2, 2)",
    ),
    "argmax of other channels": (
        (X, ROIS, ARGMAX[:, :2]),
        "argmax must have shape (K, C, PH, PW) with K = 6 as in rois and C = 3 as in input, got shape (6, 2, 2, 2)",
    ),
    "floating argmax": ((X, ROIS, ARGMAX.float()), "argmax must be int32, got float32"),
}
MISUSE = [
    pytest.param(op, *case, id=f"{op}: {name}")
    for op, cases in {
        "roi_pool": FORWARD,
        "roi_pool_with_argmax": FORWARD,
        "roi_pool_backward": BACKWARD,
        "roi_pool_gather": GATHER,
    }.items()
    for name, case in cases.items()
]


@pytest.mark.parametrize(("op", "arguments", "message"), MISUSE)
def test_misuse_is_one_clear_error(backend, op, arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole message is compared
        getattr(backend.ops, op)(*to_device(arguments, backend.device))
    assert str(caught.value) == message


@pytest.mark.parametrize(("op", "arguments", "message"), MISUSE)
def test_fake_kernels_refuse_the_same_in_the_same_words(op, arguments, message):
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            getattr(ops, op)(*fake)
    assert str(caught.value) == message


def test_the_largest_map_is_taken(backend):
    rois = ROIS.to(backend.device)
    assert backend.ops.roi_pool(torch.empty(1, 0, 1, 2**31 - 1, device=backend.device), rois, 2, 2, 1.0).numel() == 0
    with FakeTensorMode() as mode:
        x, rois = torch.empty(1, 3, 1, 2**31 - 1), mode.from_tensor(ROIS)
        assert ops.roi_pool(x, rois, 2, 2, 1.0).shape == (6, 3, 2, 2)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("roi_pool", (X, ROIS.to("meta"), 2, 2, 1.0), "rois must be on the device of input (cpu), got meta"),
        ("roi_pool", (X.to("meta"), ROIS, 2, 2, 1.0), "rois must be on the device of input (meta), got cpu"),
        (
            "roi_pool_backward",
            (GRAD, ROIS, ARGMAX.to("meta"), 2, 4, 5),
            "argmax must be on the device of grad_output (cpu), got meta",
        ),
        ("roi_pool_gather", (X, ROIS, ARGMAX.to("meta")), "argmax must be on the device of input (cpu), got meta"),
    ],
)
def test_tensors_on_two_devices(device, op, arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        getattr(ops, op)(*to_device(arguments, device))
    assert str(caught.value) == message.replace("cpu", str(device))


def test_meta_tensors():
    output = roipool.roi_pool(X.to("meta"), ROIS.to("meta"), (3, 2))
    assert output.device.type == "meta"
    assert output.shape == (6, 3, 3, 2)


# ---- A native library that is missing or broken.


def import_without_library(folder: Path, library: bytes | None) -> str:
    package = folder / "roipool"
    source = Path(roipool.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    if library is not None:
        (package / Path(roipool._C.__file__).name).write_bytes(library)
    # -S leaves out the import hook of an editable install, which would find the library after all.
    paths = [str(folder), *site.getsitepackages()]
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {paths}; import roipool"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert run.returncode != 0
    return run.stderr.strip().splitlines()[-1]


REASONS = {
    "missing": (None, "No module named 'roipool._C'"),
    "empty": (b"", "file too short"),
    "broken": (b"not a library" * 100, "invalid ELF header"),
}


@pytest.mark.parametrize("fault", REASONS)
def test_import_fails_with_reason_and_remedy(tmp_path, fault):
    library, reason = REASONS[fault]
    error = import_without_library(tmp_path, library)
    assert error.startswith("ImportError: roipool's native library roipool._C is missing or does not load (")
    assert reason in error
    assert "pip install --no-build-isolation -e ." in error


def test_capability_that_is_none_is_refused_at_import():
    environment = {**os.environ, "ROIPOOL_CPU_CAPABILITY": "sse9"}
    run = subprocess.run(
        [sys.executable, "-c", "import roipool"], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode != 0
    assert "ROIPOOL_CPU_CAPABILITY must be one that this processor has (default" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize("capability", ["default", roipool._C.cpu_capability])
def test_capability_can_be_chosen(capability):
    environment = {**os.environ, "ROIPOOL_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", "import roipool; print(roipool._C.cpu_capability)"]
    assert subprocess.run(command, capture_output=True, text=True, env=environment).stdout.strip() == capability


def test_out_of_memory_says_so(device):
    x, rois = torch.zeros(1, 8, 4, 5, device=device), torch.zeros(2**20, 5, device=device)
    with pytest.raises(RuntimeError, match=r"cannot allocate a tensor of shape \(1048576, 8, 65536, 65536\)"):
        ops.roi_pool(x, rois, 2**16, 2**16, 1.0)
    assert ops.roi_pool(x, rois[:1], 1, 1, 1.0).shape == (1, 8, 1, 1)  # and all goes on
