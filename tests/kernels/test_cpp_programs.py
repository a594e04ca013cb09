"""Runs C++ tests without torch: how kernels choose their way and share out work, and how vectors compare values."""

from pathlib import Path

import pytest
from cpp.programs import run_cpp_test


@pytest.mark.parametrize("source", sorted(path.name for path in Path(__file__).parent.glob("*_test.cpp")))
def test_program(source, tmp_path):
    run_cpp_test(Path(__file__).parent / source, tmp_path)
