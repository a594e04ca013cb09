"""CUDA alone: agreement with the CPU to the bit, streams, graphs, devices; and the package without CUDA kernels."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import DTYPES, assert_same_bits, channels_last, contiguous, features, random_rois

import roipool

ops = torch.ops.roipool


def train(x, rois, output_size=7, spatial_scale=1.0):
    """Returns the output and the gradient."""
    x = x.detach().requires_grad_()
    output = roipool.roi_pool(x, rois, output_size, spatial_scale)
    grad_output = features(output.shape, x.dtype, seed=1).to(x.device)
    return output.detach(), torch.autograd.grad(output, x, grad_output)[0]


# Lists shapes of detectors, and extremes: many regions on few cells, a plane of gradients that no multiprocessor holds
# (1 MB), many channels.
SHAPES = [
    ((2, 256, 50, 84), 300, 1 / 16),
    ((1, 512, 38, 63), 64, 1 / 16),
    ((2, 3, 300, 400), 40, 1.0),
    ((3, 17, 2, 3), 500, 1.0),
    ((1, 5, 512, 520), 60, 1.0),
    ((1, 2048, 25, 42), 10, 1 / 32),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize(("shape", "num_rois", "spatial_scale"), SHAPES)
def test_same_bits_as_on_cpu(cuda, shape, num_rois, spatial_scale, layout, dtype):
    n, _, h, w = shape
    for kind in ["distinct", "nonfinite"]:
        x = layout(features(shape, dtype, seed=0, kind=kind))
        rois = random_rois(num_rois, n, h / spatial_scale, w / spatial_scale, seed=0, wild=kind == "nonfinite")
        for output_size in [(7, 7), (1, 1), (14, 3)]:
            expected = ops.roi_pool_with_argmax(x, rois, *output_size, spatial_scale)
            actual = ops.roi_pool_with_argmax(x.to(cuda), rois.to(cuda), *output_size, spatial_scale)
            for a, e in zip(actual, expected, strict=True):
                assert_same_bits(a, e)
                assert a.stride() == e.stride()
            arguments = [x.to(cuda), rois.to(cuda), output_size, spatial_scale]
            for a, e in zip(train(*arguments), train(x, rois, *arguments[2:]), strict=True):
                assert_same_bits(a, e)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_same_bits_in_every_run(cuda, layout):
    x = layout(features((2, 64, 50, 84), torch.float32, seed=0, kind="ties")).to(cuda)
    rois = random_rois(500, 2, 50.0, 84.0, seed=0).to(cuda)
    first = train(x, rois)
    for _ in range(20):
        for a, e in zip(train(x, rois), first, strict=True):
            assert_same_bits(a, e)


def test_deterministic_algorithms_need_nothing(cuda):
    x, rois = features((1, 8, 20, 20), torch.float32, seed=0).to(cuda), random_rois(50, 1, 20.0, 20.0, seed=0).to(cuda)
    expected = train(x, rois)
    torch.use_deterministic_algorithms(True)
    try:
        for a, e in zip(train(x, rois), expected, strict=True):
            assert_same_bits(a, e)
    finally:
        torch.use_deterministic_algorithms(False)


def test_runs_on_the_current_stream(cuda):
    """The kernels wait for what was queued before them on the current stream."""
    x = features((2, 64, 50, 84), torch.float32, seed=0).to(cuda)
    rois = random_rois(100, 2, 50.0, 84.0, seed=0).to(cuda)
    expected = train(x, rois)
    late = torch.full_like(x, float("nan"))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(x)
        actual = train(late, rois)
    torch.cuda.current_stream().wait_stream(stream)
    for a, e in zip(actual, expected, strict=True):
        assert_same_bits(a, e)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_nothing_waits_for_the_device(cuda):
    x = features((2, 64, 50, 84), torch.float32, seed=0).to(cuda).requires_grad_()
    rois = random_rois(100, 2, 50.0, 84.0, seed=0).to(cuda)
    try:
        torch.cuda.set_sync_debug_mode("error")
        roipool.roi_pool(x, rois, 7).sum().backward()
        roipool.roi_pool(x, list(rois[:, 1:].split(50)), 7)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_cuda_graph_of_forward_and_backward(cuda, layout):
    shape = (2, 64, 50, 84)
    x = layout(torch.zeros(shape, device=cuda)).requires_grad_()
    rois = torch.zeros(100, 5, device=cuda)
    grad_output = torch.zeros(100, 64, 7, 7, device=cuda)

    def step():
        output = roipool.roi_pool(x, rois, 7)
        return output, torch.autograd.grad(output, x, grad_output)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output, grad_input = step()
    for seed in range(3):
        new = layout(features(shape, torch.float32, seed)), random_rois(100, 2, 50.0, 84.0, seed).float()
        with torch.no_grad():
            x.copy_(new[0])
            rois.copy_(new[1])
            grad_output.copy_(features(grad_output.shape, torch.float32, seed=1))
        graph.replay()
        for a, e in zip([output, grad_input], train(*new), strict=True):
            assert_same_bits(a, e)


def test_on_a_device_that_is_not_the_current_one(cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is no second GPU")
    other = torch.device("cuda", 1 - cuda.index)
    x, rois = features((2, 64, 20, 20), torch.float32, seed=0), random_rois(50, 2, 20.0, 20.0, seed=0)
    for a, e in zip(train(x.to(other), rois.to(other)), train(x, rois), strict=True):
        assert a.device == other
        assert_same_bits(a, e)
    assert torch.cuda.current_device() == cuda.index
    with pytest.raises(ValueError, match="rois must be on the device of input"):
        ops.roi_pool(x.to(cuda), rois.to(other), 2, 2, 1.0)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(cuda, tool):
    sanitizer = shutil.which("compute-sanitizer")
    assert sanitizer, "compute-sanitizer, of the CUDA toolkit, is not on PATH"
    # PyTorch probes the driver with calls that may fail, which count as no error here.
    command = [sanitizer, "--tool", tool, "--report-api-errors", "no", "--kernel-regex", "kns=roipool"]
    command += ["--error-exitcode", "9", sys.executable, "-m", "pytest", "-q", "-x", "-k", "cuda-20-nonfinite"]
    command += ["tests/kernels/test_against_reference.py::test_every_dtype_and_layout"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


# ---- Without it.


CALLS_WITHOUT_KERNELS = """
import sys
sys.path[:0] = [{folder!r}]
import torch, roipool
cuda_key = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
for op in [torch.ops.roipool.roi_pool, torch.ops.roipool.roi_pool_with_argmax]:
    try:
        op.default.redispatch(cuda_key, torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2, 2, 1.0)
    except NotImplementedError as error:
        print(error)
"""


def copy_package_without_cuda(folder: Path) -> Path:
    package = folder / "roipool"
    shutil.copytree(
        Path(roipool.__file__).parent, package, ignore=shutil.ignore_patterns("libroipool_cuda*", "__pycache__")
    )
    return package


def test_a_cuda_tensor_without_cuda_kernels_is_told_so(tmp_path):
    copy_package_without_cuda(tmp_path)
    command = [sys.executable, "-c", CALLS_WITHOUT_KERNELS.format(folder=str(tmp_path))]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert len(re.findall("roipool was given CUDA tensors, but built without .*FORCE_CUDA=1", run.stdout)) == 2


def test_a_cuda_library_that_does_not_load_says_why(tmp_path):
    """A torch with CUDA says why; one without CUDA does not look at the library."""
    package = copy_package_without_cuda(tmp_path)
    (package / "libroipool_cuda.so").write_bytes(b"not a library" * 100)
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import torch; torch.version.cuda = {{}}\nimport roipool"
    for version, expected in [("None", 0), ("'13.0'", 1)]:
        command = [sys.executable, "-c", program.format(version)]
        run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert run.returncode == expected, run.stderr
    error = run.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: roipool's CUDA library ")
    assert "invalid ELF header" in error
    assert "ROIPOOL_CUDA=0" in error
