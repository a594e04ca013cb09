"""Plants bugs in a copy of roipool, one at a time, and says which test finds each: `python tests/planted_bugs.py`.

A bug that no test finds is a test to write, or no bug at all: then another takes its place. The library is built anew
for each bug in csrc/, so all of it takes hours, and CI leaves it out: what was found is in planted_bugs.md. The CUDA
kernels have bugs of their own, in cuda_host/test_planted_bugs.py, which CI does run.
"""

import argparse
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

# Builds and tests run in forks of this process, which need not import again what takes long.
import numpy  # noqa: F401
import onnxruntime  # noqa: F401
import pytest
import torch._dynamo
import torch.export
import torch.fx.experimental.symbolic_shapes
import torch.utils.cpp_extension  # noqa: F401

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".hypothesis"
)

# Which tests should find a bug, the quickest first.
GOLDEN, KERNEL, MULTISCALE = ("tests/test_golden.py", "tests/test_roi_pool_kernel.py", "tests/test_multiscale.py")
FUNCTIONAL, LIBRARY, OUT = "tests/test_functional.py", "tests/test_library.py", "tests/test_out.py"
AUTOGRAD, FUNC, COMPILE = "tests/test_autograd.py", "tests/test_func.py", "tests/test_compile.py"
PYTORCH, MODULES, ONNX = "tests/test_pytorch.py", "tests/test_modules.py", "tests/test_onnx.py"
MXNET, REFERENCE = "tests/test_mxnet.py", "tests/test_reference.py"

KERNELS = (GOLDEN, KERNEL)
LEVELS = (f"{MULTISCALE}::test_levels_are_those_of_torchvision", f"{MULTISCALE}::test_level_of_a_box", MULTISCALE)
CHECKS = (f"{LIBRARY}::test_misuse_is_one_clear_error", f"{MULTISCALE}::test_misuse_is_one_clear_error")
FORMATS = (f"{LIBRARY}::test_fake_and_native_strides_agree", OUT, KERNEL)
DERIVATIVES = (AUTOGRAD, FUNC, MULTISCALE, PYTORCH)
PARTS = f"{KERNEL}::test_regions_that_cover_little_of_the_maps"
ARGUMENTS = (FUNCTIONAL, f"{MULTISCALE}::test_misuse_of_the_function")
SUBCLASSES = (f"{PYTORCH}::test_subclass_of_tensor", f"{MULTISCALE}::test_subclass_of_tensor")


class Bug(NamedTuple):
    name: str
    path: str
    pattern: str  # found just once
    replacement: str
    tests: tuple[str, ...]
    on_cuda_host: bool = False  # whether the CUDA kernels, executed on the host, have it as well: found there, too


GEOMETRY = "csrc/geometry.h"
KERNEL_CPP = "csrc/cpu/register.cpp"
LANES = "csrc/cpu/simd/loops.h"
LOOPS = "csrc/cpu/simd/target.h"
OP = "csrc/ops/operators.h"
FAKE, FUNCTIONS, VMAP = "roipool/_library.py", "roipool/autograd.py", "roipool/vmap.py"
CALL, MODULE = "roipool/functional.py", "roipool/modules.py"
MXNET_PY, ONNX_PY, REFERENCE_PY = "roipool/mxnet.py", "roipool/onnx.py", "roipool/reference.py"

BUGS = [
    # ---- Coordinates.
    Bug("halves are rounded to even", GEOMETRY, "std::round(clamped)", "std::nearbyint(clamped)", KERNELS, True),
    Bug("halves are rounded up", GEOMETRY, "std::round(clamped)", "std::floor(clamped + T(0.5))", KERNELS, True),
    Bug(
        "a region that ends just before its start has no cell", GEOMETRY, "size < 1 ? 1", "size < 0 ? 1", KERNELS, True
    ),
    Bug(
        "a bin's start is rounded once more",
        GEOMETRY,
        "static_cast<int32_t>(std::floor(static_cast<T>(p) * bin)) + start",
        "static_cast<int32_t>(std::floor(static_cast<T>(p) * bin + start))",
        KERNELS,
    ),
    Bug(
        "a bin's end is rounded once more",
        GEOMETRY,
        "static_cast<int32_t>(std::ceil(static_cast<T>(p + 1) * bin)) + start",
        "static_cast<int32_t>(std::ceil(static_cast<T>(p + 1) * bin + start))",
        KERNELS,
    ),
    Bug(
        "a bin's end is exact",
        GEOMETRY,
        "std::ceil(static_cast<T>(p + 1) * bin)",
        "std::ceil(static_cast<double>(p + 1) * bin)",
        KERNELS,
    ),
    Bug(
        "a division by a reciprocal",
        GEOMETRY,
        "(size < 1 ? 1 : size) / static_cast<T>(num_bins)",
        "(size < 1 ? 1 : size) * (T(1) / static_cast<T>(num_bins))",
        KERNELS,
    ),
    Bug(
        "an infinite coordinate is clamped",
        GEOMETRY,
        "!std::isfinite(coordinate) || std::isnan(scaled)",
        "std::isnan(scaled)",
        KERNELS,
    ),
    Bug(
        "a product that overflows is no coordinate",
        GEOMETRY,
        "!std::isfinite(coordinate) || std::isnan(scaled)",
        "!std::isfinite(scaled)",
        (f"{FUNCTIONAL}::test_unusual_scales", *KERNELS),
    ),
    Bug(
        "coordinates are clamped to 2^28",
        GEOMETRY,
        "T(536870912)",
        "T(268435456)",
        (f"{KERNEL}::test_scaled_coordinates_are_clamped_to_2_to_the_29", *KERNELS),
    ),
    Bug(
        "batch indices are rounded down",
        GEOMETRY,
        "const int64_t image = static_cast<int64_t>(index);",
        "const int64_t image = static_cast<int64_t>(std::floor(index));",
        KERNELS,
    ),
    Bug("an image too many", GEOMETRY, "image < num_images ?", "image <= num_images ?", KERNELS),
    Bug(
        "a size on a bound belongs below",
        GEOMETRY,
        "size >= static_cast<T>",
        "size > static_cast<T>",
        LEVELS,
    ),
    Bug(
        "a region of no area is the largest",
        GEOMETRY,
        "&& size >= static_cast<T>(bounds[level])",
        "&& !(size < static_cast<T>(bounds[level]))",
        LEVELS,
    ),
    Bug("bounds without 1e-6", GEOMETRY, " + static_cast<T>(1e-6)", "", LEVELS),
    Bug(
        "a bound that is hit exactly is missed",
        GEOMETRY,
        "static_cast<T>(1e-6) >= static_cast<T>(level)",
        "static_cast<T>(1e-6) > static_cast<T>(level)",
        LEVELS,
    ),
    Bug(
        "bounds of float64 for float32 boxes",
        OP,
        "problem.rois_are_double ? level_bound<double> : level_bound<float>",
        "level_bound<double>",
        LEVELS,
    ),
    Bug("the first level is rounded down", OP, "std::nearbyint(-std::log2(", "std::floor(-std::log2(", LEVELS),
    # ---- Bins, cell by cell.
    Bug(
        "the last of equal values, cell by cell",
        KERNEL_CPP,
        "if (value > best || value != value)",
        "if (value >= best || value != value)",
        KERNELS,
    ),
    Bug(
        "NaN is skipped, cell by cell", KERNEL_CPP, "if (value > best || value != value)", "if (value > best)", KERNELS
    ),
    Bug(
        "a NaN is replaced, cell by cell",
        KERNEL_CPP,
        "if (value > best || value != value)",
        "if (!(value <= best))",
        KERNELS,
    ),
    Bug(
        "a region of no image is cleared only by a thread that begins with it",
        KERNEL_CPP,
        "} else if (i == 0) {",
        "} else if (task == begin) {",
        KERNELS,
    ),
    # ---- Blocks of channels.
    Bug(
        "cells of half precision are numbered in 16 bits, however many",
        KERNEL_CPP,
        "return bins.span() <= std::numeric_limits<cell_t>::max();",
        "return bins.span() >= 0;",
        (f"{KERNEL}::test_bins_of_more_cells_than_16_bits_can_number", *KERNELS),
    ),
    Bug(
        "a bin of one cell too many for 16 bits",
        KERNEL_CPP,
        "return bins.span() <= std::numeric_limits<cell_t>::max();",
        "return bins.span() - 1 <= std::numeric_limits<cell_t>::max();",
        (f"{KERNEL}::test_bins_of_more_cells_than_16_bits_can_number", *KERNELS),
    ),
    Bug(
        "the reach of the tallest bin",
        KERNEL_CPP,
        "std::min<int64_t>(least, row.hi - row.lo)",
        "std::max<int64_t>(least, row.hi - row.lo)",
        (f"{KERNEL}::test_bins_of_many_rows", *KERNELS),
    ),
    Bug(
        "the reach of the first image",
        KERNEL_CPP,
        "num_images == 0 ? 1 : *std::max_element(most_reach_.begin(), most_reach_.end())",
        "num_images == 0 ? 1 : most_reach_[0]",
        (f"{KERNEL}::test_bins_of_many_rows_in_one_image_of_two", *KERNELS),
    ),
    Bug(
        "a block is pooled as if raised, where it is not",
        KERNEL_CPP,
        "return packed.contents.orderless ?",
        "return packed.contents.plain ?",
        (f"{KERNEL}::test_bins_of_many_rows", *KERNELS),
    ),
    Bug(
        "the last column is not raised",
        KERNEL_CPP,
        "raise(packed, packed.reach, 0, problem_.maps.width)",
        "raise(packed, packed.reach, 0, problem_.maps.width - 1)",
        (f"{KERNEL}::test_bins_of_many_rows", *KERNELS),
    ),
    Bug(
        "the last row is not raised",
        LOOPS,
        "y + reach <= height",
        "y + reach < height",
        (f"{KERNEL}::test_bins_of_many_rows", *KERNELS),
    ),
    Bug(
        "negative zeros have an order",
        LOOPS,
        "contents.orderless &= special[i] == 0 && negative_zero[i] == 0",
        "contents.orderless &= special[i] == 0",
        (f"{KERNEL}::test_bins_of_many_rows", *KERNELS),
    ),
    Bug(
        "the rest of a split that another thread began",
        KERNEL_CPP,
        "int64_t split = begin / num_regions;",
        "int64_t split = divide_up(begin, num_regions);",
        (f"{KERNEL}::test_same_bits_for_any_number_of_threads", *KERNELS),
    ),
    Bug(
        "regions of no image are left as they are, by regions",
        KERNEL_CPP,
        "pool_by_regions(packed, reach);\n    }\n    clear(regions);",
        "pool_by_regions(packed, reach);\n    }",
        KERNELS,
    ),
    Bug(
        "a region that lies nowhere is left as it is",
        KERNEL_CPP,
        "a coordinate is not finite\n        if (block == 0) {",
        "a coordinate is not finite\n        if (block == num_blocks_) {",
        KERNELS,
    ),
    Bug(
        "the regions before the first of a block are left as they are",
        KERNEL_CPP,
        "pool(worker, first, start, image, block, packed);",
        "",
        KERNELS,
    ),
    Bug(
        "a region alone that lies nowhere is left as it is",
        KERNEL_CPP,
        "} else if (i == 0) {",
        "} else if (i == shares) {",
        KERNELS,
    ),
    Bug(
        "only the first block of a region too large is pooled",
        KERNEL_CPP,
        "c < block * kBlock + channels_of(block); ++c",
        "c < channels_of(block); ++c",
        (f"{KERNEL}::test_bins_of_more_cells_than_16_bits_can_number", *KERNELS),
    ),
    Bug(
        "the NaN of a single channel is not noticed",
        LOOPS,
        "          special |= is_special<Kind>(rows[i]);",
        "          if (i > 0) special |= is_special<Kind>(rows[i]);",
        (f"{KERNEL}::test_a_single_channel_with_what_is_special", *KERNELS),
    ),
    Bug(
        "the NaN of a last channel is not noticed in channels_last",
        LOOPS,
        "        special |= is_special<Kind>(lanes);",
        "        if (c + kCount <= planes.channels) special |= is_special<Kind>(lanes);",
        (f"{KERNEL}::test_a_single_channel_with_what_is_special", *KERNELS),
    ),
    Bug(
        "the negative zero of a single channel is not noticed",
        LOOPS,
        "          negative_zero |= is_negative_zero<Kind>(rows[i]);",
        "          if (i > 0) negative_zero |= is_negative_zero<Kind>(rows[i]);",
        (f"{KERNEL}::test_a_single_channel_with_what_is_special", *KERNELS),
    ),
    Bug(
        "a negative NaN of half precision is the least number",
        LOOPS,
        "is_nan<Kind>(best) ? (best & 0) + 0x7fff : best - (best == -1)",
        "(best > Kind::kInfinity) ? (best & 0) + 0x7fff : best - (best == -1)",
        KERNELS,
    ),
    Bug(
        "the negative NaN of half precision next to infinity is a number",
        LOOPS,
        "kMinusInfinity = ~Kind::kInfinity;",
        "kMinusInfinity = ~Kind::kInfinity - 1;",
        (f"{KERNEL}::test_nan_payloads_and_signed_zeros_survive", *KERNELS),
    ),
    Bug(
        "the zeros of half precision differ",
        LOOPS,
        "(best & 0) + 0x7fff : best - (best == -1);",
        "(best & 0) + 0x7fff : best;",
        KERNELS,
    ),
    Bug(
        "three vectors are pooled as four",
        LOOPS,
        "c += kCount * (vectors >= 4 ? 4 : vectors >= 2 ? 2 : 1);",
        "c += kCount * (vectors >= 3 ? 4 : vectors >= 2 ? 2 : 1);",
        (f"{KERNEL}::test_whole_map_is_adaptive_max_pool2d", *KERNELS),
    ),
    Bug(
        "half of the last argmax of half precision in channels_last",
        LOOPS,
        "__builtin_memcpy(to, &converted, (planes.channels - c) * sizeof(out_t));",
        "__builtin_memcpy(to, &converted, (planes.channels - c) * sizeof(lane_t));",
        (f"{KERNEL}::test_every_dtype_and_layout", *KERNELS),
    ),
    Bug(
        "half of the argmax of half precision, of few bins",
        LOOPS,
        "kWhole ? sizeof converted : bins * sizeof(out_t)",
        "kWhole ? sizeof converted : bins * sizeof(lane_t)",
        (f"{KERNEL}::test_every_dtype_and_layout", *KERNELS),
    ),
    Bug(
        "the first cells of other bins",
        LOOPS,
        "return convert(lanes, first);",
        "return convert(lanes, bin);",
        (f"{KERNEL}::test_every_dtype_and_layout", *KERNELS),
    ),
    Bug(
        "the last bytes are not streamed",
        KERNEL_CPP,
        "std::memcpy(to + i, from + i, size - i);",
        "std::memcpy(to + i, from + i, (size - i) & ~int64_t{3});",
        (f"{KERNEL}::test_results_too_large_for_the_caches", *KERNELS),
    ),
    Bug(
        "a tile twice as large is staged",
        KERNEL_CPP,
        "size > static_cast<int64_t>(sizeof buffer_)",
        "size > 2 * static_cast<int64_t>(sizeof buffer_)",
        (f"{KERNEL}::test_many_bins", *KERNELS),
    ),
    # ---- Rows.
    Bug(
        "a plane with a NaN is pooled by rows",
        KERNEL_CPP,
        "        if (prepared.plain) {",
        "        if (prepared.plain || (c == 0 && prepared.cells != nullptr)) {",
        (f"{KERNEL}::test_a_single_channel_with_what_is_special", *KERNELS),
    ),
    Bug(
        "a plane with negative zeros is pooled by rows",
        LOOPS,
        "special |= is_nan<Kind>(lanes) | is_negative_zero<Kind>(lanes);",
        "special |= is_nan<Kind>(lanes);",
        (f"{KERNEL}::test_a_single_channel_with_what_is_special", *KERNELS),
    ),
    Bug(
        "the last cell of a plane is not looked at",
        LOOPS,
        "load_some<V>(cells + i, num_cells - i)",
        "load_some<V>(cells + i, num_cells - i - 1)",
        (f"{KERNEL}::test_a_single_channel_with_what_is_special", *KERNELS),
    ),
    Bug(
        "of equal values the leftmost, by rows",
        LOOPS,
        "(value > best) | ((value == best) & (cell < best_cell))",
        "value > best",
        (f"{KERNEL}::test_many_bins", *KERNELS),
    ),
    Bug(
        "the first bins again, by rows",
        LOOPS,
        "const Window row = grid.rows[p + i];",
        "const Window row = grid.rows[i];",
        (f"{KERNEL}::test_many_bins", *KERNELS),
    ),
    Bug(
        "the first empty bins again, by rows",
        LOOPS,
        "const bool empty = grid.rows[p + i].empty();",
        "const bool empty = grid.rows[i].empty();",
        (f"{KERNEL}::test_many_bins", *KERNELS),
    ),
    # ---- Regions that are prepared for themselves alone.
    Bug(
        "cells are numbered by the rows of a part",
        LOOPS,
        "static_cast<cell_t>(y * block.map_width + x)",
        "static_cast<cell_t>(y * width + x)",
        (PARTS, *KERNELS),
    ),
    Bug(
        "a part begins at the top of the map",
        LOOPS,
        "(row.lo - block.top) * width",
        "row.lo * width",
        (PARTS, *KERNELS),
    ),
    Bug(
        "a part ends with the map, wherever it begins",
        KERNEL_CPP,
        "part.columns.lo = std::min<int32_t>(part.columns.lo, problem.maps.width - width);",
        "part.columns.lo = problem.maps.width - width;",
        (PARTS, *KERNELS),
    ),
    Bug(
        "the last row of a part says what is special",
        KERNEL_CPP,
        "packed.contents.plain &= contents.plain;",
        "packed.contents.plain = contents.plain;",
        (f"{KERNEL}::test_what_is_special_is_in_one_row_of_a_region", *KERNELS),
    ),
    Bug(
        "the last row of a part says what is special, by rows",
        KERNEL_CPP,
        "prepared.plain &= loops_.is_plain(",
        "prepared.plain = loops_.is_plain(",
        (f"{KERNEL}::test_what_is_special_is_in_one_row_of_a_region", *KERNELS),
    ),
    Bug(
        "cells of a copied part are counted from its first",
        KERNEL_CPP,
        "cell < 0 ? -1 : cell + first_cell;",
        "cell;",
        (PARTS, *KERNELS),
    ),
    Bug(
        "the cells of empty bins are counted from the first of a copied part",
        KERNEL_CPP,
        "cell < 0 ? -1 : cell + first_cell;",
        "cell + first_cell;",
        (PARTS, *KERNELS),
    ),
    Bug(
        "a region alone without a cell is left as it is",
        KERNEL_CPP,
        "          if (block == 0) {\n            clear_region",
        "          if (block == num_blocks_) {\n            clear_region",
        (PARTS, *KERNELS),
    ),
    # ---- Backward and gather.
    Bug(
        "regions are summed in descending order",
        KERNEL_CPP,
        "for (int64_t i = first; i < last; ++i) {\n      const int64_t k = problem.regions[i];",
        "for (int64_t i = last - 1; i >= first; --i) {\n      const int64_t k = problem.regions[i];",
        KERNELS,
    ),
    Bug(
        "a negative cell gets a gradient",
        KERNEL_CPP,
        "if (cell >= 0 && cell < block.num_cells) {",
        "if (cell < block.num_cells) {",
        (f"{KERNEL}::test_argmax_that_is_no_cell_is_ignored", *KERNELS),
    ),
    Bug(
        "the first cell of the next part gets a gradient",
        KERNEL_CPP,
        "if (cell >= 0 && cell < block.num_cells) {",
        "if (cell >= 0 && cell <= block.num_cells) {",
        (f"{KERNEL}::test_argmax_that_is_no_cell_is_ignored", *KERNELS),
    ),
    Bug(
        "cells left over by the parts of a plane",
        KERNEL_CPP,
        "const int64_t most_cells = divide_up(maps.num_cells(), num_parts);",
        "const int64_t most_cells = std::max<int64_t>(1, maps.num_cells() / num_parts);",
        (f"{KERNEL}::test_same_bits_for_any_number_of_threads", *KERNELS),
    ),
    Bug(
        "the last sum of half precision is not cleared",
        KERNEL_CPP,
        "std::fill_n(buffer.get(), num_runs * run_length, sum_t(0));",
        "std::fill_n(buffer.get(), num_runs * run_length - 1, sum_t(0));",
        (f"{KERNEL}::test_every_dtype_and_layout", *KERNELS),
    ),
    Bug(
        "sums of float16 are rounded half up",
        LOOPS,
        "0xfff + ((magnitude >> 13) & 1)",
        "0x1000",
        (f"{KERNEL}::test_half_precision_sums_are_rounded_to_nearest_even", *KERNELS),
    ),
    Bug(
        "sums of bfloat16 are rounded half up",
        LOOPS,
        "0x7fff + ((input.bits >> 16) & 1)",
        "0x8000",
        (f"{KERNEL}::test_half_precision_sums_are_rounded_to_nearest_even", *KERNELS),
    ),
    Bug(
        "infinite sums of float16 are NaN",
        LOOPS,
        "magnitude > 0x7f800000 ? 0x7e00",
        "magnitude >= 0x7f800000 ? 0x7e00",
        (f"{KERNEL}::test_every_half_precision_gradient_passes_through", *KERNELS),
    ),
    Bug(
        "NaN sums of bfloat16 are infinite",
        LOOPS,
        "value != value ? 0x7fc0 : rounded",
        "value != value ? 0x7f80 : rounded",
        (f"{KERNEL}::test_every_half_precision_gradient_passes_through", *KERNELS),
    ),
    Bug(
        "what is cleared first begins a cell late",
        KERNEL_CPP,
        "std::fill(grad_input + begin, ",
        "std::fill(grad_input + begin + 1, ",
        (f"{KERNEL}::test_gradient_of_few_regions", *KERNELS),
    ),
    Bug(
        "the cells of few channels are not cleared but for one",
        KERNEL_CPP,
        "? block.num_cells * block.channels\n",
        "? block.channels\n",
        (f"{KERNEL}::test_gradient_of_few_regions", *KERNELS),
    ),
    Bug(
        "the last bin of few channels gives no gradient",
        KERNEL_CPP,
        "num_bins - (kChannelsLast ? run * bins_of_run : 0)",
        "num_bins - (kChannelsLast ? run * bins_of_run + 1 : 0)",
        KERNELS,
    ),
    Bug(
        "a cell beyond the map is gathered",
        KERNEL_CPP,
        "return cell >= 0 && cell < num_cells;",
        "return cell >= 0 && cell <= num_cells;",
        (f"{KERNEL}::test_argmax_that_is_no_cell_is_ignored", *KERNELS),
    ),
    Bug(
        "the first level is gathered from",
        KERNEL_CPP,
        "const FeatureMaps& maps = problem.levels[problem.level_of_region(k)];",
        "const FeatureMaps& maps = problem.levels[0];",
        (f"{MULTISCALE}::test_every_dtype_and_layout", MULTISCALE),
    ),
    Bug(
        "maps without a cell are prepared",
        KERNEL_CPP,
        "if (all_cells == 0) {",
        "if (problem.num_images == 0) {",
        (f"{KERNEL}::test_empty_shapes", *KERNELS),
    ),
    # ---- Checks and outputs of the operators.
    Bug(
        "the largest plane is refused",
        OP,
        "width <= INT32_MAX / height",
        "width < INT32_MAX / height",
        (f"{LIBRARY}::test_the_largest_map_is_taken", *CHECKS),
    ),
    Bug("an output of any height", OP, "pooled_height <= INT32_MAX && ", "", CHECKS),
    Bug(
        "rois of six columns",
        OP,
        "rois.dim() == 2 && rois.size(1) == 5",
        "rois.dim() == 2 && rois.size(1) >= 5",
        CHECKS,
    ),
    Bug("an infinite scale", OP, "std::isfinite(spatial_scale) && spatial_scale > 0", "spatial_scale > 0", CHECKS),
    Bug("an argmax of other channels", OP, " && argmax.size(1) == other.size(1)", "", CHECKS),
    Bug("an argmax of other regions", OP, " && argmax.size(0) == rois.size(0)", "", CHECKS),
    Bug(
        "a grad_output of other bins", OP, 'check_same_shape(grad_output, "grad_output", argmax, "argmax");', "", CHECKS
    ),
    Bug("maps of other channels", OP, " && input.size(1) == first.size(1)", "", CHECKS),
    Bug("any number of levels", OP, "num_levels >= 1 && num_levels <= kMaxLevels", "num_levels >= 1", CHECKS),
    Bug(
        "as many heights as there are",
        OP,
        "ROIPOOL_CHECK(widths.size() == heights.size(),",
        "ROIPOOL_CHECK(true,",
        CHECKS,
    ),
    Bug("a shape of one dimension", OP, 'sizes.size() == 1 ? ",)" : ")"', '")"', CHECKS),
    Bug("out over its input", OP, " && !may_overlap(out, input)", "", (OUT,)),
    Bug("out over its rois", OP, " && !may_overlap(out, rois)", "", (OUT,)),
    Bug(
        "out over the last element of its input",
        OP,
        "+ extent_of(tensor) * tensor.element_size()",
        "+ (extent_of(tensor) - 1) * tensor.element_size()",
        (OUT,),
    ),
    Bug("out of elements that share memory", OP, "out.stride(i) != 0 || out.size(i) <= 1", "out.dim() >= 0", (OUT,)),
    Bug(
        "out in the other memory format",
        OP,
        "if (fits && is_dense(out, memory_format_of(input)) &&",
        "if (fits &&",
        (OUT,),
    ),
    Bug("a format by the strides of a single channel", OP, " || batch_of_one_channel) {", ") {", (LIBRARY,)),
    Bug(
        "a format of expanded channels",
        OP,
        "  if (strides[1] == 0) {\n    return MemoryFormat::Contiguous;\n  }\n",
        "",
        (f"{LIBRARY}::test_fake_and_native_strides_agree_where_formats_differ", *FORMATS),
    ),
    Bug(
        "rows of rois farther apart",
        OP,
        "rois.stride(0) == 5 && rois.stride(1) == 1",
        "rois.stride(1) == 1",
        (f"{KERNEL}::test_rois_of_any_strides", *FORMATS),
    ),
    Bug(
        "gradients in the other memory format",
        OP,
        "const Tensor grads = dense(grad_output, format);",
        "const Tensor grads = grad_output;",
        (AUTOGRAD, *FORMATS),
    ),
    # ---- Fake kernels.
    Bug(
        "fake: a format that depends on N",
        FAKE,
        "    return suggest_memory_format(one_image)",
        "    return suggest_memory_format(tensor)",
        (f"{LIBRARY}::test_fake_and_native_strides_agree",),
    ),
    Bug(
        "fake: a gather in the format of its input",
        FAKE,
        "torch.empty(argmax.shape, dtype=input.dtype, device=argmax.device, memory_format=_memory_format(argmax))",
        "torch.empty(argmax.shape, dtype=input.dtype, device=argmax.device, memory_format=_memory_format(input))",
        (f"{LIBRARY}::test_fake_and_native_strides_agree_where_formats_differ",),
    ),
    Bug(
        "fake: a contiguous gradient",
        FAKE,
        "size, dtype=grad_output.dtype, device=argmax.device, memory_format=_memory_format(argmax)",
        "size, dtype=grad_output.dtype, device=argmax.device",
        (f"{LIBRARY}::test_fake_and_native_strides_agree",),
    ),
    Bug(
        "fake: an int64 argmax of a pyramid",
        FAKE,
        "multiscale_roi_pool.default(inputs, rois, *arguments)\n"
        "    return output, torch.empty_like(output, dtype=torch.int32)",
        "multiscale_roi_pool.default(inputs, rois, *arguments)\n"
        "    return output, torch.empty_like(output, dtype=torch.int64)",
        (f"{MULTISCALE}::test_opcheck",),
    ),
    Bug(
        "fake: gradients of a pyramid with H for W",
        FAKE,
        "            (batch_size, argmax.shape[1], height, width),",
        "            (batch_size, argmax.shape[1], width, height),",
        (f"{MULTISCALE}::test_opcheck",),
    ),
    Bug(
        "fake: an unchecked argmax",
        FAKE,
        '    _check_argmax(argmax, rois, input, "input")\n',
        "",
        (f"{LIBRARY}::test_fake_kernels_refuse_the_same_in_the_same_words",),
    ),
    Bug("fake: an out that is not resized", FAKE, "    _maybe_resize_out(out, output.shape)\n", "", (OUT,)),
    Bug(
        "fake: a pyramid of nine levels",
        FAKE,
        "_MAX_LEVELS = 8",
        "_MAX_LEVELS = 9",
        (f"{MULTISCALE}::test_fake_kernels_refuse_the_same_in_the_same_words",),
    ),
    Bug(
        "fake: an infinite scale",
        FAKE,
        "0 < spatial_scale < math.inf",
        "0 < spatial_scale",
        (f"{LIBRARY}::test_fake_kernels_refuse_the_same_in_the_same_words",),
    ),
    Bug(
        "an out that is overwritten keeps its version",
        FAKE,
        '    library.impl("roi_pool.out", autograd.roi_pool_out_in_place, "ADInplaceOrView")\n',
        "",
        (OUT,),
    ),
    # ---- Derivatives.
    Bug(
        "no second derivatives",
        FUNCTIONS,
        "        torch.is_grad_enabled()\n        or forward_ad",
        "        forward_ad",
        DERIVATIVES,
    ),
    Bug(
        "no tangents of a gradient",
        FUNCTIONS,
        "        or forward_ad._current_level >= 0\n",
        "",
        (f"{AUTOGRAD}::test_tangent_of_a_gradient_by_hand", *DERIVATIVES),
    ),
    Bug(
        "compiled autograd is not traced",
        FUNCTIONS,
        "        or torch.compiler.is_compiling()  # compiled autograd traces backward passes\n",
        "",
        (f"{COMPILE}::test_compiled_autograd", *DERIVATIVES),
    ),
    Bug(
        "no tangents",
        FUNCTIONS,
        "return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None",
        "return False",
        DERIVATIVES,
    ),
    Bug(
        "no gradients under no_grad",
        FUNCTIONS,
        "if torch.is_grad_enabled() and tensor.requires_grad:",
        "if tensor.requires_grad:",
        DERIVATIVES,
    ),
    Bug(
        "a missing tangent is the first map's",
        FUNCTIONS,
        "given.new_zeros(batch_size, given.shape[1], height, width) if tangent is None else tangent",
        "given.new_ones(batch_size, given.shape[1], height, width) if tangent is None else tangent",
        (f"{MULTISCALE}::test_forward_mode_takes_maps_without_a_tangent_as_constant",),
    ),
    Bug(
        "only the first map has derivatives",
        FUNCTIONS,
        "    if any(_is_differentiated(input) for input in inputs):\n        return apply",
        "    if _is_differentiated(inputs[0]):\n        return apply",
        (f"{MULTISCALE}::test_maps_that_need_no_gradient_get_none",),
    ),
    Bug(
        "only the first map has derivatives, beside argmax",
        FUNCTIONS,
        "    if any(_is_differentiated(input) for input in inputs):\n        output, argmax = apply",
        "    if _is_differentiated(inputs[0]):\n        output, argmax = apply",
        (f"{MULTISCALE}::test_maps_that_need_no_gradient_get_none",),
    ),
    Bug(
        "a gradient of None",
        FUNCTIONS,
        "        if grad_output is None:\n            return None, None, None, None, None\n",
        "",
        (f"{MULTISCALE}::test_no_gradient_comes_of_none",),
    ),
    Bug(
        "a gradient of None for a pyramid",
        FUNCTIONS,
        "return (None,) * (6 + len(ctx.map_sizes[1]))",
        "return (None,) * 7",
        (f"{MULTISCALE}::test_no_gradient_comes_of_none",),
    ),
    Bug(
        "the modes of the caller are forgotten",
        FUNCTIONS,
        "with torch.set_grad_enabled(grad_enabled), forward_ad._set_fwd_grad_enabled(forward_grad_enabled):",
        "with torch.set_grad_enabled(True), forward_ad._set_fwd_grad_enabled(True):",
        DERIVATIVES,
    ),
    Bug(
        "the modes of an outer caller are lost",
        FUNCTIONS,
        "        _caller.modes = before\n",
        "        _caller.modes = (True, True)\n",
        DERIVATIVES,
    ),
    Bug(
        "an out that requires a gradient",
        FUNCTIONS,
        "refuse_derivatives(*arguments, out)\n    with torch._C._Auto",
        "refuse_derivatives(*arguments)\n    with torch._C._Auto",
        (OUT,),
    ),
    Bug(
        "inference tensors are written to",
        FUNCTIONS,
        "if out.is_inference() and not torch.is_inference_mode_enabled():",
        "if False:",
        (OUT,),
    ),
    # ---- Batching rules.
    Bug("an image of the next problem", VMAP, "(index >= 0) & (index < num_images)", "index >= 0", (FUNC,)),
    Bug(
        "half an image before the first",
        VMAP,
        "index = rois[..., 0].trunc()",
        "index = rois[..., 0]",
        (FUNC,),
    ),
    Bug(
        "images numbered in half precision",
        VMAP,
        "rois.to(torch.promote_types(rois.dtype, torch.float32))",
        "rois + torch.zeros(1, dtype=rois.dtype, device=rois.device)",
        (FUNC,),
    ),
    Bug("more images than float32 can number", VMAP, "> 2**24 and", "> 2**25 and", (FUNC,)),
    Bug(
        "the first map decides for all",
        VMAP,
        "all(dim is None for dim in inputs_dims)",
        "inputs_dims[0] is None",
        (f"{MULTISCALE}::test_vmap",),
    ),
    Bug(
        "an argmax that is not mapped",
        VMAP,
        "    output = ops.roi_pool_gather.default(*folded, fold(argmax, in_dims[2], problems))",
        "    output = ops.roi_pool_gather.default(*folded, argmax.flatten(0, -4) if in_dims[2] == 0 else "
        "argmax.repeat_interleave(problems, 0))",
        (FUNC,),
    ),
    # ---- Calls.
    Bug(
        "True is an int",
        CALL,
        "isinstance(value, (numbers.Integral, torch.SymInt)) and not isinstance(value, bool)",
        "isinstance(value, (numbers.Integral, torch.SymInt))",
        ARGUMENTS,
    ),
    Bug(
        "True is a scale",
        CALL,
        "isinstance(value, (numbers.Real, torch.SymInt, torch.SymFloat)) and not isinstance(value, bool)",
        "isinstance(value, (numbers.Real, torch.SymInt, torch.SymFloat))",
        ARGUMENTS,
    ),
    Bug(
        "an output_size beyond 64 bits",
        CALL,
        "if max(height, width) >= 2**63:",
        "if max(height, width) >= 2**65:",
        ARGUMENTS,
    ),
    Bug(
        "a scale beyond the range of floats",
        CALL,
        "spatial_scale.bit_length() > 1023",
        "spatial_scale.bit_length() > 2000",
        ARGUMENTS,
    ),
    Bug(
        "a scale that is just too large for a float",
        CALL,
        "spatial_scale.bit_length() > 1023",
        "spatial_scale.bit_length() > 1024",
        ARGUMENTS,
    ),
    Bug(
        "lists of half precision stay as they are",
        CALL,
        "image_boxes if image_boxes.dtype == torch.float64 else image_boxes.float()",
        "image_boxes",
        ARGUMENTS,
    ),
    Bug(
        "lists of float64 are rounded",
        CALL,
        "image_boxes if image_boxes.dtype == torch.float64 else image_boxes.float()",
        "image_boxes.float()",
        ARGUMENTS,
    ),
    Bug(
        "a list of any length",
        CALL,
        "if knows_sizes and input.ndim == 4 and len(boxes) != input.shape[0]:",
        "if knows_sizes and input.ndim == 4 and len(boxes) > input.shape[0]:",
        ARGUMENTS,
    ),
    Bug(
        "subclasses among the boxes are not seen",
        CALL,
        "tensors = (input, *boxes, out) if isinstance(boxes, (list, tuple)) else (input, boxes, out)",
        "tensors = (input, out)",
        SUBCLASSES,
    ),
    Bug(
        "subclasses among the boxes of a pyramid are not seen",
        CALL,
        "tensors = (*inputs, *boxes) if isinstance(boxes, (list, tuple)) else (*inputs, boxes)",
        "tensors = (*inputs,)",
        SUBCLASSES,
    ),
    Bug(
        "a plain call under torch.func",
        CALL,
        "        or torch._C._are_functorch_transforms_active()\n",
        "",
        (FUNC, COMPILE),
    ),
    Bug("a plain call while tracing", CALL, "        or torch._C._get_tracing_state() is not None\n", "", (PYTORCH,)),
    Bug(
        "a plain call below autograd",
        CALL,
        "        or torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.AutogradFunctionality)\n",
        "",
        (PYTORCH,),
    ),
    Bug(
        "out is resized before derivatives are refused",
        CALL,
        "    autograd.refuse_derivatives(*arguments, out)\n    meta",
        "    meta",
        (OUT,),
    ),
    Bug(
        "out of another dtype under the compiler",
        CALL,
        "out.shape != output.shape or out.dtype != output.dtype or",
        "out.shape != output.shape or",
        (OUT, COMPILE),
    ),
    Bug(
        "derivatives with out under the compiler",
        CALL,
        "    autograd.refuse_derivatives(*arguments, out)\n    output",
        "    output",
        (OUT, COMPILE),
    ),
    Bug(
        "an unchecked canonical_scale",
        CALL,
        '    check_spatial_scale(canonical_scale, "canonical_scale")\n',
        "",
        ARGUMENTS,
    ),
    # ---- Modules.
    Bug(
        "boxes under both names",
        MODULE,
        "if (boxes is None) == (rois is None):",
        "if boxes is None and rois is None:",
        (MODULES,),
    ),
    Bug(
        "the scale by the lowest image",
        MODULE,
        "max(height for height, _ in image_shapes)",
        "min(height for height, _ in image_shapes)",
        (f"{MULTISCALE}::test_scales_are_inferred",),
    ),
    Bug(
        "the scale by the width",
        MODULE,
        "max(height for height, _ in image_shapes)",
        "max(width for _, width in image_shapes)",
        (f"{MULTISCALE}::test_scales_are_inferred",),
    ),
    Bug(
        "the scale is rounded down",
        MODULE,
        "while ratio >= 2.0 ** (exponent + 0.5):",
        "while ratio >= 2.0 ** (exponent + 1):",
        (f"{MULTISCALE}::test_scales_are_inferred",),
    ),
    Bug(
        "maps in their own dtypes",
        MODULE,
        "features_of_level.to(maps[0].dtype) if maps else features_of_level",
        "features_of_level",
        (f"{MULTISCALE}::test_maps_that_autocast_left_in_another_dtype",),
    ),
    Bug(
        "maps in the order of their names",
        MODULE,
        "for name, features_of_level in features.items():",
        "for name, features_of_level in sorted(features.items()):",
        (f"{MULTISCALE}::test_function_and_module_agree_with_the_reference", MULTISCALE),
    ),
    Bug(
        "scales that are known are inferred",
        MODULE,
        "    if scales is None:\n",
        "    if True:\n",
        (f"{MULTISCALE}::test_scales_that_are_known_are_not_inferred",),
    ),
    Bug(
        "an output_size of one number is kept",
        MODULE,
        "        self.output_size = pair(output_size)\n",
        "        pair(output_size)\n        self.output_size = output_size\n",
        (f"{MULTISCALE}::test_function_and_module_agree_with_the_reference", MULTISCALE),
    ),
    # ---- MXNet and ONNX.
    Bug("mxnet: a scale of 0", MXNET_PY, "if not 0 <= spatial_scale <= 1:", "if not 0 < spatial_scale <= 1:", (MXNET,)),
    Bug("mxnet: a scale above 1", MXNET_PY, "if not 0 <= spatial_scale <= 1:", "if spatial_scale < 0:", (MXNET,)),
    Bug("mxnet: a scale of 0 moves all to the first image", MXNET_PY, "[1, 0, 0, 0, 0]", "[0, 0, 0, 0, 0]", (MXNET,)),
    Bug("mxnet: bins of 0", MXNET_PY, "min(pooled_size) < 1", "max(pooled_size) < 1", (MXNET,)),
    Bug(
        "mxnet: an out of another dtype",
        MXNET_PY,
        "(tuple(out.shape), out.dtype, out.device) != (expected, data.dtype, data.device)",
        "(tuple(out.shape), out.device) != (expected, data.device)",
        (MXNET,),
    ),
    Bug(
        "onnx: PW for PH",
        ONNX_PY,
        "pooled_shape=[pooled_height, pooled_width]",
        "pooled_shape=[pooled_width, pooled_height]",
        (ONNX,),
    ),
    Bug(
        "onnx: float64 boxes are rounded",
        ONNX_PY,
        'if boxes == "DOUBLE" and features != "DOUBLE":',
        'if boxes == "DOUBLE" and features == "FLOAT16":',
        (ONNX,),
    ),
    Bug(
        "onnx: no word of a rounded scale",
        ONNX_PY,
        'struct.unpack("f", struct.pack("f", spatial_scale))[0]',
        "spatial_scale",
        (ONNX,),
    ),
    Bug(
        "onnx: a warning of float32 scales that are exact",
        ONNX_PY,
        'boxes == "DOUBLE" and struct.unpack("f", struct.pack("f", spatial_scale))[0] != spatial_scale',
        'struct.unpack("f", struct.pack("f", spatial_scale))[0] != spatial_scale',
        (ONNX,),
    ),
    # ---- The reference: found by what was made elsewhere, or by hand.
    Bug(
        "reference: halves are rounded down",
        REFERENCE_PY,
        "(values - whole).abs() >= 0.5",
        "(values - whole).abs() > 0.5",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: the first NaN",
        REFERENCE_PY,
        "cells.shape[-1] - 1 - cells.isnan().int().flip(-1).argmax(-1)",
        "cells.isnan().int().argmax(-1)",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: bins in float64",
        REFERENCE_PY,
        "(size.to(first.dtype) / torch.tensor(num_bins, dtype=first.dtype))",
        "(size.double() / num_bins)",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: the scale in float64",
        REFERENCE_PY,
        "scale = torch.tensor(spatial_scale, dtype=first.dtype)",
        "first, last, scale = first.double(), last.double(), spatial_scale",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: clamped to 2^31",
        REFERENCE_PY,
        "start = _round((first * scale).clamp(-(2.0**29), 2.0**29))",
        "start = _round((first * scale).clamp(-(2.0**31), 2.0**31))",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: an infinite coordinate is clamped",
        REFERENCE_PY,
        " & rois.isfinite().all(1)",
        "",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: batch indices are rounded down",
        REFERENCE_PY,
        "index = rois[:, 0].trunc()",
        "index = rois[:, 0].floor()",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: integer boxes as they are",
        REFERENCE_PY,
        "    rois = rois_of(boxes, input)\n    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))",
        "    rois = rois_of(boxes, input)\n    rois = rois.to(torch.promote_types(rois.dtype, torch.float16))",
        (REFERENCE, GOLDEN),
    ),
    Bug("reference: bounds without 1e-6", REFERENCE_PY, ".log2() + 1e-6)", ".log2())", LEVELS),
    Bug(
        "reference: no area is the largest",
        REFERENCE_PY,
        "nan_to_num(nan=0)",
        "nan_to_num(nan=8)",
        LEVELS,
    ),
    Bug(
        "reference: levels in half precision",
        REFERENCE_PY,
        "    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))\n",
        "",
        (REFERENCE, MULTISCALE),
    ),
    Bug(
        "reference: sums in the dtype of the gradients",
        REFERENCE_PY,
        "sums_dtype = torch.promote_types(grad_output.dtype, torch.float32)",
        "sums_dtype = grad_output.dtype",
        (REFERENCE, GOLDEN),
    ),
    Bug(
        "reference: columns before rows",
        REFERENCE_PY,
        "        for p in range(argmax.shape[2]):\n            for q in range(argmax.shape[3]):",
        "        for q in range(argmax.shape[3]):\n            for p in range(argmax.shape[2]):",
        (REFERENCE, GOLDEN),
    ),
]


def run(work: Callable[[], int | None], folder: Path, timeout: float) -> tuple[int | None, str]:
    """What work() returns in a fork of this process, whose imports it need not repeat, and all that it printed.

    In place of the former, None where it took too long, and a negative number where a signal ended it.
    """
    with tempfile.TemporaryFile("w+") as output:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setsid()
                os.chdir(folder)
                for stream in [1, 2]:
                    os.dup2(output.fileno(), stream)
                os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "ROIPOOL_CUDA": "0"}
                sys.dont_write_bytecode = True
                sys.path[0] = str(folder)  # before the finders of an editable install
                status = work() or 0
            except SystemExit as exit:
                status = exit.code if isinstance(exit.code, int) else exit.code is not None
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        deadline = time.monotonic() + timeout
        ended, wait_status = 0, 0
        while ended == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
            ended, wait_status = os.waitpid(child, os.WNOHANG)
        if ended == 0:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(wait_status) if ended else None, output.read()


def build() -> None:
    sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
    runpy.run_path("setup.py", run_name="__main__")


NOT_IMPORTED = 100


def run_tests(test: str) -> int:
    try:
        import roipool
        from roipool import _C
    except Exception:
        traceback.print_exc()
        return NOT_IMPORTED
    for module in [roipool, _C]:  # and not those of an editable install
        assert Path(module.__file__).is_relative_to(Path.cwd()), f"{module.__file__} is not in {Path.cwd()}"
    return pytest.main(["-x", "-v", "--tb=no", "-p", "no:cacheprovider", "-k", "not cuda", test])


class Checkout:
    """A copy of this one, built, in which one bug at a time is planted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "roipool"
        self.pristine = folder / "pristine"  # what was built of it
        if self.pristine.exists():
            self.restore()
        shutil.copytree(ROOT, self.folder, ignore=NOT_COPIED, dirs_exist_ok=True)
        self.build()
        for path in self.built():
            self.copy(path, self.pristine / path.relative_to(self.folder))

    def build(self) -> None:
        status, output = run(build, self.folder, timeout=3600)
        if status != 0:
            raise ValueError(f"it cannot be built:\n{output}")

    def built(self) -> list[Path]:
        return [self.folder / "build", *(self.folder / "roipool").glob("_C.*.so")]

    def copy(self, source: Path, target: Path) -> None:
        """With the times that ninja goes by."""
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # not overwritten: it may be in use
            shutil.copy2(source, target)

    def restore(self) -> None:
        for path in self.built():
            self.copy(self.pristine / path.relative_to(self.folder), path)

    def plant(self, bug: Bug) -> None:
        path = self.folder / bug.path
        source = path.read_text()
        if source.count(bug.pattern) != 1:
            raise ValueError(f"found {source.count(bug.pattern)} times in {bug.path}: {bug.pattern!r}")
        path.write_text(source.replace(bug.pattern, bug.replacement))
        if bug.path.startswith("csrc/"):
            self.build()

    def undo(self, bug: Bug) -> None:
        self.copy(ROOT / bug.path, self.folder / bug.path)
        if bug.path.startswith("csrc/"):
            self.restore()

    def test(self, tests: Sequence[str], timeout: float) -> str:
        """What failed first: a test, a crash or a hang; nothing where all pass."""
        for test in tests:  # one by one, as pytest would run those of one file together
            status, output = run(lambda test=test: run_tests(test), self.folder, timeout)
            failed = re.findall(r"^(?:FAILED|ERROR) ([^\s\[]+)", output, re.MULTILINE)
            begun = re.findall(r"^tests/[^\s\[]+", output, re.MULTILINE)
            if status == NOT_IMPORTED:
                raise ValueError(f"roipool cannot be imported:\n{output}")
            if status == 1 and failed:
                return failed[0]
            if status is None or status < 0 or status > 128:
                return f"{'a hang' if status is None else 'a crash'} in {begun[-1] if begun else test}"
            if status != 0:
                sys.exit(f"{output}\npytest did not run: {status}")
        return ""

    def cuda_host_fails(self, timeout: float) -> bool:
        command = [sys.executable, "tests/cuda_host/check.py", "csrc"]
        status, _ = run(lambda: subprocess.run(command).returncode, self.folder, timeout)
        return status != 0


TABLE = """# Planted bugs

Each of these bugs was planted in a copy of roipool, and the test that found it first is named. `planted_bugs.py
--table` wrote this. Those in the CUDA kernels are not among them: `cuda_host/test_planted_bugs.py` plants them in CI.

| in | bug | found by |
| --- | --- | --- |
"""


def table(results: dict[str, dict[str, object]]) -> str:
    text = TABLE
    for bug in BUGS:
        if bug.name in results:
            result = results[bug.name]
            found = f"`{result['found_by']}`" if result["found_by"] else "**nothing**"
            if bug.on_cuda_host:
                found += ", and on the CUDA host" if result["found_on_cuda_host"] else ", **not** on the CUDA host"
            text += f"| `{bug.path}` | {bug.name} | {found} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the bugs, and stop")
    parser.add_argument("--only", default="", metavar="REGEX", help="bugs whose name or file matches")
    parser.add_argument("--json", type=Path, help="results; those of other bugs in this file are kept")
    parser.add_argument("--table", type=Path, help="all results as a table in Markdown")
    parser.add_argument("--missing", action="store_true", help="only bugs that the results so far lack")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which tests count as a hang")
    parser.add_argument("--copy", type=Path, help="where to keep the copy that is built; else it is a temporary one")
    parser.add_argument("--trust", action="store_true", help="do not first run the tests without a bug")
    arguments = parser.parse_args()

    bugs = [bug for bug in BUGS if re.search(arguments.only, f"{bug.path}: {bug.name}")]
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    if arguments.list:
        print(*(f"{bug.path}: {bug.name}" for bug in bugs), sep="\n")
        return

    results: dict[str, dict[str, object]] = {}
    if arguments.json and arguments.json.exists():
        results = json.loads(arguments.json.read_text())
    if arguments.missing:
        bugs = [bug for bug in bugs if bug.name not in results]
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(arguments.copy or Path(folder))
        if not arguments.trust:
            failed = checkout.test(list(dict.fromkeys(test for bug in bugs for test in bug.tests)), timeout=3600)
            if failed:
                sys.exit(f"without a bug, there is already {failed}")
        for bug in bugs:
            began = time.monotonic()
            try:
                checkout.plant(bug)
                result: dict[str, object] = {"found_by": checkout.test(bug.tests, arguments.timeout)}
                if bug.on_cuda_host:
                    result["found_on_cuda_host"] = checkout.cuda_host_fails(arguments.timeout)
                results[bug.name] = result
                print(f"{bug.path}: {bug.name}: {result} ({time.monotonic() - began:.0f} s)", flush=True)
            except ValueError as error:
                broken.append(bug.name)
                print(f"{bug.path}: {bug.name}: BROKEN: {error}", flush=True)
            checkout.undo(bug)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")

    print(table(results))
    if arguments.table:
        arguments.table.write_text(table(results))
    survivors = [bug.name for bug in bugs if bug.name not in broken and not results[bug.name]["found_by"]]
    if broken or survivors:
        sys.exit(f"in need of repair: {broken}; found by no test: {survivors}")


if __name__ == "__main__":
    main()
