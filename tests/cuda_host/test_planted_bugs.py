"""Host execution must fail when a kernel is wrong: each of these bugs is planted in a copy of the sources."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cuda_host.build import CSRC

CHECK = Path(__file__).parent / "check.py"
KERNEL = Path("cuda") / "register.cu"

# What is replaced, and by what. A pattern must be found just once.
BARRIER = r"\s*__syncthreads\(\);"
BUGS = {
    "off by one: the last row of a bin": (r"y < bin\.row\.hi;", "y < bin.row.hi - 1;"),
    "off by one: the first cell": (r"(int32_t cell = y \* width \+ bin\.column\.lo);", r"\1 + 1;"),
    "off by one: the last cell of a part of a plane": (r"(cell - first_cell < num_cells)", r"\1 - 1"),
    "ties go to the last": (r"(value >)( best\[i\] \|\| value != value)", r"\1=\2"),
    "NaN is skipped": (r"(value > best\[i\]) \|\| value != value", r"\1"),
    "a region of no image reads the first": (r"return image_of\(roi, problem\.num_images\) >= 0 &&", "return"),
    "lanes that meet add at once": (r"__popc\(peers & lanes_below\(\)\);", "0 * peers;"),
    "lanes that meet add in reverse": (r"(__popc\(peers & )(lanes_below\(\)\));", r"\1~\2 - 1;"),
    "the third of lanes that meet is left out": (r"turn\[step\] > now\)\)", "turn[step] > now) || now == 1)"),
    "the steps of a warp out of order": (
        r"(step < kStepsAhead; \+\+step\) \{\s*for \(int )now = 0",
        r"\1now = step == 0",
    ),
    "half-precision sums": (r"(sums\[cell\[step\]\]) \+= (.*);", r"\1 = static_cast<float>(BFloat16(\1 + \2));"),
    "regions out of order": (r"regions\[before\] = k;", "regions[all - 1 - before] = k;"),
    "sums are not cleared": (r"sums\[i\] = 0;", ""),
    "a cell of another part of the plane": (r"is_here \? cell - first_cell : -1", "is_here ? cell : -1"),
    "gradients of another level": (r"problem\.level_of_region\(k\) == level", "level >= 0"),
    "gradients of the first level only": (r"(cudaSuccess && level) < problem\.num_levels", r"\1 < 1"),
    "a bin in the map of another level": (r"maps_of_region<kPyramid>(.*;\s*const Bin bin)", r"maps_of_region<false>\1"),
    "a pack in the map of another level": (
        r"maps_of_region<kPyramid>(.*;\s*for \(int64_t bin)",
        r"maps_of_region<false>\1",
    ),
    "a gather from another level": (
        r"maps_of_region<kPyramid>(.*;\s*const int64_t num_cells)",
        r"maps_of_region<false>\1",
    ),
    "staged: a share of the regions": (r"share = block / (.*);", r"share = 0 * block / \1;"),
    "staged: no more regions than are listed at once": (
        r"while (\(first < problem_\.num_rois\) \{\s*first = list)",
        r"if \1",
    ),
    "staged: regions of no image are left as they are": (r"\(image < 0 && k .*\)\) \{", "false) {"),
    "staged: special values are overlooked": (r"lists_\.special = 1;", "lists_.special = 0;"),
    "staged: negative zeros are not special": (r"\(!kArgmax && value == 0 && std::signbit\(value\)\)", "false"),
    "staged: NaNs are not special": (r"special \|\| value != value \|\|", "special ||"),
    "staged: ties go to the last": (r"(value >)( best\[i\] \|\| \(!kPlain)", r"\1=\2"),
    "staged: NaN is skipped": (r"\(!kPlain && value != value\)", "false"),
    "staged: beyond the rows of a bin": (r"row\.hi - reach(\) \{)", r"y + reach\1"),
    "staged: beyond the columns of a bin": (r"column\.hi - reach(\) \{)", r"x + reach\1"),
    "staged: the last rows of a bin": (r"y \+ reach >= row\.hi", "y + 2 * reach > row.hi"),
    "staged: the last columns of a bin": (r"x \+ reach >= column\.hi", "x + 2 * reach > column.hi"),
    "staged: squares without their last cells": (r"i \+ reach \* width_ \+ reach\}", "i}"),
    "staged: raised too often": (r"reach > 0\) \{", "reach >= 0) {"),
    "staged: only one turn": (r"(block \+= )gridDim\.x(\) \{\s*const int64_t channel)", r"\1num_blocks\2"),
    "staged: the last channel of a group": (r"channel_ \+ c < (problem_\.channels)", r"channel_ + c + 1 < \1"),
    "staged: no barrier before regions are listed": (BARRIER + r"(\s*// before others are listed)", r"\1"),
    "staged: no barrier before the list is read": (BARRIER + r"(\s*num_listed = lists_)", r"\1"),
    "staged: no barrier before counts are read": (r"(atomicAdd\(&lists_\.counts\[reach\], 1\);\s*\})" + BARRIER, r"\1"),
    "staged: a reach of one more": (r"\(2 << reach\) <= side", "(1 << reach) <= side"),
    "staged: the rest is left as it is": (r"end = num_listed;", "begin = num_listed;"),
    "staged: no barrier before cells are read": (r"(copy_planes\(\);\s*\})" + BARRIER, r"\1"),
    "staged: no barrier before cells are raised": (BARRIER + r"(\s*// these cells are read)", r"\1"),
    "staged: no barrier after cells are raised": (r"(cells_\[i\] = raised;\s*\}\s*\})" + BARRIER, r"\1"),
    "staged: no barrier before windows are read": (r"(region \* num_windows\);\s*\}\);\s*\})" + BARRIER, r"\1"),
    "staged: no barrier before windows are replaced": (BARRIER + r"(\s*// before the windows)", r"\1"),
    "only one turn": (r"(block \+= )gridDim\.x(\) \{\s*const int64_t part)", r"\1num_blocks\2"),
    "no barrier before the bins are read": (r"(bins\[bin - tile\.first_run\] = .*;\s*\})" + BARRIER, r"\1"),
    "no barrier before the bins are replaced": (BARRIER + r"(\s*// before the bins)", r"\1"),
    "no barrier before the counts are read": (r"(counts\[warp\] = .*;\s*\})" + BARRIER, r"\1"),
    "no barrier before the regions are read": (r"(regions\[before\] = k;\s*\})" + BARRIER, r"\1"),
    "no barrier before what is staged is read": (r"(\+ s\] = grad;\s*\})" + BARRIER, r"\1"),
    "no barrier before what is staged is replaced": (r"(plan\.slots, plan\.slots\);\s*\})" + BARRIER, r"\1"),
    "no barrier before the sums are cleared": (BARRIER + r"(\s*// before the next turn)", r"\1"),
}


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
