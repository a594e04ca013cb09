"""Fails if the CUDA kernels in a folder of sources are wrong: `python tests/cuda_host/check.py CSRC`.

Checks kernels that are not those of roipool: each has a bug planted in it, which the tests must find.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from cuda_host.build import DEVICE, SMALL_DEVICE, build, load
from hypothesis import Phase, given, settings
from support import (
    DTYPES,
    Backend,
    channels_last,
    check_against_reference,
    check_pyramid_against_reference,
    contiguous,
    features,
    problems,
    pyramid_problems,
    random_rois,
)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("csrc", type=Path)
parser.add_argument("--objects", type=Path, help="where objects and libraries are kept for other runs")
arguments = parser.parse_args()
with tempfile.TemporaryDirectory() as folder:
    library = build(arguments.objects or Path(folder), arguments.csrc)
    backend = Backend("cuda_host", load(library), torch.device("cpu"))


def check_on_devices(x, rois, output_size, spatial_scale):
    for device in [DEVICE, SMALL_DEVICE]:
        backend.ops.set_device(*device)
        check_against_reference(backend, x, rois, output_size, spatial_scale)


@settings(max_examples=150, phases=[Phase.generate], deadline=None, derandomize=True, database=None)
@given(problem=problems())
def check_random_problems(problem):
    x, layout, *arguments = problem
    check_on_devices(layout(x), *arguments)


@settings(max_examples=50, phases=[Phase.generate], deadline=None, derandomize=True, database=None)
@given(problem=pyramid_problems())
def check_random_pyramids(problem):
    for device in [DEVICE, SMALL_DEVICE]:
        backend.ops.set_device(*device)
        check_pyramid_against_reference(backend, *problem)


def check_tiles():
    """Has planes larger than the shared memory of a warp, and more regions than it lists at a time."""
    for layout in [contiguous, channels_last]:
        for dtype in [torch.float32, torch.float16]:
            x = layout(features((2, 5 if layout is contiguous else 17, 60, 40), dtype, seed=0))
            check_on_devices(x, random_rois(200, 2, 60.0, 40.0, seed=0), (7, 7), 1.0)
            wide = layout(features((1, 3, 1, 3000), dtype, seed=0))
            check_on_devices(wide, random_rois(5, 1, 1.0, 3000.0, seed=0), (2, 9), 1.0)


def check_many():
    """Has more regions than are sorted together, and more channels and bins than a small grid takes in one turn."""
    x = features((2, 1, 6, 6), torch.float32, seed=0)
    check_on_devices(x, random_rois(4200, 2, 6.0, 6.0, seed=0), (1, 1), 1.0)
    x = channels_last(features((2, 130, 9, 9), torch.float32, seed=0))
    check_on_devices(x, random_rois(5, 2, 9.0, 9.0, seed=0), (7, 7), 1.0)


def check_nan_payloads():
    for layout in [contiguous, channels_last]:
        x = torch.zeros(1, 3, 5, 6, dtype=torch.int16)
        x[:, :, 1, 2] = 0x7FA1  # a signalling NaN of bfloat16
        check_on_devices(layout(x.view(torch.bfloat16)), torch.tensor([[0.0, 0, 0, 5, 4]]), (2, 2), 1.0)


def check_columns():
    """Has regions wider than the shared memory of a warp, more bins than a tile has, and zeros of both signs."""
    for dtype in DTYPES:
        for kind in ["distinct", "ties", "nonfinite"]:
            wide = features((2, 6, 4, 500), dtype, seed=0, kind=kind)
            check_on_devices(wide, random_rois(12, 2, 4.0, 500.0, seed=0, wild=True), (2, 3), 1.0)
            check_on_devices(wide[:1, :, :3, :30], random_rois(3, 1, 3.0, 30.0, seed=1), (20, 170), 1.0)
    zeros = torch.copysign(torch.zeros(()), features((1, 5, 15, 15), torch.float32, seed=1))
    check_on_devices(zeros, torch.tensor([[0.0, 0, 0, 14, 14]]).expand(60, 5), (2, 2), 1.0)


check_random_problems()
check_tiles()
check_random_pyramids()
check_columns()
check_many()
check_nan_payloads()
