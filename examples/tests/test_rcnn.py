"""examples/rcnn.py."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1]


def run(*arguments: object) -> str:
    command = [sys.executable, EXAMPLES / "rcnn.py", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_program(tmp_path):
    first = run("--out", tmp_path / "crops.jpg")
    assert "images (2, 3, 128, 128), crops (4, 3, 64, 64), logits (4, 11)" in first
    assert (tmp_path / "crops.jpg").stat().st_size > 10_000
    assert run("--out", tmp_path / "crops.jpg") == first
    assert run("--out", tmp_path / "crops.jpg", "--seed", 1) != first
