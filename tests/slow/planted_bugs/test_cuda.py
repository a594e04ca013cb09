"""Host execution must fail when a kernel is wrong: each of these bugs is planted in a copy of the sources."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cuda_host.build import CSRC, HERE
from slow.planted_bugs.bugs.cuda import BUGS, CudaBug

CHECK = HERE / "check.py"


def check(folder: Path, objects: Path, change: CudaBug | None = None) -> subprocess.CompletedProcess[str]:
    """Checks a copy of the sources in `folder`; what a change leaves as it is was compiled to `objects` before."""
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    if change:
        source = (csrc / change.path).read_text()
        assert len(re.findall(change.pattern, source)) == 1, f"there is no one place for this bug: {change}"
        (csrc / change.path).write_text(re.sub(change.pattern, change.replacement, source))
    return subprocess.run([sys.executable, CHECK, csrc, "--objects", objects], capture_output=True, text=True)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def correct_run(objects, tmp_path_factory):
    return check(tmp_path_factory.mktemp("correct"), objects)


def test_kernels_without_a_bug_pass(correct_run):
    assert correct_run.returncode == 0, correct_run.stderr


def test_few_bins_are_listed_together_where_more_cannot_be_counted(correct_run, objects, tmp_path):
    """A limit of 20 bins has small problems go the way of those that have more bins than 32 bits count."""
    few = CudaBug("cuda/backward.h", r"kMostListedBins = UINT32_MAX - kBatchGradients;", "kMostListedBins = 20;")
    run = check(tmp_path, objects, few)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def runs(request, correct_run, objects, tmp_path_factory):
    """A run for each bug that a test is selected for, as many at a time as there are cores."""
    selected = [item.callspec.params["bug"] for item in request.session.items if "runs" in item.fixturenames]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {bug: pool.submit(check, tmp_path_factory.mktemp("bug"), objects, BUGS[bug]) for bug in selected}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("bug", BUGS)
def test_bug_is_found(runs, bug):
    run = runs[bug].result()
    assert run.returncode != 0
    # By results that differ, by threads that wait in vain, or by a crash: not because it did not compile.
    assert "is not, bit for bit," in run.stderr or run.returncode < 0, run.stderr
