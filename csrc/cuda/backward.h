// Decides how the backward's kernel shares out its work: pure functions of sizes and the limits of the device. Includes
// nothing of CUDA.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"
#include "cuda/device_limits.h"
#include "dtypes.h"
#include "problem.h"

namespace roipool::cuda {

// Describes some bins that a warp adds. They are numbered one after the other, region by region.
struct BinRun {
  uint32_t end;  // the number after its last bin
  int64_t from;  // where bin number 0 would lie in grad_output and argmax, if the run began there
};

// A run of a whole region has so many bins at most, so that those of kMaxRuns runs are counted in 32 bits.
constexpr int64_t kMaxRunBins = 1 << 25;

constexpr int kMaxRuns = 64;       // of bins, which a warp lists at a time
constexpr int kMaxGivenGrads = 4;  // gradients that a lane is given at once

// Returns the shared memory of a warp that sums so many cells of one channel:
//
//   BinRun  runs[kMaxRuns]
//   sum_t   given[2][kMaxGivenGrads][kWarp]  gradients of lanes, for the last lane at the same cell
//   sum_t   sums[num_cells + kWarp]          behind those of cells, one of each lane that is of no use
constexpr int64_t summing_bytes(int64_t num_cells, int64_t sum_bytes) {
  return kMaxRuns * static_cast<int64_t>(sizeof(BinRun)) + (2 * kMaxGivenGrads * kWarp + num_cells + kWarp) * sum_bytes;
}

// Describes how the maps of a level are cut into slices.
struct LevelSlices {
  int32_t num_cells;  // of a slice; the last one of a map may have fewer
  int64_t begin;      // of its slices, among those of all levels
  int64_t end;
};

// Cuts the maps of a level into slices of equal numbers of rows where a row fits, else of cells.
inline LevelSlices cut_level(const FeatureMaps& maps, int64_t max_cells, int64_t begin) {
  const int64_t unit = maps.width <= max_cells ? std::max<int64_t>(1, maps.width) : 1;  // of cells
  const int64_t num_units = divide_up(maps.num_cells(), unit);
  const int64_t num_slices = divide_up(num_units, max_cells / unit);
  const int64_t slice_units = divide_up(num_units, std::max<int64_t>(1, num_slices));
  const int64_t slice_cells = slice_units * unit;
  return {static_cast<int32_t>(slice_cells), begin, begin + divide_up(num_units, std::max<int64_t>(1, slice_units))};
}

// Describes how warps share out grad_inputs: each sums the cells of a slice in one channel of one image. The warps of a
// block have adjacent channels of the same slice.
struct BackwardPlan {
  LevelSlices levels[kMaxLevels];
  int64_t num_slices;  // of all levels, the coarsest first, since its slices have the most bins
  int64_t num_groups;  // of channels
  int num_warps;       // of a block
  int64_t warp_bytes;  // of shared memory

  // Cuts the maps of all levels into slices of at most so many cells.
  void cut(const RoIPoolProblem& problem, int64_t max_cells, int64_t sum_bytes) {
    num_slices = 0;
    int64_t most_cells = 1;
    for (int64_t level = problem.num_levels - 1; level >= 0; --level) {
      levels[level] = cut_level(problem.levels[level], std::max<int64_t>(1, max_cells), num_slices);
      num_slices = levels[level].end;
      most_cells = std::max<int64_t>(most_cells, levels[level].num_cells);
    }
    warp_bytes = divide_up(summing_bytes(most_cells, sum_bytes), kVectorBytes) * kVectorBytes;
  }

  int64_t num_warps_at_work(const RoIPoolProblem& problem) const {
    return problem.num_images * problem.num_channels * num_slices;
  }
};

// Plans slices of whole rows where these fit. A bin is read once for each slice that its row of bins meets, so that
// slices should be large; but they should leave room for several warps on each multiprocessor, and be enough for all of
// them. channels_last puts adjacent channels in one block, since a sector of memory holds several of them. No slice has
// more than slice_limit cells.
inline BackwardPlan plan_backward(const RoIPoolProblem& problem, const DeviceLimits& device,
                                  int64_t slice_limit = INT64_MAX) {
  constexpr int64_t kMinCells = 512;        // of a slice, before it is cut again
  constexpr int64_t kMinWarps = 6;          // of a multiprocessor
  constexpr int64_t kReservedBytes = 1024;  // of shared memory, which the system takes for each block
  const int64_t blocks_at_once = problem.channels_last ? 2 : 4;  // of a multiprocessor, where maps are large
  const int64_t block_bytes = device.shared_bytes / blocks_at_once - kReservedBytes;
  const int64_t sum_bytes =
      with_dtype(problem.dtype, [](auto zero) -> int64_t { return sizeof(wide_t<decltype(zero)>); });
  const auto max_cells_of = [&](int64_t num_warps) {
    return (block_bytes / num_warps - kVectorBytes - summing_bytes(0, sum_bytes)) / sum_bytes;
  };
  int64_t num_warps = std::min<int64_t>(problem.channels_last ? 8 : 2, std::max<int64_t>(1, problem.num_channels));
  while (num_warps > 1 && max_cells_of(num_warps) < kMinCells) {
    num_warps /= 2;
  }
  BackwardPlan plan{};
  plan.num_warps = static_cast<int>(num_warps);
  plan.num_groups = divide_up(problem.num_channels, num_warps);
  int64_t max_cells = std::min(slice_limit, max_cells_of(num_warps));
  plan.cut(problem, max_cells, sum_bytes);
  while (plan.num_warps_at_work(problem) < kMinWarps * device.num_multiprocessors && max_cells >= 2 * kMinCells) {
    max_cells /= 2;
    plan.cut(problem, max_cells, sum_bytes);
  }
  return plan;
}

}  // namespace roipool::cuda
