"""examples/cpp: built by CMake, run without Python, on what Python exported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import roipool

SOURCE = Path(__file__).parents[1] / "cpp"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # linear layers sum in another order where there are more
RESULTS = ["operator: [60, 16, 7, 7]", "AOTInductor package: [60, 11]", "traced module: [60, 11]"]


def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    kept = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    run(sys.executable, SOURCE / "export_head.py", folder, environment=kept | ONE_THREAD)
    return folder


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    prefixes = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path};{roipool.cmake_prefix_path}"
    # Linkers that are told this leave out libraries that no function is called of.
    as_needed = "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed"
    run("cmake", "-S", SOURCE, "-B", folder, prefixes, as_needed)
    run("cmake", "--build", folder)
    return folder / "serve"


def test_results_are_those_of_python(serve, head):
    assert run(serve, head, environment=ONE_THREAD).splitlines() == [f"{result}, equal" for result in RESULTS]


def test_a_result_that_differs_is_told(serve, head, tmp_path):
    for name in ["head.pt2", "head_traced.pt"]:
        os.symlink(head / name, tmp_path / name)
    tensors = torch.load(head / "tensors.pt")
    tensors["package"][3, 4] += 1e-3
    torch.save(tensors, tmp_path / "tensors.pt")
    finished = subprocess.run([serve, tmp_path], env=ONE_THREAD, capture_output=True, text=True)
    assert finished.returncode == 1
    told = [f"{result}, {'DIFFERENT' if 'package' in result else 'equal'}" for result in RESULTS]
    assert finished.stdout.splitlines() == told


def test_a_folder_that_is_missing_is_told(serve, tmp_path):
    finished = subprocess.run([serve, tmp_path / "none"], capture_output=True, text=True)
    assert finished.returncode == 1
    assert finished.stderr.startswith(f"serve: cannot read {tmp_path / 'none'}/tensors.pt")


def test_python_is_not_there(serve):
    libraries = run("ldd", serve)
    assert "libroipool.so" in libraries
    assert "libtorch_cpu.so" in libraries
    assert "libpython" not in libraries
    assert "torch_python" not in libraries


def configure(folder: Path, *lines: str) -> subprocess.CompletedProcess:
    """Configures a project of these lines with CMake. What it prints by message() is in stderr."""
    project = ["cmake_minimum_required(VERSION 3.18)", "project(found CXX)", *lines]
    (folder / "CMakeLists.txt").write_text("\n".join(project))
    return subprocess.run(["cmake", "-S", folder, "-B", folder / "build"], capture_output=True, text=True)


HINTS = f'HINTS "{roipool.cmake_prefix_path}"'
TORCH = "add_library(torch INTERFACE IMPORTED)"  # stands for that of find_package(Torch)


VERSION = roipool.__version__
REQUESTS = [("0.1", True), (VERSION, True), (f"{VERSION} EXACT", True), (f"0...{VERSION}", True), ("0...99", True)]
REQUESTS += [("99", False), ("0.1 EXACT", False), ("0...0.1", False), (f"0...<{VERSION}", False), ("98...99", False)]


@pytest.mark.parametrize(("version", "is_found"), REQUESTS)
def test_version(tmp_path, version, is_found):
    configured = configure(
        tmp_path, TORCH, f"find_package(roipool {version} REQUIRED {HINTS})", "message(${roipool_VERSION})"
    )
    assert (configured.returncode == 0) == is_found
    assert (VERSION if is_found else f"version: {VERSION}") in configured.stderr


def test_a_checkout_that_is_not_built_is_not_found(tmp_path):
    package = tmp_path / "roipool"
    shutil.copytree(Path(roipool.__file__).parent, package, ignore=shutil.ignore_patterns("*.so"))
    configured = configure(tmp_path, TORCH, f"find_package(roipool REQUIRED HINTS {package / 'share' / 'cmake'})", "")
    assert configured.returncode != 0
    assert f"roipool is not built: there is no libroipool.so in {package}" in " ".join(configured.stderr.split())


@pytest.mark.parametrize("torch_has_cuda", [False, True])
def test_cuda_kernels_are_linked_to_a_torch_that_has_cuda(tmp_path, torch_has_cuda):
    configured = configure(
        tmp_path,
        TORCH,
        "add_library(torch_cuda INTERFACE IMPORTED)" if torch_has_cuda else "",
        f"find_package(roipool REQUIRED {HINTS})",
        "get_target_property(libraries roipool::roipool INTERFACE_LINK_LIBRARIES)",
        'message("${libraries}")',
    )
    is_built = (Path(roipool.__file__).parent / "libroipool_cuda.so").exists()
    linked = [name for name in configured.stderr.strip().split(";") if name.startswith("roipool::")]
    assert linked == ["roipool::libroipool", *(["roipool::libroipool_cuda"] if torch_has_cuda and is_built else [])]
