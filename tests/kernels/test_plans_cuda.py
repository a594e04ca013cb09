"""How the CUDA kernels share out their work, for sizes and devices that tests of results do not reach."""

from pathlib import Path

import pytest
from cpp.programs import run_cpp_test


@pytest.mark.parametrize("source", ["forward_plan_cuda_test.cpp", "backward_plan_cuda_test.cpp"])
def test_plan(source, tmp_path):
    run_cpp_test(Path(__file__).parent / source, tmp_path)
