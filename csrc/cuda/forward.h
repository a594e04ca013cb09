// Decides which way a forward goes: pure functions of sizes, counts and the limits of the device. This header
// includes nothing of CUDA.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"
#include "cuda/device_limits.h"
#include "problem.h"

namespace roipool::cuda {

enum class ForwardWay {
  kColumns,                // contiguous maps: lanes are columns of cells
  kChannelsLast,           // channels_last maps, channel by channel
  kChannelsLastByVectors,  // channels_last maps, kVectorBytes of adjacent channels at once
};

// Counts the columns of cells whose maxima a warp has room for. These take 5 KB, with their cells or in two vectors of
// channels. A column counts once for each row of bins.
constexpr int kMaxTileColumns = 160;

// Describes how blocks share out contiguous maps: each has a channel group and a share of the regions.
struct ColumnsPlan {
  int64_t group_channels;  // as many as one or two vectors of wide_t hold
  int64_t num_groups;
  int64_t num_shares;
  int64_t share_regions;  // the last share may have fewer
};

inline int64_t channels_per_vector(DType dtype) {
  return with_dtype(dtype, [](auto zero) { return static_cast<int64_t>(kVectorBytes / sizeof(zero)); });
}

// Chooses the way of a forward. is_aligned says whether all maps and the output begin at multiples of kVectorBytes.
inline ForwardWay choose_way(const RoIPoolProblem& problem, bool is_aligned) {
  if (!problem.channels_last) {
    return ForwardWay::kColumns;
  }
  const bool has_vectors = is_aligned && problem.num_channels % channels_per_vector(problem.dtype) == 0;
  return has_vectors ? ForwardWay::kChannelsLastByVectors : ForwardWay::kChannelsLast;
}

// Plans several blocks for each multiprocessor, but with a region for each warp at least. A block works on the same
// channels from its first region to its last, so that these find their cells in the first-level cache. Where
// share_regions is not 0, a share has so many regions instead.
//
// A lane works on all channels of a group: what it prepares for one serves the others. With argmax, it has registers
// for those of one vector.
inline ColumnsPlan plan_columns(const RoIPoolProblem& problem, bool has_argmax, const DeviceLimits& device,
                                int64_t share_regions = 0) {
  constexpr int64_t kBlocksPerMultiprocessor = 8;
  const int64_t vector_channels =
      with_dtype(problem.dtype, [](auto zero) -> int64_t { return kVectorBytes / sizeof(wide_t<decltype(zero)>); });
  ColumnsPlan plan{};
  plan.group_channels = (has_argmax || problem.num_channels <= vector_channels ? 1 : 2) * vector_channels;
  plan.num_groups = divide_up(problem.num_channels, plan.group_channels);
  const int64_t wanted_shares = divide_up(kBlocksPerMultiprocessor * device.num_multiprocessors, plan.num_groups);
  const int64_t chosen = std::max<int64_t>(kWarps, divide_up(problem.num_rois, wanted_shares));
  plan.share_regions = share_regions > 0 ? share_regions : chosen;
  plan.num_shares = divide_up(problem.num_rois, plan.share_regions);
  return plan;
}

}  // namespace roipool::cuda
