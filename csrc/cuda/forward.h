// Decides which way a forward goes: pure functions of sizes, counts and the limits of the device. Includes nothing of
// CUDA.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"
#include "cuda/device_limits.h"
#include "cuda/forward_shared_memory.h"
#include "host_device.h"
#include "problem.h"

namespace roipool::cuda {

enum class ForwardWay {
  kSharedMemory,           // copies planes to shared memory and pools all regions of an image there
  kContiguous,             // reads contiguous maps where they lie
  kChannelsLast,           // reads channels_last maps where they lie, channel by channel
  kChannelsLastByVectors,  // reads channels_last maps where they lie, kVectorBytes of adjacent channels at once
};

// Describes a forward from shared memory. A channel group has as many channels as kVectorBytes hold, and the regions
// are dealt out in shares: a block pools one share, from one channel group of one image.
struct SharedForwardPlan {
  int64_t num_groups;  // channel groups of an image
  int64_t num_shares;
  int64_t shared_bytes;  // of a block
  int num_threads;       // of a block

  ROIPOOL_HOST_DEVICE int64_t num_blocks(const RoIPoolProblem& problem) const {
    return problem.num_images * num_groups * num_shares;
  }
};

struct ForwardPlan {
  ForwardWay way;
  SharedForwardPlan shared;  // set where the way is kSharedMemory
};

// A plane pays to be copied where there are at least so many bins to pool for each of its cells.
constexpr int64_t kMinBinsPerCell = 1;
// ShortCellRange bounds cells in 16 bits.
constexpr int64_t kMaxSharedCells = INT16_MAX;
// With more blocks on a multiprocessor, each would have fewer than 256 threads.
constexpr int64_t kMaxBlocksPerMultiprocessor = 4;
// With so many threads on a multiprocessor, each has 64 registers.
constexpr int64_t kThreadsPerMultiprocessor = 1024;
// The system takes so many bytes of shared memory for each block.
constexpr int64_t kReservedSharedBytes = 1024;
// With fewer blocks than one for every two multiprocessors, more than half of the device would be idle.
constexpr int64_t kMaxMultiprocessorsPerBlock = 2;

inline int64_t channels_per_vector(DType dtype) {
  return with_dtype(dtype, [](auto zero) { return static_cast<int64_t>(kVectorBytes / sizeof(zero)); });
}

// Returns whether planes fit in the shared memory of a block, and the counts in what SharedForwardLists has for them.
inline bool can_use_shared_memory(const RoIPoolProblem& problem, const DeviceLimits& device) {
  const int64_t num_cells = problem.levels[0].num_cells();
  return problem.num_channels >= channels_per_vector(problem.dtype) && num_cells > 0 && num_cells <= kMaxSharedCells &&
         shared_forward_bytes(num_cells) <= device.shared_bytes && problem.pooled_height < kPlacedRanges &&
         problem.pooled_height + problem.pooled_width <= kPlacedRanges && problem.num_rois <= UINT32_MAX;
}

// Plans one wave of blocks, as many as fit on the device, but each with at least as many bins to pool as it has cells
// to copy. The problem is one that can use shared memory, with at least one bin for each cell.
inline SharedForwardPlan plan_shared_forward(const RoIPoolProblem& problem, const DeviceLimits& device) {
  const int64_t num_cells = problem.levels[0].num_cells();
  SharedForwardPlan plan{};
  plan.shared_bytes = shared_forward_bytes(num_cells);
  plan.num_groups = divide_up(problem.num_channels, channels_per_vector(problem.dtype));
  const int64_t fitting = std::min(kMaxBlocksPerMultiprocessor, (device.shared_bytes + kReservedSharedBytes) /
                                                                    (plan.shared_bytes + kReservedSharedBytes));
  const int64_t most_shares =
      problem.num_rois * problem.num_bins() / (kMinBinsPerCell * problem.num_images * num_cells);
  plan.num_shares = std::clamp<int64_t>(fitting * device.num_multiprocessors / (problem.num_images * plan.num_groups),
                                        1, most_shares);
  const int64_t at_once = std::min(fitting, divide_up(plan.num_blocks(problem), device.num_multiprocessors));
  plan.num_threads = static_cast<int>(kThreadsPerMultiprocessor / at_once / kWarp * kWarp);
  return plan;
}

inline bool has_vectors(const RoIPoolProblem& problem, bool is_aligned) {
  return is_aligned && problem.num_channels % channels_per_vector(problem.dtype) == 0;
}

// Returns whether planes pay to be copied to shared memory, on a device where they fit. Needs no limits of the device.
inline bool pays_to_share(const RoIPoolProblem& problem, bool is_aligned) {
  return problem.num_images > 0 && problem.num_levels == 1 &&
         (has_vectors(problem, is_aligned) || !problem.channels_last) &&
         problem.num_rois * problem.num_bins() >= kMinBinsPerCell * problem.num_images * problem.levels[0].num_cells();
}

// Chooses the way of a forward. is_aligned says whether all maps and the output begin at multiples of kVectorBytes;
// without may_use_shared_memory, maps are read where they lie, and `device` is not looked at.
inline ForwardPlan plan_forward(const RoIPoolProblem& problem, const DeviceLimits& device, bool is_aligned,
                                bool may_use_shared_memory) {
  if (may_use_shared_memory && pays_to_share(problem, is_aligned) && can_use_shared_memory(problem, device)) {
    const SharedForwardPlan shared = plan_shared_forward(problem, device);
    if (kMaxMultiprocessorsPerBlock * shared.num_blocks(problem) >= device.num_multiprocessors) {
      return {ForwardWay::kSharedMemory, shared};
    }
  }
  if (!problem.channels_last) {
    return {ForwardWay::kContiguous, {}};
  }
  return {has_vectors(problem, is_aligned) ? ForwardWay::kChannelsLastByVectors : ForwardWay::kChannelsLast, {}};
}

}  // namespace roipool::cuda
