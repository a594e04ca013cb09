"""Fixtures: the devices and the sets of kernels that tests run on.

Tests of CUDA are collected where there is a GPU, or where ROIPOOL_REQUIRE_CUDA=1 says that there must be one; else a
line of pytest's header says that they are left out.
"""

import os

import hypothesis
import pytest
import torch
from cuda_host.build import build, load
from emulated.build import load as load_emulated
from support import CPU, Backend

from roipool import _ops

# The machine may be slow and shared, and the same examples in every run make a failure one that anyone can repeat.
hypothesis.settings.register_profile("roipool", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("roipool")

EMULATED = os.environ.get("ROIPOOL_EMULATE")  # a processor: see tests/emulated
CPU_BACKENDS = ["cpu", *(["emulated"] if EMULATED else [])]
COLLECT_CUDA = torch.cuda.is_available() or os.environ.get("ROIPOOL_REQUIRE_CUDA") == "1"


def pytest_report_header() -> str:
    if COLLECT_CUDA:
        return "CUDA: tests on the GPU are collected"
    return "CUDA: there is no GPU, so tests on it are left out (ROIPOOL_REQUIRE_CUDA=1 lets them fail instead)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests that ask for the fixture `cuda`; parameters of `device` and `backend` are left out below."""
    if not COLLECT_CUDA:
        needs_cuda = {item: "cuda" in getattr(item, "fixturenames", []) for item in items}
        config.hook.pytest_deselected(items=[item for item in items if needs_cuda[item]])
        items[:] = [item for item in items if not needs_cuda[item]]


def cuda_device() -> torch.device:
    assert torch.cuda.is_available(), "ROIPOOL_REQUIRE_CUDA=1, but there is no GPU"
    assert _ops.cuda_is_loaded, "there is a GPU, but roipool was built without CUDA kernels"
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session", params=["cpu", "cuda"] if COLLECT_CUDA else ["cpu"])
def device(request) -> torch.device:
    """Each device that users have: for tests of what they call."""
    return torch.device("cpu") if request.param == "cpu" else cuda_device()


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """The GPU: for tests of what only CUDA has."""
    return cuda_device()


@pytest.fixture(scope="session")
def cuda_host(request) -> Backend:
    """The CUDA kernels, executed on the CPU: see tests/cuda_host."""
    folder = request.config.cache.mkdir("cuda_host")
    return Backend("cuda_host", load(build(folder)), torch.device("cpu"))


@pytest.fixture(scope="session")
def emulated(request) -> Backend:
    """The CPU kernels on another processor, with the operators of this one: see tests/emulated."""
    return Backend("emulated", load_emulated(request.config.cache.mkdir("emulated"), EMULATED), torch.device("cpu"))


def backend_of(request) -> Backend:
    if request.param == "cuda":
        return Backend("cuda", torch.ops.roipool, cuda_device())
    return CPU if request.param == "cpu" else request.getfixturevalue(request.param)


@pytest.fixture(scope="session", params=[*CPU_BACKENDS, "cuda_host", *(["cuda"] if COLLECT_CUDA else [])])
def backend(request) -> Backend:
    """Each set of kernels: for tests of the operators."""
    return backend_of(request)


@pytest.fixture(scope="session", params=CPU_BACKENDS)
def cpu_backend(request) -> Backend:
    """The CPU kernels, on each processor that they are run on: for tests of what CUDA has not."""
    return backend_of(request)


@pytest.fixture
def set_num_threads():
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
