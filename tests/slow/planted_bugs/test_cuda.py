"""Host execution must fail when a kernel is wrong: each of these bugs is planted in a copy of the sources."""

import os
import random
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cuda_host.build import CSRC, HERE, build
from slow.planted_bugs.bugs.cuda import BUGS, CudaBug

CHECK = HERE / "check.py"

# Changes that leave the kernels right. With smaller limits, small problems go the ways that are for large ones.
HARMLESS = {
    "no change": None,
    "tiles of few cells": CudaBug("cuda/backward.h", r"lanes_are_channels \? 64 : 512;", "8;"),
    "few bins are listed together": CudaBug("cuda/backward.h", r"kMaxRunBins = 1 << 20;", "kMaxRunBins = 10;"),
    "few regions are sorted together": CudaBug("cuda/regions.h", r"kSegmentRegions = 4096;", "kSegmentRegions = 32;"),
    "few columns are pooled together": CudaBug("cuda/forward.h", r"kMaxTileColumns = 160;", "kMaxTileColumns = 5;"),
}
CHANGES = HARMLESS | BUGS

# ROIPOOL_CUDA_BUGS="NUMBER SEED" asks for so many of the bugs, at random.
number, _, seed = os.environ.get("ROIPOOL_CUDA_BUGS", f"{len(BUGS)}").partition(" ")
PLANTED = random.Random(seed).sample(sorted(BUGS), int(number))


def check(folder: Path, objects: Path, change: CudaBug | None) -> subprocess.CompletedProcess[str]:
    """Checks a copy of the sources in `folder`; compiles only what the change changes, if the rest is in `objects`."""
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    if change:
        source = (csrc / change.path).read_text()
        assert len(re.findall(change.pattern, source)) == 1, f"there is no one place for this bug: {change}"
        (csrc / change.path).write_text(re.sub(change.pattern, change.replacement, source))
    return subprocess.run([sys.executable, CHECK, csrc, "--objects", objects], capture_output=True, text=True)


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """A run for each change that a test is selected for, as many at a time as there are cores."""
    selected = [item.callspec.params["change"] for item in request.session.items if "runs" in item.fixturenames]
    objects = tmp_path_factory.mktemp("objects")
    build(objects)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            change: pool.submit(check, tmp_path_factory.mktemp("change"), objects, CHANGES[change])
            for change in selected
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("change", HARMLESS)
def test_correct_kernels_pass(runs, change):
    run = runs[change].result()
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("change", PLANTED)
def test_bug_is_found(runs, change):
    run = runs[change].result()
    assert run.returncode != 0
    # By results that differ, by threads that wait in vain, or by a crash: not because it did not compile.
    assert "is not, bit for bit," in run.stderr or run.returncode < 0, run.stderr
