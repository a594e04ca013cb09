"""Bugs in the CUDA kernels."""

from typing import NamedTuple


class CudaBug(NamedTuple):
    path: str  # in csrc/
    pattern: str  # a regular expression, found just once
    replacement: str


GEOMETRY, PROBLEM = "geometry.h", "problem.h"
BACKWARD, GATHER, FORWARD_PLAN = "cuda/backward.cu", "cuda/gather.cu", "cuda/forward.h"
DIRECT, REGIONS = "cuda/forward_direct.cuh", "cuda/regions.cuh"
SHARED, SHARED_CELLS = "cuda/forward_shared.cuh", "cuda/forward_shared_cells.cuh"
SHARED_REGIONS = "cuda/forward_shared_regions.cuh"

BARRIER = r"\s*__syncthreads\(\);"

IN_ALL_FORWARDS = {
    "a region of no image reads the first": (PROBLEM, r"return image_of\(roi, problem\.num_images\) >= 0 &&", "return"),
}

IN_DIRECT_FORWARDS = {
    "off by one: the last row of a bin": (DIRECT, r"y < bin\.rows\.hi;", "y < bin.rows.hi - 1;"),
    "off by one: the first cell": (DIRECT, r"(int32_t cell = y \* width \+ bin\.columns\.lo);", r"\1 + 1;"),
    "ties go to the last": (DIRECT, r"replaces\(value, best\[i\]\)", "value >= best[i] || value != value"),
    "NaN is skipped": (DIRECT, r"replaces\(value, best\[i\]\)", "value > best[i]"),
    "a bin in the map of another level": (
        DIRECT,
        r"maps_of_region<kPyramid>(.*;\s*const CellRectangle bin)",
        r"maps_of_region<false>\1",
    ),
    "a vector in the map of another level": (
        DIRECT,
        r"maps_of_region<kPyramid>(.*;\s*for \(int64_t bin_index)",
        r"maps_of_region<false>\1",
    ),
    "no barrier before the bins are read": (DIRECT, r"(bins\[bin_index - .*\] = .*;\s*\})" + BARRIER, r"\1"),
    "no barrier before the bins are replaced": (DIRECT, BARRIER + r"(\s*// before the bins)", r"\1"),
}

IN_FORWARD_FROM_SHARED_MEMORY = {
    "shared: a share of the regions": (SHARED, r"share = block / (.*);", r"share = 0 * block / \1;"),
    "shared: no more regions than are listed at once": (
        SHARED,
        r"while (\(first < problem_\.num_rois\) \{\s*first = list)",
        r"if \1",
    ),
    "shared: regions of no image are left as they are": (
        SHARED_REGIONS,
        r"\(image_of_k < 0 && k .*\)\) \{",
        "false) {",
    ),
    "shared: cells that need the rule are overlooked": (SHARED, r"lists_\.needs_rule = 1;", "lists_.needs_rule = 0;"),
    "shared: negative zeros do not need the rule": (
        SHARED_CELLS,
        r"\(!kArgmax && value == 0 && std::signbit\(value\)\)",
        "false",
    ),
    "shared: NaNs do not need the rule": (SHARED_CELLS, r"needs_rule \|\| value != value \|\|", "needs_rule ||"),
    "shared: ties go to the last": (SHARED, r"value > best\[i\] : replaces", "value >= best[i] : replaces"),
    "shared: NaN is skipped": (SHARED, r"replaces\(value, best\[i\]\)\)", "value > best[i])"),
    "shared: beyond the rows of a bin": (SHARED, r"rows\.hi - side(\) \{)", r"y + side\1"),
    "shared: beyond the columns of a bin": (SHARED, r"columns\.hi - side(\) \{)", r"x + side\1"),
    "shared: the last rows of a bin": (SHARED, r"y \+ side >= rows\.hi", "y + 2 * side > rows.hi"),
    "shared: the last columns of a bin": (SHARED, r"x \+ side >= columns\.hi", "x + 2 * side > columns.hi"),
    "shared: squares without their last cells": (SHARED_CELLS, r"i \+ side \* width \+ side\}", "i}"),
    "shared: squares merged too often": (SHARED, r"num_merges > 0\) \{", "num_merges >= 0) {"),
    "shared: only one turn": (SHARED, r"(block \+= )gridDim\.x", r"\1num_blocks"),
    "shared: the last channel of a group": (
        SHARED,
        r"first_channel_ \+ c < (problem_\.num_channels)",
        r"first_channel_ + c + 1 < \1",
    ),
    "shared: no barrier before regions are listed": (
        SHARED_REGIONS,
        BARRIER + r"(\s*// before others are listed)",
        r"\1",
    ),
    "shared: no barrier before the list is read": (SHARED_REGIONS, BARRIER + r"(\s*num_listed = lists)", r"\1"),
    "shared: no barrier before counts are read": (
        SHARED_REGIONS,
        r"(atomicAdd\(&lists\.num_regions\[num_merges\], 1\);\s*\})" + BARRIER,
        r"\1",
    ),
    "shared: one merge more": (SHARED_REGIONS, r"\(2 << num_merges\) <= side", "(1 << num_merges) <= side"),
    "shared: the rest is left as it is": (SHARED, r"end = num_listed;", "begin = num_listed;"),
    "shared: no barrier before cells are read": (SHARED, r"(copy_group\(\);\s*\})" + BARRIER, r"\1"),
    "shared: no barrier before cells are merged": (SHARED_CELLS, BARRIER + r"(\s*// these cells are read)", r"\1"),
    "shared: no barrier after cells are merged": (
        SHARED_CELLS,
        r"(cells\[i\] = merged;\s*\}\s*\})" + BARRIER,
        r"\1",
    ),
    "shared: no barrier before ranges are read": (
        SHARED,
        r"(region_index \* num_ranges\);\s*\}\);\s*\})" + BARRIER,
        r"\1",
    ),
    "shared: no barrier before ranges are replaced": (SHARED, BARRIER + r"(\s*// before the ranges)", r"\1"),
}

IN_BACKWARD = {
    "off by one: the last cell of a part of a plane": (BACKWARD, r"(part\.num_cells)(\);\s*memory)", r"\1 - 1\2"),
    "lanes that meet add at once": (BACKWARD, r"__popc\(peers & lanes_below\(\)\);", "0 * peers;"),
    "lanes that meet add in reverse": (BACKWARD, r"(__popc\(peers & )(lanes_below\(\)\));", r"\1~\2 - 1;"),
    "the third of lanes that meet is left out": (BACKWARD, r"turn\[step\] > now\)\)", "turn[step] > now) || now == 1)"),
    "the steps of a warp out of order": (
        BACKWARD,
        r"(step < kStepsAhead; \+\+step\) \{\s*for \(int )now = 0",
        r"\1now = step == 0",
    ),
    "half-precision sums": (
        BACKWARD,
        r"(sums\[cell\[step\]\]) \+= (.*);",
        r"\1 = static_cast<float>(BFloat16(\1 + \2));",
    ),
    "regions out of order": (BACKWARD, r"starts\[num_before\] = k", "starts[num_regions - 1 - num_before] = k"),
    "sums are not cleared": (BACKWARD, r"memory\.sums\[i\] = 0;", ""),
    "a cell of another part of the plane": (
        BACKWARD,
        r"is_here \? cell - part\.first_cell : -1",
        "is_here ? cell : -1",
    ),
    "gradients of another level": (BACKWARD, r"problem\.level_of_region\(k\) == level", "level >= 0"),
    "gradients of the first level only": (BACKWARD, r"(cudaSuccess && level) < problem\.num_levels", r"\1 < 1"),
    "only one turn": (BACKWARD, r"(block \+= )gridDim\.x", r"\1num_blocks"),
    "no barrier before the counts are read": (BACKWARD, r"(counts\[warp\(\)\] = .*;\s*\})" + BARRIER, r"\1"),
    "no barrier before the starts are read": (BACKWARD, r"(starts\[num_before\] = .*;\s*\})" + BARRIER, r"\1"),
    "no barrier before a batch is read": (BACKWARD, r"(copy_batch\(.*\);)" + BARRIER, r"\1"),
    "no barrier before a batch is replaced": (
        BACKWARD,
        r"(plan\.batch_bins, plan\.batch_bins\);\s*\})" + BARRIER,
        r"\1",
    ),
    "no barrier before the sums are cleared": (BACKWARD, BARRIER + r"(\s*// before the next turn)", r"\1"),
}

IN_GATHER = {
    "a gather from another level": (GATHER, r"maps_of_region<kPyramid>", "maps_of_region<false>"),
}

BUGS = {
    name: CudaBug(*bug)
    for bugs in [IN_ALL_FORWARDS, IN_DIRECT_FORWARDS, IN_FORWARD_FROM_SHARED_MEMORY, IN_BACKWARD, IN_GATHER]
    for name, bug in bugs.items()
}
