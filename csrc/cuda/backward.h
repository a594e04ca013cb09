// Decides how the backward's kernel shares out its work: pure functions of sizes and the limits of the device. This
// header includes nothing of CUDA.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "arithmetic.h"
#include "cuda/device_limits.h"
#include "dtypes.h"
#include "host_device.h"
#include "problem.h"

namespace roipool::cuda {

// Describes some bins that a warp adds: some rows of a region's bins, from one column of bins to another. The bins of
// all runs are numbered, one run after the other.
struct BinRun {
  uint32_t begin;      // the number of its first bin
  uint32_t end;        // the number after its last bin
  float rows_per_bin;  // 1 / columns of bins; 0 where there is one row
  uint32_t skip;       // bins of a row that do not belong to it
  int64_t from;        // where its first bin lies in grad_output and argmax
};

// Limits the bins of a run of several rows, so that floats can tell its rows.
constexpr int64_t kMaxRunBins = 1 << 20;

constexpr int kMaxBlockWarps = 2;  // of a block
constexpr int kMaxRuns = 64;       // which a warp lists at a time
constexpr int kMaxGivenGrads = 3;  // gradients that a lane is given at once

// Returns the shared memory of a warp that sums so many cells. Where a lane has a bin, in one channel:
//
//   BinRun  runs[kMaxRuns]
//   sum_t   given[2][kMaxGivenGrads][kWarp]  gradients of lanes, for the last lane at the same cell
//   sum_t   sums[num_cells + kWarp]          behind those of cells, one of each lane that is of no use
//
// Where a lane has a channel:
//
//   BinRun  runs[kMaxRuns]
//   sum_t   sums[num_cells + 1][kWarp]  behind those of cells, some that are of no use
constexpr int64_t summing_bytes(int64_t num_cells, bool lanes_are_channels, int64_t sum_bytes) {
  const int64_t num_sums = lanes_are_channels ? (num_cells + 1) * kWarp : (2 * kMaxGivenGrads + 1) * kWarp + num_cells;
  return kMaxRuns * static_cast<int64_t>(sizeof(BinRun)) + num_sums * sum_bytes;
}

// Divides the number of a cell by the width of its map, by a multiplication and shifts.
class RowFinder {
 public:
  RowFinder() = default;
  explicit RowFinder(int64_t width) {
    while ((int64_t{1} << shift_) < width) {
      ++shift_;
    }
    factor_ = static_cast<uint32_t>(divide_up(int64_t{1} << (31 + shift_), width));
  }

  // Returns the row of a cell. The highest bit is not looked at.
  ROIPOOL_HOST_DEVICE uint32_t row_of(uint32_t cell) const {
    return static_cast<uint32_t>((uint64_t{cell << 1} * factor_) >> 32) >> shift_;
  }

 private:
  uint32_t factor_ = 0;  // 2^(31 + shift_) / width, rounded up
  int shift_ = 0;        // 2^shift_ is width, rounded up to a power of two
};

// Describes how the maps of a level are cut into tiles of equal sizes, but for those at the right and at the bottom.
struct LevelTiles {
  int32_t height;      // of a tile, in cells
  int32_t width;       // of a tile, in cells
  int32_t num_across;  // tiles
  int64_t begin;       // of its tiles, among those of all levels
  int64_t end;
  RowFinder row_finder;
};

// Cuts the maps of a level into tiles of at most so many cells, which are nearly square where neither side of the map
// is short.
inline LevelTiles cut_level(const FeatureMaps& maps, int64_t max_cells, int64_t begin) {
  if (maps.num_cells() == 0) {  // one side may be anything
    return {0, 0, 0, begin, begin, RowFinder(1)};
  }
  const int64_t side = static_cast<int64_t>(std::sqrt(static_cast<double>(max_cells)));
  const int64_t max_width = std::max(side, max_cells / maps.height);
  const int64_t width = divide_up(maps.width, divide_up(maps.width, max_width));
  const int64_t max_height = max_cells / width;
  const int64_t height = divide_up(maps.height, divide_up(maps.height, max_height));
  const int64_t num_across = divide_up(maps.width, width);
  const int64_t num_down = divide_up(maps.height, height);
  return {static_cast<int32_t>(height),  static_cast<int32_t>(width), static_cast<int32_t>(num_across), begin,
          begin + num_across * num_down, RowFinder(maps.width)};
}

// Describes how warps share out grad_inputs: each sums the cells of a tile in some channels of one image. The warps of
// a block have adjacent channels of the same tile.
struct BackwardPlan {
  LevelTiles levels[kMaxLevels];
  int64_t num_tiles;      // of all levels, the coarsest first, since its tiles have the most bins
  int64_t num_groups;     // channel groups, each of the channels of a block
  int64_t warp_channels;  // 1 where a lane has a bin, kWarp where it has a channel
  int64_t num_warps;      // of a block
  int64_t warp_bytes;     // of shared memory

  // Cuts the maps of all levels into tiles of at most so many cells.
  void cut(const RoIPoolProblem& problem, int64_t max_cells, int64_t sum_bytes) {
    num_tiles = 0;
    int64_t most_cells = 1;
    for (int64_t level = problem.num_levels - 1; level >= 0; --level) {
      levels[level] = cut_level(problem.levels[level], std::max<int64_t>(1, max_cells), num_tiles);
      num_tiles = levels[level].end;
      most_cells = std::max(most_cells, static_cast<int64_t>(levels[level].height) * levels[level].width);
    }
    warp_bytes = divide_up(summing_bytes(most_cells, warp_channels > 1, sum_bytes), kVectorBytes) * kVectorBytes;
  }

  int64_t num_warps_at_work(const RoIPoolProblem& problem) const {
    return problem.num_images * divide_up(problem.num_channels, warp_channels) * num_tiles;
  }
};

// Plans tiles. A bin is read once for each tile that it meets, so that tiles should be large; but they should leave
// room for several warps on each multiprocessor, and be enough for all of them. No tile has more than tile_limit cells.
//
// Lanes are channels where these are adjacent in memory and at least every second lane has one.
inline BackwardPlan plan_backward(const RoIPoolProblem& problem, const DeviceLimits& device,
                                  int64_t tile_limit = INT64_MAX) {
  constexpr int64_t kBlocksAtOnce = 4;      // on a multiprocessor, where maps are large
  constexpr int64_t kMinWarps = 6;          // at work for each multiprocessor
  constexpr int64_t kReservedBytes = 1024;  // of shared memory, which the system takes for each block
  const bool lanes_are_channels = problem.channels_last && problem.num_channels >= kWarp / 2;
  const int64_t min_cells = lanes_are_channels ? 64 : 512;  // of a tile, before it is cut again
  const int64_t sum_bytes =
      with_dtype(problem.dtype, [](auto zero) -> int64_t { return sizeof(wide_t<decltype(zero)>); });
  BackwardPlan plan{};
  plan.warp_channels = lanes_are_channels ? kWarp : 1;
  const int64_t num_warps = divide_up(problem.num_channels, plan.warp_channels);  // for each tile
  plan.num_warps = std::clamp<int64_t>(num_warps, 1, kMaxBlockWarps);
  plan.num_groups = divide_up(num_warps, plan.num_warps);
  const int64_t room = (device.shared_bytes / kBlocksAtOnce - kReservedBytes) / plan.num_warps - kVectorBytes -
                       summing_bytes(0, lanes_are_channels, sum_bytes);
  int64_t max_cells = std::min(tile_limit, room / (plan.warp_channels * sum_bytes));
  plan.cut(problem, max_cells, sum_bytes);
  while (plan.num_warps_at_work(problem) < kMinWarps * device.num_multiprocessors && max_cells >= 2 * min_cells) {
    max_cells /= 2;
    plan.cut(problem, max_cells, sum_bytes);
  }
  return plan;
}

}  // namespace roipool::cuda
