"""examples/rcnn.py, and the code of docs/guides/mxnet.md."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import torch

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


def test_migration_guide(monkeypatch):
    """Its PyTorch half runs; of its MXNet half, only the syntax is checked."""
    guide = (EXAMPLES.parent / "docs" / "guides" / "mxnet.md").read_text().partition("## R-CNN, from pixels")[2]
    blocks = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    from_mxnet, to_pytorch = blocks[::2], blocks[1::2]
    assert len(from_mxnet) == len(to_pytorch) == 3
    for block in from_mxnet:
        compile(block, "mxnet.md", "exec")

    monkeypatch.syspath_prepend(EXAMPLES)
    rcnn = importlib.import_module("rcnn")
    names: dict[str, torch.Tensor] = {}
    exec(to_pytorch[0], names)
    assert torch.equal(names["rois"], rcnn.ROIS)
    assert names["crops"].shape == (4, 3, 64, 64)
    assert names["logits"].shape == (4, 11)
    exec(to_pytorch[1], names)
    assert names["pooled"].shape == (4, 512, 4, 4)
    assert names["logits"].shape == (4, 11)
    exec(to_pytorch[2], names)
    assert names["backbone"][0].weight.grad.any()  # the gradient went through the pooling
