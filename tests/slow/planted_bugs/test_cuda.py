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
from slow.planted_bugs.bugs.cuda import BUGS

CHECK = HERE / "check.py"
KERNEL = Path("cuda") / "roi_pool_kernel.cu"


def check(folder: Path, pattern: str = "", replacement: str = "") -> subprocess.CompletedProcess[str]:
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    if pattern:
        source = (csrc / KERNEL).read_text()
        assert len(re.findall(pattern, source)) == 1, f"there is nothing to plant this bug in: {pattern}"
        (csrc / KERNEL).write_text(re.sub(pattern, replacement, source))
    return subprocess.run([sys.executable, CHECK, csrc], capture_output=True, text=True)


def test_kernels_without_a_bug_pass(tmp_path):
    run = check(tmp_path)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """A run for each bug that a test is selected for, as many at a time as there are cores."""
    selected = [item.callspec.params["bug"] for item in request.session.items if "runs" in item.fixturenames]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {bug: pool.submit(check, tmp_path_factory.mktemp("bug"), *BUGS[bug]) for bug in selected}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("bug", BUGS)
def test_bug_is_found(runs, bug):
    run = runs[bug].result()
    assert run.returncode != 0
    # By results that differ, by threads that wait in vain, or by a crash: not because it did not compile.
    assert "is not, bit for bit," in run.stderr or run.returncode < 0, run.stderr
