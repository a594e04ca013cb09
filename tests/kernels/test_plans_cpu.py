"""How the CPU kernels choose their way, and how their vectors compare values: tested alone, without torch."""

from pathlib import Path

import pytest
from cpp.programs import run_cpp_test


@pytest.mark.parametrize("source", ["forward_plan_cpu_test.cpp", "backward_plan_cpu_test.cpp", "rule_test.cpp"])
def test_program(source, tmp_path):
    run_cpp_test(Path(__file__).parent / source, tmp_path)
