import os

import hypothesis
import pytest
import torch
from cuda_host.build import build, load
from support import CPU, Backend

from roipool import _ops

# The machine may be slow and shared, and the same examples in every run make a failure one that anyone can repeat.
hypothesis.settings.register_profile("roipool", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("roipool")


def cuda_or_skip() -> torch.device:
    if not torch.cuda.is_available():
        # ROIPOOL_REQUIRE_CUDA=1: where there must be a GPU, its absence is no excuse
        (pytest.fail if os.environ.get("ROIPOOL_REQUIRE_CUDA") == "1" else pytest.skip)("there is no GPU")
    assert _ops.cuda_is_loaded, "there is a GPU, but roipool was built without CUDA kernels"
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request) -> torch.device:
    """Each device that users have: for tests of what they call."""
    return torch.device("cpu") if request.param == "cpu" else cuda_or_skip()


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """For tests of what only CUDA has."""
    return cuda_or_skip()


@pytest.fixture(scope="session")
def cuda_host(request) -> Backend:
    """The CUDA kernels, executed on the CPU: see tests/cuda_host."""
    folder = request.config.cache.mkdir("cuda_host")
    return Backend("cuda_host", load(build(folder)), torch.device("cpu"))


@pytest.fixture(scope="session", params=["cpu", "cuda_host", "cuda"])
def backend(request) -> Backend:
    """Each set of kernels: for tests of the operators."""
    if request.param == "cuda":
        return Backend("cuda", torch.ops.roipool, cuda_or_skip())
    return CPU if request.param == "cpu" else request.getfixturevalue("cuda_host")


@pytest.fixture
def set_num_threads():
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
