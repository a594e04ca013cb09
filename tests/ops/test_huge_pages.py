"""Large results lie in huge pages, unless the user says no."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Prints the flags of the memory that a large and a small result lie in.
PROGRAM = """
import torch, roipool

def flags_of(tensor):
    middle = tensor.data_ptr() + tensor.nbytes // 2
    for line in open("/proc/self/smaps"):
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            low, high = (int(end, 16) for end in words[0].split("-"))
            here = low <= middle < high
        elif here and words[0] == "VmFlags:":
            return words[1:]

features = torch.rand(1, 64, 10, 10)
boxes = torch.tensor([[0.0, 1, 2, 8, 9]])
small = roipool.roi_pool(features, boxes, 7)
large = roipool.roi_pool(features, boxes.expand(5000, 5).contiguous(), 7)  # 62 MB
assert torch.equal(large[4999], small[0])
print("hg" in flags_of(large), "hg" in flags_of(small))
"""


@pytest.mark.parametrize("setting", [None, "1", "0"])
def test_large_results_ask_for_huge_pages(setting):
    environment = {name: value for name, value in os.environ.items() if name != "ROIPOOL_HUGE_PAGES"}
    if setting is not None:
        environment["ROIPOOL_HUGE_PAGES"] = setting
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True)
    has_huge_pages = Path("/sys/kernel/mm/transparent_hugepage").exists()  # else asking fails, silently
    assert run.stdout.split() == [str(setting != "0" and has_huge_pages), "False"]
