"""examples/show_bins.py: its geometry by hand, its check, and a run."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).parents[1] / "show_bins.py"


@pytest.fixture
def show_bins(monkeypatch):
    monkeypatch.syspath_prepend(PROGRAM.parent)
    return importlib.import_module(PROGRAM.stem)


@pytest.mark.parametrize(
    ("first", "last", "scale", "num_bins", "expected"),
    [
        (2, 10, 1.0, 3, [range(2, 5), range(5, 8), range(8, 11)]),
        # 40 / 16 = 2.5 is rounded away from zero, to 3; 8 cells in 3 bins of 2.67 share two of them
        (40, 155, 1 / 16, 3, [range(3, 6), range(5, 9), range(8, 11)]),
        (-24, 75, 1 / 16, 3, [range(-2, 1), range(0, 4), range(3, 6)]),
        (7, 3, 1.0, 2, [range(7, 8), range(7, 8)]),  # malformed: 1 cell
    ],
)
def test_bin_cells_by_hand(show_bins, first, last, scale, num_bins, expected):
    assert show_bins.bin_cells(first, last, scale, num_bins) == expected


def test_bins_are_divided_in_float32(show_bins):
    assert show_bins.bin_cells(0, 56, 1.0, 7)[-1] == range(48, 58)  # one past the region of 57 cells


def test_corners_are_rounded_once(show_bins):
    below_half = torch.tensor(0.5).nextafter(torch.tensor(0.0)).item()
    assert show_bins.bin_cells(below_half, 0, 1.0, 1) == [range(1)]


def test_clip(show_bins):
    assert show_bins.clip(range(-2, 1), 12) == range(0, 1)
    assert show_bins.clip(range(14, 18), 16) == range(14, 16)
    assert not show_bins.clip(range(17, 20), 16)


def test_check_refuses_another_operator(show_bins):
    feature_map = show_bins.make_feature_map(seed=0)[0, 0]
    cells = show_bins.bin_cells(2, 10, 1.0, show_bins.BINS)
    argmax = torch.zeros(3, 3, dtype=torch.int32)
    with pytest.raises(AssertionError, match="another maximum"):
        show_bins.check(feature_map, cells, cells, torch.zeros(3, 3), argmax)


def test_program(tmp_path):
    out = tmp_path / "bins.png"
    for seed in ["0", "1"]:  # it checks itself
        subprocess.run([sys.executable, PROGRAM, "--out", out, "--seed", seed], check=True)
    assert out.read_bytes().startswith(b"\x89PNG")
