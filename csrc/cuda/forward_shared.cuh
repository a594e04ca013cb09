#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/aligned_vector.cuh"
#include "cuda/forward_direct.cuh"
#include "cuda/launch.cuh"
#include "cuda/regions.cuh"
#include "problem.h"

namespace roipool::cuda {

// ---- Forward, from shared memory.
//
// The kernels above fetch a cell anew for each bin that it is in. Where there are at least as many bins as cells, and a
// plane fits in shared memory, a block copies kSize channels of an image there, side by side, and pools all regions of
// the image from them, or a share of the regions.
//
// Where no argmax is asked for, a cell may stand for several: it is raised to the maximum of 2 x 2 cells, of which it
// is the first, then of 4 x 4, and of 8 x 8. A region is pooled from the largest squares that fit in all its bins: its
// reach. Only planes without a NaN or a negative zero are raised, as the order of taking maxima does not show in them.

constexpr int kListed = 1024;        // regions that are pooled from one copy of the planes
constexpr int kScanned = 512;        // that are looked at together, for those of an image
constexpr int kListedWindows = 512;  // that are placed together: rows and columns of bins
constexpr uint8_t kReaches = 4;      // 1, 2, 4 and 8 cells; written as 0 to 3

// As CellRange, for maps that fit in shared memory.
struct ShortWindow {
  int16_t lo;
  int16_t hi;

  __device__ bool empty() const { return hi <= lo; }
};

// What a block has in shared memory, beside its cells.
struct StagedLists {
  ShortWindow windows[kListedWindows];  // of some regions, each: PH of rows, PW of columns
  uint32_t listed[kListed];             // regions
  uint16_t by_reach[kListed];           // places in the list, those of regions of the least reach first
  uint8_t reaches[kListed];
  int32_t num_listed;
  int32_t counts[kReaches];  // regions of a reach
  int32_t nexts[kReaches];   // those of them that by_reach has
  int32_t special;           // whether a cell is
};

struct StagedPlan {
  int64_t num_groups;    // of channels, in an image
  int64_t num_shares;    // of the regions
  int64_t shared_bytes;  // of a block
  int num_threads;

  ROIPOOL_HOST_DEVICE int64_t num_blocks(const RoIPoolProblem& problem) const {
    return problem.num_images * num_groups * num_shares;
  }
};

// False where planes do not fit, or are not worth copying.
template <int kSize, typename scalar_t>
bool plan_staged(const RoIPoolProblem& problem, const Device& device, StagedPlan* plan) {
  const int64_t num_cells = problem.levels[0].num_cells();
  const int64_t shared_bytes = num_cells * sizeof(Pack<scalar_t, kSize>) + sizeof(StagedLists);
  if (problem.num_levels > 1 || problem.channels < kSize || num_cells == 0 || num_cells > INT16_MAX ||
      shared_bytes > device.shared_bytes || problem.num_images == 0 || problem.pooled_height >= kListedWindows ||
      problem.pooled_height + problem.pooled_width > kListedWindows || problem.num_rois > UINT32_MAX ||
      problem.num_rois * problem.num_bins() < problem.num_images * num_cells) {
    return false;
  }
  // A wave of blocks, as many as fit; but each should have as many bins to pool as cells to copy.
  constexpr int64_t kReserved = 1024;  // bytes of shared memory that the system takes for each block
  const int64_t fitting = std::min<int64_t>(4, (device.shared_bytes + kReserved) / (shared_bytes + kReserved));
  const int64_t most_shares = problem.num_rois * problem.num_bins() / (problem.num_images * num_cells);
  plan->num_groups = divide_up(problem.channels, kSize);
  plan->num_shares = std::clamp<int64_t>(fitting * device.num_multiprocessors / (problem.num_images * plan->num_groups),
                                         1, most_shares);
  plan->shared_bytes = shared_bytes;
  // 1024 threads on a multiprocessor, which have 64 registers each.
  const int64_t at_once = std::min(fitting, divide_up(plan->num_blocks(problem), device.num_multiprocessors));
  plan->num_threads = static_cast<int>(kMostThreads / at_once / kWarp * kWarp);
  return 2 * plan->num_blocks(problem) >= device.num_multiprocessors;
}

// The least height and width of a region's bins that have a cell; 0 where none has.
template <typename T>
__device__ int32_t least_side(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi) {
  Axis<T> x;
  Axis<T> y;
  if (place_region(problem, maps, roi, &x, &y) < 0) {
    return 0;
  }
  const auto least = [](const Axis<T>& axis, int64_t num_windows) {
    int32_t side = 0;
    for (int64_t i = 0; i < num_windows; ++i) {
      const CellRange window = axis.bin_cells(i);
      if (!window.empty() && (side == 0 || window.hi - window.lo < side)) {
        side = window.hi - window.lo;
      }
    }
    return side;
  };
  const int32_t height = least(y, problem.pooled_height);
  const int32_t width = least(x, problem.pooled_width);
  return height < width ? height : width;
}

// Of a region, row i of its bins, or column i - PH.
template <typename T>
__device__ ShortWindow locate_window(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi, int64_t i) {
  Axis<T> x;
  Axis<T> y;
  if (place_region(problem, maps, roi, &x, &y) < 0) {
    return ShortWindow{};
  }
  const CellRange window = i < problem.pooled_height ? y.bin_cells(i) : x.bin_cells(i - problem.pooled_height);
  return {static_cast<int16_t>(window.lo), static_cast<int16_t>(window.hi)};
}

// A block's work on some channels of an image. Its functions are for whole blocks: all threads call them.
template <bool kArgmax, int kSize, typename scalar_t>
class Stage {
 public:
  using Cell = Pack<scalar_t, kSize>;

  __device__ Stage(const RoIPoolProblem& problem, int64_t image, int64_t channel)
      : problem_(problem),
        maps_(problem.levels[0]),
        image_(image),
        channel_(channel),
        width_(static_cast<int32_t>(maps_.width)),
        num_cells_(static_cast<int32_t>(maps_.num_cells())),
        cells_(reinterpret_cast<Cell*>(shared_memory)),
        lists_(*reinterpret_cast<StagedLists*>(cells_ + num_cells_)) {}

  // Pools the regions of its image among first, first + step, and so on.
  __device__ void pool(int64_t first, int64_t step, scalar_t* output, int32_t* argmax) const {
    while (first < problem_.num_rois) {
      first = list(first, step);
      const int32_t num_listed = lists_.num_listed;
      if (num_listed > 0) {
        sort_by_reach();
        copy_planes();
      }
      __syncthreads();
      if (lists_.special) {
        pool_listed<false>(0, num_listed, 1, output, argmax);
      } else {
        pool_by_reach(num_listed, output, argmax);
      }
    }
  }

 private:
  // Lists regions until there are no more, or no room for more; returns where to go on. Regions of no image are taken
  // by images in turn.
  __device__ int64_t list(int64_t first, int64_t step) const {
    if (threadIdx.x == 0) {
      lists_.num_listed = 0;
      lists_.special = 0;
    }
    if (threadIdx.x < kReaches) {
      lists_.counts[threadIdx.x] = 0;
      lists_.nexts[threadIdx.x] = 0;
    }
    int32_t num_listed = 0;
    while (first < problem_.num_rois && num_listed + kScanned <= kListed) {
      __syncthreads();  // before others are listed, all have read how many there are
      for (int i = threadIdx.x; i < kScanned; i += blockDim.x) {
        const int64_t k = first + i * step;
        if (k < problem_.num_rois) {
          const int64_t image = problem_.image_of_region(k);
          if (image == image_ || (image < 0 && k % problem_.num_images == image_)) {
            lists_.listed[atomicAdd(&lists_.num_listed, 1)] = static_cast<uint32_t>(k);
          }
        }
      }
      __syncthreads();
      num_listed = lists_.num_listed;
      first += kScanned * step;
    }
    return first;
  }

  __device__ void sort_by_reach() const {
    for (int32_t i = threadIdx.x; i < lists_.num_listed; i += blockDim.x) {
      uint8_t reach = 0;
      if (!kArgmax) {
        const int32_t side =
            problem_.with_roi(lists_.listed[i], [&](const auto* roi) { return least_side(problem_, maps_, roi); });
        while (reach + 1 < kReaches && (2 << reach) <= side) {
          ++reach;
        }
      }
      lists_.reaches[i] = reach;
      atomicAdd(&lists_.counts[reach], 1);
    }
    __syncthreads();
    for (int32_t i = threadIdx.x; i < lists_.num_listed; i += blockDim.x) {
      int32_t place = atomicAdd(&lists_.nexts[lists_.reaches[i]], 1);
      for (int reach = 0; reach < lists_.reaches[i]; ++reach) {
        place += lists_.counts[reach];
      }
      lists_.by_reach[place] = static_cast<uint16_t>(i);
    }
  }

  __device__ void pool_by_reach(int32_t num_listed, scalar_t* output, int32_t* argmax) const {
    int32_t begin = 0;
    for (int reach = 0; begin < num_listed; ++reach) {
      if (reach > 0) {
        raise(1 << (reach - 1));
      }
      int32_t end = begin + lists_.counts[reach];
      // A smaller reach does as well. Raising takes as long as pooling half as many bins as there are cells.
      if (2 * (num_listed - end) * problem_.num_bins() < num_cells_) {
        end = num_listed;
      }
      pool_listed<true>(begin, end, 1 << reach, output, argmax);
      begin = end;
    }
  }

  // Channels beyond the last are 0.
  __device__ void copy_planes() const {
    const scalar_t* map =
        static_cast<const scalar_t*>(maps_.input) + image_ * maps_.image_stride + channel_ * maps_.channel_stride;
    const int64_t channels = problem_.channels - channel_;
    bool special = false;
    ROIPOOL_UNROLL(4)
    for (int32_t i = threadIdx.x; i < num_cells_; i += blockDim.x) {
      Cell cell{};
      if (problem_.channels_last) {
        cell = load<scalar_t, kSize>(map + i * maps_.cell_stride);
      } else {
        for (int c = 0; c < kSize; ++c) {
          if (c < channels) {
            cell.values[c] = map[c * maps_.channel_stride + i];
          }
        }
      }
      for (int c = 0; c < kSize; ++c) {
        const wide_t<scalar_t> value = cell.values[c];
        special = special || value != value || (!kArgmax && value == 0 && std::signbit(value));
      }
      cells_[i] = cell;
    }
    if (special) {
      lists_.special = 1;
    }
  }

  // From squares of `reach` cells to those of twice as many. The cells right of the last such squares, and below, get
  // what is of no use: nobody asks for it.
  __device__ void raise(int32_t reach) const {
    for (int32_t first = 0; first < num_cells_; first += blockDim.x) {
      const int32_t i = first + threadIdx.x;
      wide_t<scalar_t> best[kSize];
      for (int c = 0; c < kSize; ++c) {
        best[c] = -INFINITY;
      }
      for (const int32_t from : {i, i + reach, i + reach * width_, i + reach * width_ + reach}) {
        const Cell cell = cells_[from < num_cells_ ? from : num_cells_ - 1];
        for (int c = 0; c < kSize; ++c) {
          best[c] = std::fmax(best[c], static_cast<wide_t<scalar_t>>(cell.values[c]));
        }
      }
      __syncthreads();  // these cells are read by others; those before them no more
      if (i < num_cells_) {
        Cell raised;
        for (int c = 0; c < kSize; ++c) {
          raised.values[c] = static_cast<scalar_t>(best[c]);
        }
        cells_[i] = raised;
      }
    }
    __syncthreads();
  }

  __device__ int64_t region_at(int32_t place) const { return lists_.listed[lists_.by_reach[place]]; }

  // Pools the regions at the places begin .. end-1, and waits for all threads if there are any. kPlain: no cell is
  // special.
  template <bool kPlain>
  __device__ void pool_listed(int32_t begin, int32_t end, int32_t reach, scalar_t* output, int32_t* argmax) const {
    const auto num_bins = static_cast<int32_t>(problem_.num_bins());
    const auto pooled_height = static_cast<int32_t>(problem_.pooled_height);
    const auto pooled_width = static_cast<int32_t>(problem_.pooled_width);
    const int32_t num_windows = pooled_height + pooled_width;
    const SmallDivider by_windows(num_windows);
    const SmallDivider by_bins(num_bins);
    const SmallDivider by_width(pooled_width);
    const int32_t at_a_time = kListedWindows / num_windows;
    for (; begin < end; begin += at_a_time) {
      const int32_t count = end - begin < at_a_time ? end - begin : at_a_time;
      for (int32_t i = threadIdx.x; i < count * num_windows; i += blockDim.x) {
        const int32_t region = by_windows.divide(i);
        lists_.windows[i] = problem_.with_roi(region_at(begin + region), [&](const auto* roi) {
          return locate_window(problem_, maps_, roi, i - region * num_windows);
        });
      }
      __syncthreads();
      for (int32_t i = threadIdx.x; i < count * num_bins; i += blockDim.x) {
        const int32_t region = by_bins.divide(i);
        const int32_t bin = i - region * num_bins;
        const int32_t p = by_width.divide(bin);
        const ShortWindow* rows = lists_.windows + region * num_windows;
        const ShortWindow* columns = rows + pooled_height;
        const auto maxima = pool_bin<kPlain>(rows[p], columns[bin - p * pooled_width], reach);
        write(maxima, region_at(begin + region), bin, output, argmax);
      }
      __syncthreads();  // before the windows of other regions replace these
    }
  }

  template <bool kPlain>
  __device__ Maxima<scalar_t, kSize> pool_bin(ShortWindow row, ShortWindow column, int32_t reach) const {
    Maxima<scalar_t, kSize> maxima;
    if (row.empty() || column.empty()) {
      return maxima;
    }
    wide_t<scalar_t> best[kSize];
    for (int i = 0; i < kSize; ++i) {
      best[i] = -INFINITY;
      maxima.values.values[i] = static_cast<scalar_t>(best[i]);
      maxima.cells.values[i] = row.lo * width_ + column.lo;
    }
    // Squares lie side by side, but for the last ones, which end where the bin does.
    for (int32_t y = row.lo;; y = y + 2 * reach < row.hi ? y + reach : row.hi - reach) {
      for (int32_t x = column.lo;; x = x + 2 * reach < column.hi ? x + reach : column.hi - reach) {
        const int32_t at = y * width_ + x;
        const Cell cell = cells_[at];
        for (int i = 0; i < kSize; ++i) {
          const wide_t<scalar_t> value = cell.values[i];
          if constexpr (kPlain && !kArgmax) {
            best[i] = std::fmax(best[i], value);
          } else if (value > best[i] || (!kPlain && value != value)) {
            best[i] = value;
            maxima.values.values[i] = cell.values[i];
            maxima.cells.values[i] = at;
          }
        }
        if (x + reach >= column.hi) {
          break;
        }
      }
      if (y + reach >= row.hi) {
        break;
      }
    }
    if constexpr (kPlain && !kArgmax) {
      for (int i = 0; i < kSize; ++i) {
        maxima.values.values[i] = static_cast<scalar_t>(best[i]);
      }
    }
    return maxima;
  }

  __device__ void write(const Maxima<scalar_t, kSize>& maxima, int64_t k, int32_t bin, scalar_t* output,
                        int32_t* argmax) const {
    int64_t to = k * problem_.output_region_stride + channel_ * problem_.output_channel_stride +
                 bin * problem_.output_bin_stride;
    if (problem_.channels_last) {
      store(maxima.values, output + to);
      if (kArgmax) {
        store(maxima.cells, argmax + to);
      }
      return;
    }
    for (int c = 0; c < kSize && channel_ + c < problem_.channels; ++c, to += problem_.output_channel_stride) {
      output[to] = maxima.values.values[c];
      if (kArgmax) {
        argmax[to] = maxima.cells.values[c];
      }
    }
  }

  const RoIPoolProblem& problem_;
  const FeatureMaps& maps_;
  const int64_t image_;
  const int64_t channel_;  // the first
  const int32_t width_;
  const int32_t num_cells_;
  Cell* const cells_;
  StagedLists& lists_;
};

// output, argmax: [K, C, PH, PW]; argmax only where kArgmax
template <bool kArgmax, int kSize, typename scalar_t>
__global__ void __launch_bounds__(kMostThreads)
    pool_staged(const RoIPoolProblem problem, const StagedPlan plan, scalar_t* output, int32_t* argmax) {
  const int64_t num_blocks = plan.num_blocks(problem);
  for (int64_t block = blockIdx.x; block < num_blocks; block += gridDim.x) {
    const int64_t channel = block % plan.num_groups * kSize;
    const int64_t share = block / plan.num_groups % plan.num_shares;
    const int64_t image = block / plan.num_groups / plan.num_shares;
    const Stage<kArgmax, kSize, scalar_t> stage(problem, image, channel);
    stage.pool(share, plan.num_shares, output, argmax);
  }
}

}  // namespace roipool::cuda
