// Decides how the backward's kernel shares out its work: pure functions of sizes, counts and the limits of the device.
// Includes nothing of CUDA.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"
#include "cuda/device_limits.h"
#include "host_device.h"
#include "problem.h"

namespace roipool::cuda {

constexpr int kWarps = kThreads / kWarp;
constexpr int kBatchGradients = 2048;  // gradients of bins that a block has in shared memory at a time
constexpr int kStepsAhead = 4;         // steps of a warp that are prepared together: see add_in_order()
static_assert(kBatchGradients / kWarps % (kWarp * kStepsAhead) == 0);

// The bins that are listed together are counted in 32 bits, and so is the end of their last batch.
constexpr int64_t kMaxListedBins = UINT32_MAX - kBatchGradients;

// Describes how blocks share out the maps of one level. A block owns some channels and cells of one image: it sums
// their gradients in shared memory, one warp to a channel, and writes each once. Its shared memory:
//
//   int64_t  starts[kThreads]                     where the listed bins of a region of the image begin in grad_output,
//                                                 region by region
//   sum_t    sums[num_channels][num_cells]
//   sum_t    grads[num_channels][batch_bins]      a batch: gradients of bins, region by region and bin by bin,
//   int32_t  cells[num_channels][batch_bins]      and the cells that they go to, or -1
//   int32_t  counts[kWarps]                       regions that each warp listed
struct ScatterPlan {
  int num_channels;      // channels of a block: a power of two, at most kWarps
  int batch_bins;        // bins of a batch, for each channel
  int scanned_regions;   // regions that are looked at together, to list those of an image
  uint32_t piece_bins;   // bins of a region that are listed together
  uint32_t num_pieces;   // pieces of a region, of piece_bins each: one, unless regions are listed alone
  int32_t num_cells;     // cells of a block
  int64_t num_groups;    // channel groups of an image
  int64_t num_parts;     // parts of a plane
  int64_t shared_bytes;  // shared memory of a block

  ROIPOOL_HOST_DEVICE int64_t num_blocks(const RoIPoolProblem& problem) const {
    return problem.num_images * num_groups * num_parts;
  }
};

// Returns the shared memory of a block that has so many sums.
constexpr int64_t scatter_shared_bytes(int64_t num_sums, int64_t sum_bytes) {
  return kThreads * static_cast<int64_t>(sizeof(int64_t)) + num_sums * sum_bytes +
         kBatchGradients * (sum_bytes + static_cast<int64_t>(sizeof(int32_t))) +
         kWarps * static_cast<int64_t>(sizeof(int32_t));
}

// Plans the backward of one level. The channels of a block should be many enough to fill a sector of memory where they
// are adjacent, but few enough that there are blocks for all multiprocessors. A plane that is too large for shared
// memory is split.
inline ScatterPlan plan_scatter(const RoIPoolProblem& problem, const FeatureMaps& maps, const DeviceLimits& device) {
  const int64_t sum_bytes =
      with_dtype(problem.dtype, [](auto zero) -> int64_t { return sizeof(wide_t<decltype(zero)>); });
  const int64_t num_cells = maps.num_cells();
  const int64_t max_sums = (device.shared_bytes - scatter_shared_bytes(0, sum_bytes)) / sum_bytes;
  const auto has_too_many_channels = [&](int num_channels) {
    const int64_t num_blocks = problem.num_images * divide_up(problem.num_channels, num_channels);
    return num_channels * num_cells > max_sums ||
           (!problem.channels_last && num_blocks < 2 * device.num_multiprocessors);
  };
  ScatterPlan plan{};
  plan.num_channels = kWarps;
  while (plan.num_channels > 1 && has_too_many_channels(plan.num_channels)) {
    plan.num_channels /= 2;
  }
  plan.batch_bins = kBatchGradients / plan.num_channels;
  plan.num_groups = divide_up(problem.num_channels, plan.num_channels);
  const int64_t min_parts = divide_up(num_cells, std::max<int64_t>(1, max_sums / plan.num_channels));
  plan.num_cells = static_cast<int32_t>(divide_up(num_cells, std::max<int64_t>(1, min_parts)));
  plan.num_parts = divide_up(num_cells, std::max<int64_t>(1, plan.num_cells));
  plan.shared_bytes = scatter_shared_bytes(static_cast<int64_t>(plan.num_channels) * plan.num_cells, sum_bytes);
  // Where kThreads regions have too many bins for 32 bits, fewer regions are listed together. Where one region has too
  // many, its bins are listed piece by piece.
  const int64_t num_bins = std::max<int64_t>(1, problem.num_bins());
  plan.scanned_regions = static_cast<int>(std::clamp<int64_t>(kMaxListedBins / num_bins, 1, kThreads));
  plan.piece_bins = static_cast<uint32_t>(std::min(num_bins, kMaxListedBins));
  plan.num_pieces = static_cast<uint32_t>(divide_up(num_bins, plan.piece_bins));
  return plan;
}

}  // namespace roipool::cuda
