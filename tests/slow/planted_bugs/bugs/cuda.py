"""Bugs in the CUDA kernels."""

from typing import NamedTuple


class CudaBug(NamedTuple):
    path: str  # in csrc/
    pattern: str  # a regular expression, found just once
    replacement: str


PROBLEM, REGIONS, POOL_CELLS = "problem.h", "cuda/regions.cu", "cuda/pool_cells.cuh"
COLUMNS, CHANNELS_LAST, GATHER = "cuda/forward_columns.cuh", "cuda/forward_channels_last.cuh", "cuda/gather.cu"
BACKWARD, BACKWARD_PLAN = "cuda/backward.cu", "cuda/backward.h"
TILES, BINS, CHANNELS = "cuda/backward_tiles.cuh", "cuda/backward_bins.cuh", "cuda/backward_channels.cuh"

BARRIER = r"\s*__syncthreads\(\);"
WARP_BARRIER = r"\s*__syncwarp\(\);"

IN_PLACING = {
    "a region of no image reads the first": (PROBLEM, r"is_finite \? image_of\(.*\) : -1", "is_finite ? 0 : -1"),
    "placed: in the order of rois alone": (
        REGIONS,
        r"keys\[j\] < key \|\| \(keys\[j\] == key && (.*)\);",
        r"key >= 0 && \1;",
    ),
    "placed: in reverse order within a plane": (
        REGIONS,
        r"first \+ j < k\)",
        "first + j > k && first + j < problem.num_rois)",
    ),
    "placed: by level alone": (
        REGIONS,
        r"return problem\.level_of_region\(k\) .*;",
        "return problem.level_of_region(k) + 0 * image;",
    ),
    "placed: in another level": (REGIONS, r"(int64_t level = )problem\.level_of_region\(k\);", r"\g<1>0;"),
    "placed: with the cells of another level": (REGIONS, r"problem\.levels\[level\]", "problem.levels[0]"),
    "placed: every row of bins by the first warp only": (REGIONS, r"p \+= kWarps", "p += problem.pooled_height"),
    "placed: in one segment only": (
        REGIONS,
        r"first / kSegmentRegions \* kSegmentRegions",
        "0 * kSegmentRegions",
    ),
    "placed: a segment without its last regions": (REGIONS, r"i < kSegmentRegions", "i < kSegmentRegions - kWarp"),
    "placed: only one turn": (
        REGIONS,
        r"first \+= static_cast<int64_t>\(gridDim\.x\) \* kWarp",
        "first += problem.num_rois",
    ),
    "placed: no barrier before keys are read": (
        REGIONS,
        r"(keys\[lane\(\)\] = .*;)" + WARP_BARRIER,
        r"\1",
    ),
    "placed: no barrier before keys are replaced": (REGIONS, WARP_BARRIER + r"(\s*// before the keys)", r"\1"),
    "placed: no barrier before counts are read": (REGIONS, r"(count_before\(problem, seg.*;)" + BARRIER, r"\1"),
    "placed: no barrier before counts are replaced": (REGIONS, BARRIER + r"(\s*// before the counts)", r"\1"),
}

IN_POOLING_BY_CELLS = {
    "off by one: the last row of a bin": (POOL_CELLS, r"y < bin\.rows\.hi;", "y < bin.rows.hi - 1;"),
    "off by one: the first cell": (POOL_CELLS, r"(int32_t cell = y \* width \+ bin\.columns\.lo);", r"\1 + 1;"),
    "ties go to the last": (POOL_CELLS, r"replaces\(value, best\[i\]\)", "value >= best[i] || value != value"),
    "NaN is skipped": (POOL_CELLS, r"replaces\(value, best\[i\]\)", "value > best[i]"),
    "the bits of a NaN are lost": (POOL_CELLS, r"best\[i\] != best\[i\]", "false"),
    "an empty bin has a cell": (POOL_CELLS, r"is_empty \? -1 : ", ""),
    "a vector in the map of another level": (CHANNELS_LAST, r"problem\.levels\[region\.level\]", "problem.levels[0]"),
    "a vector of another image": (CHANNELS_LAST, r"region\.image \* maps", "0 * maps"),
    "the first column of bins only": (CHANNELS_LAST, r"bin_index - p \* problem\.pooled_width\]", "0]"),
    "only one turn of the regions": (CHANNELS_LAST, r"i \+= gridDim\.x", "i += problem.num_rois"),
    "only one turn of the vectors": (CHANNELS_LAST, r"vector \+= gridDim\.y \* kThreads", "vector += num_vectors"),
}

IN_POOLING_BY_COLUMNS = {
    "columns: the last row": (COLUMNS, r"y < rows\.hi; \+\+y", "y < rows.hi - 1; ++y"),
    "columns: the last column": (COLUMNS, r"i < tile\.num_rows \* tile\.width;", "i < tile.num_rows * tile.width - 1;"),
    "columns: the maxima of another row": (COLUMNS, r"p \* tile\.width - tile\.left", "-tile.left"),
    "columns: the last column of a bin": (COLUMNS, r"1 : first \+ bin\.columns\.hi", "1 : first + bin.columns.hi - 1"),
    "columns: ties go to the last cell": (COLUMNS, r"cell < cells->values\[c\]", "cell > cells->values[c]"),
    "columns: ties in a column go to the last": (COLUMNS, r"value > best\.values\[c\]", "value >= best.values[c]"),
    "columns: NaN is skipped": (COLUMNS, r"b > a \|\| b != b \|\| (.*)(\s*#endif)", r"b > a || \1\2"),
    "columns: a NaN is forgotten": (
        COLUMNS,
        r"(return b > a) \|\| b != b \|\| (.*)(\s*#endif)",
        r"\1 || a != a || \2\3",
    ),
    "columns: zeros of either sign": (COLUMNS, r"best\.values\[c\] == 0 && .* \? NAN : ", ""),
    "columns: signs of the first row only": (COLUMNS, r"signs\[c\] \|= ", "signs[c] += 0 * "),
    "columns: a bin in doubt is left as it is": (COLUMNS, r"!is_certain && c <", "is_certain && false && c <"),
    "columns: only the first channel is in doubt": (
        COLUMNS,
        r"is_certain = is_certain && ",
        "is_certain = c > 0 ? is_certain : ",
    ),
    "columns: the last channel of a group": (
        COLUMNS,
        r"if \(c < num_channels_\)",
        "if (c + 1 < num_channels_ || c == 0)",
    ),
    "columns: beyond the last channel": (
        COLUMNS,
        r"\(c < num_channels_ \? c : num_channels_ - 1\)",
        "((1 << 20) * (c >= num_channels_) + c)",
    ),
    "columns: of another level": (COLUMNS, r"problem\.levels\[region\.level\]", "problem.levels[0]"),
    "columns: of another image": (COLUMNS, r"region\.image \* maps", "0 * maps"),
    "columns: more than there is room for": (COLUMNS, r"1 : kMaxTileColumns / ", "1 : 2 * kMaxTileColumns / "),
    "columns: only the first columns of a wide bin": (COLUMNS, r"is_last = !is_wide \|\| .*;", "is_last = true;"),
    "columns: only the last columns of a wide bin": (COLUMNS, r"tile\.left == columns\.lo \? 1 : 0", "1"),
    "columns: only the first rows of bins": (
        COLUMNS,
        r"tile\.first_row \+= tile\.num_rows",
        "tile.first_row += pooled_height",
    ),
    "columns: only the first columns of bins": (
        COLUMNS,
        r"tile\.first_column \+= tile\.num_columns\)",
        "tile.first_column += pooled_width)",
    ),
    "columns: the rows of the first tile": (COLUMNS, r"rows_\[tile\.first_row \+ row\]", "rows_[row]"),
    "columns: no barrier before maxima are read": (COLUMNS, WARP_BARRIER + r"(\s*if \(is_wide\))", r"\1"),
    "columns: no barrier before maxima are replaced": (COLUMNS, WARP_BARRIER + r"(\s*// before the maxima)", r"\1"),
    "columns: only one turn of the channels": (COLUMNS, r"group \+= gridDim\.y", "group += plan.num_groups"),
    "columns: only one turn of the regions": (COLUMNS, r"share \+= gridDim\.x", "share += plan.num_shares"),
    "columns: a share without its last region": (COLUMNS, r"i < end && i", "i < end - 1 && i"),
}

# No barrier that follows a vote or a shuffle is left out: in host execution, no lane passes one before all have come.
IN_BACKWARD = {
    "off by one: the last column of a tile": (BINS, r"x < width; x \+= kWarp", "x < width - 1; x += kWarp"),
    "off by one: the last row of a tile": (
        BINS,
        r"first < num_cells_; first \+= width",
        "first < num_cells_ - width; first += width",
    ),
    "off by one: the bins that a tile begins in": (
        TILES,
        r"ranges\[i\]\.hi > cells\.lo",
        "ranges[i].lo >= cells.lo",
    ),
    "off by one: the bins that a tile ends in": (TILES, r"ranges\[i\]\.lo >= cells\.hi", "ranges[i].hi > cells.hi"),
    "cells of the next tile": (TILES, r"&& column < width;", "&& column < width + 40;"),
    "cells of the tile below": (TILES, r"is_here = row < .* && column", "is_here = row < 4096u && column"),
    "tiles that are left out": (
        BACKWARD_PLAN,
        r"begin \+ num_across \* num_down",
        "begin + num_across * ((num_down + 1) / 2)",
    ),
    "the row of a cell": (BACKWARD_PLAN, r"(factor_\) >> 32\)) >> shift_", r"\1 >> (shift_ + (cell > 500))"),
    "the row of a bin": (
        TILES,
        r"static_cast<float>\(bins\.num_columns\)",
        "static_cast<float>(bins.num_columns + 1)",
    ),
    "bins of a row that are not skipped": (
        TILES,
        r"problem_\.pooled_width - bins\.num_columns\)",
        "0 * bins.num_columns)",
    ),
    "runs of bins that begin in the first row": (
        TILES,
        r"bins\.first_row \* problem_\.pooled_width \+",
        "0 * problem_.pooled_width +",
    ),
    "runs of bins that begin in the first column": (
        TILES,
        r"problem_\.pooled_width \+ bins\.first_column",
        "problem_.pooled_width",
    ),
    "lanes that meet add at once": (BINS, r"is_adder = adder == lane\(\)", "is_adder = adder >= 0"),
    "lanes that meet add in reverse": (
        BINS,
        r"given\[i \* kWarp \+ lane\(\)\]",
        "given[(i < rank && rank <= kMaxGivenGrads ? rank - 1 - i : i) * kWarp + lane()]",
    ),
    "the last of many lanes is left out": (BINS, r"rank > kMaxGivenGrads\)\)", "rank > kMaxGivenGrads + 1))"),
    "the adder adds first": (BINS, r"sum_t sum = sums_\[is_adder .*\];", "sum_t sum = sums_[cell] + grad; grad = 0;"),
    "the steps of a warp out of order": (
        BINS,
        r"add_step\(steps\.cells\[step\], static_cast<sum_t>\(steps\.grads\[step\]\), peers\[step\]",
        "add_step(steps.cells[3 - step], static_cast<sum_t>(steps.grads[3 - step]), peers[3 - step]",
    ),
    "half-precision sums": (
        BINS,
        r"sums_\[cell\] = sum \+ grad;",
        "sums_[cell] = static_cast<float>(BFloat16(static_cast<float>(sum + grad)));",
    ),
    "sums are not cleared": (BINS, r"sums_\[i\] = 0;", ""),
    "the gradients of another channel": (
        BINS,
        r"grad_output \+ c \* problem\.output",
        "grad_output + 0 * problem.output",
    ),
    "channels: the gradients of another channel": (CHANNELS, r"grad_output \+ c_\)", "grad_output + c_ % 2)"),
    "channels: beyond the last channel": (
        CHANNELS,
        r"if \(c_ >= problem_\.num_channels\)",
        "if (c_ > problem_.num_channels)",
    ),
    "channels: sums are not cleared": (CHANNELS, r"sums_\[i \* kWarp\] = 0;", ""),
    "channels: the last column of a tile": (CHANNELS, r"x < width; \+\+x", "x < width - 1; ++x"),
    "channels: the last row of a tile": (CHANNELS, r"first < num_cells_; first", "first < num_cells_ - width; first"),
    "channels: the rows of a tile": (CHANNELS, r"grad_input \+= maps\.width", "grad_input += width"),
    "channels: the next row of a run": (CHANNELS, r"at_ \+= run_->skip \* ", "at_ += 0 * run_->skip * "),
    "channels: the next run": (CHANNELS, r"(\+\+run_;\s*)begin_run\(\);", r"\1left_in_row_ = run_->end;"),
    "channels: the bins of one load": (CHANNELS, r"first \+ kBinsAhead, num_bins", "first, num_bins"),
    "channels: half-precision sums": (
        CHANNELS,
        r"(sums_\[bins\.cells\[i\] \* kWarp\]) \+= (.*);",
        r"\1 = static_cast<float>(BFloat16(static_cast<float>(\1 + \2)));",
    ),
    "the gradients of another plane": (TILES, r"region\.image >= image", "region.image >= 0 * image"),
    "the gradients of another level": (
        TILES,
        r"region\.level > tile_\.level \|\| \((region\.level == tile_\.level) &&",
        r"(\1 &&",
    ),
    "runs of bins without the last region": (TILES, r"i < end_ \? find_bins", "i < end_ - 1 ? find_bins"),
    "only one turn of the tiles": (BACKWARD, r"index \+= gridDim\.y", "index += plan.num_tiles"),
    "no barrier before sums are cleared": (BINS, WARP_BARRIER + r"(\s*// before the next turn)", r"\1"),
    "the gradients of one segment": (TILES, r"segment_ < problem_\.num_rois;", "segment_ == 0;"),
    "the gradients of one list": (BACKWARD, r"while \(lister\.find_next\(\)\)", "if (lister.find_next())"),
    "bins beyond the last": (BINS, r"if \(bin < num_bins\)", "if (bin < num_bins + 1)"),
    "the bins of the run before": (BINS, r"while \(bin >= own_run_", "while (bin > own_run_"),
    "only one turn of the images": (BACKWARD, r"image \+= gridDim\.z", "image += problem.num_images"),
    "only one turn of the channels": (BACKWARD, r"group \+= gridDim\.x", "group += plan.num_groups"),
    "no barrier before gradients are taken": (
        BINS,
        r"(give\(given, is_adder, adder, rank, grad\);)" + WARP_BARRIER + r"(\s*sum_t sum)",
        r"\1\2",
    ),
    "no barrier before runs are read": (TILES, r"(list_rows\(\);)" + WARP_BARRIER, r"\1"),
    "no barrier before sums are written": (BINS, WARP_BARRIER + r"(\s*// before sums are read)", r"\1"),
}

IN_GATHER = {
    "a gather from another level": (GATHER, r"problem\.level_of_region\(k\)", "0"),
    "a gather of the first elements only": (
        GATHER,
        r"i \+= gridDim\.y \* kThreads",
        "i += problem.output_region_stride",
    ),
    "a gather from another image": (GATHER, r"\(image < 0 \? 0 : image\)", "0"),
}

BUGS = {
    name: CudaBug(*bug)
    for bugs in [IN_PLACING, IN_POOLING_BY_CELLS, IN_POOLING_BY_COLUMNS, IN_BACKWARD, IN_GATHER]
    for name, bug in bugs.items()
}
