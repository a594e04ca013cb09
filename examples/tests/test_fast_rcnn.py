"""examples/fast_rcnn.py: its parts, and a short training."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).parents[1] / "fast_rcnn.py"


@pytest.fixture
def fast_rcnn(monkeypatch):
    monkeypatch.syspath_prepend(PROGRAM.parent)
    return importlib.import_module(PROGRAM.stem)


@pytest.fixture
def example(fast_rcnn):
    """A white rectangle on black."""
    image = torch.zeros(3, fast_rcnn.SIZE, fast_rcnn.SIZE)
    image[:, 30:70, 40:100] = 1
    target = {"boxes": torch.tensor([[40.0, 30, 100, 70]]), "labels": torch.tensor([2])}
    return fast_rcnn.Example(image, target, fast_rcnn.propose(image))


def test_proposals(fast_rcnn, example):
    assert fast_rcnn.box_iou(example.proposals, example.target["boxes"]).max() > 0.9


def test_mirrored(example):
    mirrored = example.mirrored()
    left, top, right, bottom = mirrored.target["boxes"][0].int().tolist()
    assert mirrored.image[:, top:bottom, left:right].all()
    assert mirrored.image.sum() == 3 * (bottom - top) * (right - left)
    assert torch.equal(mirrored.mirrored().proposals, example.proposals)


def test_sampled_regions(fast_rcnn, example):
    torch.manual_seed(0)
    boxes, labels, truth = fast_rcnn.sample_regions(example)
    overlap = fast_rcnn.box_iou(boxes, example.target["boxes"])[:, 0]
    assert torch.equal(labels, torch.where(overlap >= 0.5, 2, 0))
    assert set(labels.tolist()) == {0, 2}
    assert torch.equal(truth, example.target["boxes"].expand_as(truth))


def test_detections(fast_rcnn):
    proposals = torch.tensor([[10.0, 10, 50, 50], [12, 10, 52, 50], [70, 70, 120, 120], [0, 0, 30, 30]])
    logits = torch.full((4, len(fast_rcnn.CLASSES)), -10.0)
    logits[0, 3], logits[1, 3], logits[2, 5], logits[3, 0] = 1, 2, 3, 4  # the last is background
    found = fast_rcnn.detect(logits, torch.zeros(4, 4), proposals)
    assert found["labels"].tolist() == [5, 3]
    torch.testing.assert_close(found["boxes"], proposals[[2, 1]])


def run(directory: Path, *arguments: str) -> tuple[str, dict]:
    command = [sys.executable, PROGRAM, "--out", directory / "out.jpg", "--json", directory / "out.json", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = json.loads((directory / "out.json").read_text())
    del report["minutes"]
    return output, report


def test_short_training(tmp_path):
    arguments = ["--steps", "20", "--held-out", "8"]
    output, report = run(tmp_path, *arguments)
    assert "features (2, 512, 4, 4), pooled (4, 512, 4, 4), logits (4, 11)" in output
    assert report["steps"] == 20
    assert report["mean_loss_of_each_tenth"][-1] < 0.8 * report["mean_loss_of_each_tenth"][0]
    assert (tmp_path / "out.jpg").stat().st_size > 10_000
    assert run(tmp_path, *arguments)[1] == report
