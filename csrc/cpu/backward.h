// Chooses how a backward shares out its sums: a pure function of sizes and counts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"

namespace roipool::cpu {

struct BackwardSizes {
  int64_t num_images;
  int64_t num_channels;
  int64_t num_cells;  // of a plane
  int64_t num_regions;
  int64_t num_bins;  // of a region
  bool channels_last;
  bool sums_in_dtype;  // the sums have the dtype of the gradients
  int64_t num_threads;
};

// Predict how long one thread takes, in nanoseconds.
inline double clearing_cost(const BackwardSizes& sizes) {
  constexpr double kNanosecondsPerCell = 0.2;
  return kNanosecondsPerCell * static_cast<double>(sizes.num_images * sizes.num_channels * sizes.num_cells);
}

inline double summing_cost(const BackwardSizes& sizes) {
  constexpr double kNanosecondsPerGradient = 0.7;
  const auto num_gradients = static_cast<double>(sizes.num_regions * sizes.num_channels * sizes.num_bins);
  return clearing_cost(sizes) + kNanosecondsPerGradient * num_gradients;
}

// A task is the gradients of some channels and cells of one image: one thread sums them.
struct BackwardPlan {
  int64_t task_channels;
  int64_t task_cells;
  int64_t num_slices;  // of a plane, in cells
  bool in_place;       // sums are made in grad_input, else in scratch memory
  bool clear_first;    // all of grad_input is cleared beforehand, else by task

  int64_t num_channel_groups(const BackwardSizes& sizes) const { return divide_up(sizes.num_channels, task_channels); }
  int64_t num_tasks(const BackwardSizes& sizes) const {
    return sizes.num_images * num_channel_groups(sizes) * num_slices;
  }
};

// Returns the channels of a task: enough that what it reads of a region is of some length, few enough that their cells
// stay in the thread's cache and that all threads have work.
inline int64_t task_channels(const BackwardSizes& sizes) {
  constexpr int64_t kCacheBytes = 1 << 20;
  constexpr int64_t kTasksPerThread = 4;
  const int64_t most = sizes.channels_last ? 32 : 16;
  const int64_t least = sizes.channels_last ? 16 : 1;  // a line of cache
  const int64_t in_cache = kCacheBytes / static_cast<int64_t>(sizeof(float)) / std::max<int64_t>(1, sizes.num_cells);
  const int64_t balanced = sizes.num_images * sizes.num_channels / (kTasksPerThread * sizes.num_threads);
  return std::min(std::clamp(std::min(in_cache, balanced), least, most), sizes.num_channels);
}

// Returns whether so few cells have a sum that clearing and rounding them is most of the work.
inline bool has_few_sums(const BackwardSizes& sizes) {
  constexpr int64_t kCellsPerSum = 8;
  return kCellsPerSum * sizes.num_regions * sizes.num_bins < sizes.num_images * sizes.num_cells;
}

// Returns the slices of a plane whose sums, of all channels in scratch memory, fit in a cache.
inline int64_t num_slices_in_cache(const BackwardSizes& sizes) {
  constexpr int64_t kCacheBytes = 1 << 20;
  return divide_up(sizes.num_cells * sizes.num_channels * static_cast<int64_t>(sizeof(float)), kCacheBytes);
}

// Returns whether half-precision sums of channels_last maps are made for all channels, slice by slice, so that they are
// rounded in one long run. Each slice reads all gradients of its image, which must be few.
inline bool sums_all_channels(const BackwardSizes& sizes) {
  constexpr int64_t kCellsPerSumAndSlice = 4;
  return sizes.channels_last && !sizes.sums_in_dtype && has_few_sums(sizes) &&
         kCellsPerSumAndSlice * num_slices_in_cache(sizes) * sizes.num_regions * sizes.num_bins <=
             sizes.num_images * sizes.num_cells;
}

// Plans the backward of maps that have an element.
inline BackwardPlan plan_backward(const BackwardSizes& sizes) {
  BackwardPlan plan{};
  plan.task_channels = task_channels(sizes);
  const bool few_sums = has_few_sums(sizes);
  // Where there are fewer groups of channels than threads, threads share the cells of one: each reads all of its
  // gradients, and adds those of its slice.
  plan.num_slices = divide_up(sizes.num_threads, sizes.num_images * plan.num_channel_groups(sizes));
  if (sums_all_channels(sizes)) {
    plan.task_channels = sizes.num_channels;
    plan.num_slices = std::max(divide_up(sizes.num_threads, sizes.num_images), num_slices_in_cache(sizes));
  }
  plan.task_cells = divide_up(sizes.num_cells, plan.num_slices);
  // Some channels of each cell lie so far apart in channels_last that in place they would fill but a part of the cache.
  // Where few cells have a sum, that does not matter.
  const bool is_scattered = sizes.channels_last && plan.task_channels < sizes.num_channels;
  plan.in_place = sizes.sums_in_dtype && (!is_scattered || few_sums);
  plan.clear_first = plan.in_place && is_scattered;
  return plan;
}

}  // namespace roipool::cpu
