"""Host execution must fail when a kernel is wrong: each of these bugs is planted in a copy of the sources."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_host.build import CSRC

CHECK = Path(__file__).parent / "check.py"
KERNEL = Path("cuda") / "roi_pool_kernel.cu"

# What is replaced, and by what. A pattern must be found just once.
BARRIER = r"\s*__syncthreads\(\);"
BUGS = {
    "off by one: the last row of a bin": (r"y < bin\.row\.hi;", "y < bin.row.hi - 1;"),
    "off by one: the first cell": (r"(int32_t cell = y \* width \+ bin\.column\.lo);", r"\1 + 1;"),
    "off by one: the last cell of a part of a plane": (r"(cell - first_cell < num_cells)", r"\1 - 1"),
    "ties go to the last": (r"value > best\[i\]", "value >= best[i]"),
    "NaN is skipped": (r" \|\| value != value", ""),
    "a region of no image reads the first": (r"if \(image_of\(roi, problem\.num_images\) < 0 \|\|", "if ("),
    "lanes that meet add at once": (r"int turn = .*;", "int turn = 0 * peers;"),
    "lanes that meet add in reverse": (r"int turn = .*;", "int turn = __popc(peers & ~lanes_below()) - 1;"),
    "half-precision sums": (r"(sums\[cell\]) \+= grad;", r"\1 = static_cast<float>(BFloat16(\1 + grad));"),
    "regions out of order": (r"regions\[before\] = k;", "regions[all - 1 - before] = k;"),
    "sums are not cleared": (r"sums\[i\] = 0;", ""),
    "a cell of another part of the plane": (r"is_here \? cell - first_cell : -1", "is_here ? cell : -1"),
    "gradients of another level": (r"problem\.level_of_region\(k\) == level", "level >= 0"),
    "gradients of the first level only": (r"(level) < problem\.num_levels(; \+\+level\) \{\s*const S)", r"\1 < 1\2"),
    "a bin in the map of another level": (r"maps_of_region<kPyramid>(.*;\s*const Bin bin)", r"maps_of_region<false>\1"),
    "a pack in the map of another level": (
        r"maps_of_region<kPyramid>(.*;\s*for \(int64_t bin)",
        r"maps_of_region<false>\1",
    ),
    "a gather from another level": (
        r"maps_of_region<kPyramid>(.*;\s*const int64_t num_cells)",
        r"maps_of_region<false>\1",
    ),
    "only one turn": (r"block < num_blocks; block \+= gridDim\.x", "block < num_blocks; block += num_blocks"),
    "no barrier before the bins are read": (r"(bins\[bin - tile\.first_run\] = .*;\s*\})" + BARRIER, r"\1"),
    "no barrier before the bins are replaced": (BARRIER + r"(\s*// before the bins)", r"\1"),
    "no barrier before the counts are read": (r"(counts\[warp\] = .*;\s*\})" + BARRIER, r"\1"),
    "no barrier before the regions are read": (r"(regions\[before\] = k;\s*\})" + BARRIER, r"\1"),
    "no barrier before what is staged is read": (r"(\+ s\] = grad;\s*\})" + BARRIER, r"\1"),
    "no barrier before what is staged is replaced": (r"(grads\[i\]\);\s*\}\s*\})" + BARRIER, r"\1"),
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


@pytest.mark.parametrize("bug", BUGS)
def test_bug_is_found(tmp_path, bug):
    run = check(tmp_path, *BUGS[bug])
    assert run.returncode != 0
    # By results that differ, by threads that wait in vain, or by a crash: not because it did not compile.
    assert "is not, bit for bit," in run.stderr or run.returncode < 0, run.stderr
