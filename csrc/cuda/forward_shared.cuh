// Pools regions from planes that are copied to shared memory.
//
// forward_direct.cuh fetches a cell anew for each bin that it is in. Where there are at least as many bins as cells,
// and a plane fits in shared memory, a block copies the planes of a channel group there, side by side, and pools all
// regions of the image from them, or a share of the regions.
//
// Where no argmax is asked for, a cell may stand for several: squares of 2 x 2 cells are merged into the first of each,
// then those of 4 x 4, and of 8 x 8 (merge_squares). A region is pooled from the largest squares that fit in all its
// bins. Planes with a NaN or a negative zero are not merged, as the order of taking maxima shows in them.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "cuda/aligned_vector.cuh"
#include "cuda/divider.cuh"
#include "cuda/forward.h"
#include "cuda/forward_shared_cells.cuh"
#include "cuda/forward_shared_memory.h"
#include "cuda/forward_shared_regions.cuh"
#include "cuda/launch.cuh"
#include "cuda/maxima.cuh"
#include "problem.h"

namespace roipool::cuda {

// Does a block's work on a channel group of an image. Its functions are for whole blocks: all threads call them.
template <bool kArgmax, int kVectorSize, typename scalar_t>
class SharedForward {
 public:
  using Cell = AlignedVector<scalar_t, kVectorSize>;
  static_assert(sizeof(Cell) == kVectorBytes);

  __device__ SharedForward(const RoIPoolProblem& problem, int64_t image, int64_t first_channel)
      : problem_(problem),
        maps_(problem.levels[0]),
        image_(image),
        first_channel_(first_channel),
        width_(static_cast<int32_t>(maps_.width)),
        num_cells_(static_cast<int32_t>(maps_.num_cells())),
        cells_(reinterpret_cast<Cell*>(shared_memory)),
        lists_(*reinterpret_cast<SharedForwardLists*>(cells_ + num_cells_)) {}

  // Pools the regions of the image among first, first + step, and so on.
  __device__ void pool_share(int64_t first, int64_t step, scalar_t* output, int32_t* argmax) const {
    while (first < problem_.num_rois) {
      first = list_regions_of_share(problem_, image_, first, step, lists_);
      const int32_t num_listed = lists_.num_listed;
      if (num_listed > 0) {
        sort_by_num_merges<kArgmax>(problem_, maps_, lists_);
        copy_group();
      }
      __syncthreads();
      if (lists_.needs_rule) {
        pool_regions<false>(0, num_listed, 1, output, argmax);
      } else {
        merge_and_pool(num_listed, output, argmax);
      }
    }
  }

 private:
  __device__ void copy_group() const {
    const scalar_t* map =
        static_cast<const scalar_t*>(maps_.input) + image_ * maps_.image_stride + first_channel_ * maps_.channel_stride;
    if (copy_planes<kArgmax>(maps_, problem_.channels_last, map, problem_.num_channels - first_channel_, cells_)) {
      lists_.needs_rule = 1;
    }
  }

  // Pools the listed regions, those with the fewest merges first, and merges in between.
  __device__ void merge_and_pool(int32_t num_listed, scalar_t* output, int32_t* argmax) const {
    int32_t begin = 0;
    for (int num_merges = 0; begin < num_listed; ++num_merges) {
      if (num_merges > 0) {
        merge_squares(cells_, num_cells_, width_, 1 << (num_merges - 1));
      }
      int32_t end = begin + lists_.num_regions[num_merges];
      // Fewer merges do as well. A merge takes as long as pooling half as many bins as there are cells.
      if (2 * (num_listed - end) * problem_.num_bins() < num_cells_) {
        end = num_listed;
      }
      pool_regions<true>(begin, end, 1 << num_merges, output, argmax);
      begin = end;
    }
  }

  __device__ int64_t region_at(int32_t place) const { return lists_.regions[lists_.by_num_merges[place]]; }

  // Pools the regions at the places begin .. end-1 from squares of cells, and waits for all threads if there are any.
  // kGreaterDecides: no cell is a NaN, and no order of the cells shows in their maxima.
  template <bool kGreaterDecides>
  __device__ void pool_regions(int32_t begin, int32_t end, int32_t side, scalar_t* output, int32_t* argmax) const {
    const auto num_bins = static_cast<int32_t>(problem_.num_bins());
    const auto pooled_height = static_cast<int32_t>(problem_.pooled_height);
    const auto pooled_width = static_cast<int32_t>(problem_.pooled_width);
    const int32_t num_ranges = pooled_height + pooled_width;
    const SmallDivider by_ranges(num_ranges);
    const SmallDivider by_bins(num_bins);
    const SmallDivider by_width(pooled_width);
    const int32_t most_regions = kPlacedRanges / num_ranges;
    for (; begin < end; begin += most_regions) {
      const int32_t num_regions = end - begin < most_regions ? end - begin : most_regions;
      for (int32_t i = threadIdx.x; i < num_regions * num_ranges; i += blockDim.x) {
        const int32_t region_index = by_ranges.divide(i);
        lists_.ranges[i] = problem_.with_roi(region_at(begin + region_index), [&](const auto* roi) {
          return place_bin_range(problem_, maps_, roi, i - region_index * num_ranges);
        });
      }
      __syncthreads();
      for (int32_t i = threadIdx.x; i < num_regions * num_bins; i += blockDim.x) {
        const int32_t region_index = by_bins.divide(i);
        const int32_t bin_index = i - region_index * num_bins;
        const int32_t p = by_width.divide(bin_index);
        const ShortCellRange* rows = lists_.ranges + region_index * num_ranges;
        const ShortCellRange* columns = rows + pooled_height;
        const auto maxima = pool_squares<kGreaterDecides>(rows[p], columns[bin_index - p * pooled_width], side);
        write(maxima, region_at(begin + region_index), bin_index, output, argmax);
      }
      __syncthreads();  // before the ranges of other regions replace these
    }
  }

  template <bool kGreaterDecides>
  __device__ Maxima<scalar_t, kVectorSize> pool_squares(ShortCellRange rows, ShortCellRange columns,
                                                        int32_t side) const {
    Maxima<scalar_t, kVectorSize> maxima;
    if (rows.empty() || columns.empty()) {
      return maxima;
    }
    wide_t<scalar_t> best[kVectorSize];
    for (int i = 0; i < kVectorSize; ++i) {
      best[i] = -INFINITY;
      maxima.values.values[i] = static_cast<scalar_t>(best[i]);
      maxima.argmax.values[i] = rows.lo * width_ + columns.lo;
    }
    // Squares lie side by side, but for the last ones, which end where the bin does.
    for (int32_t y = rows.lo;; y = y + 2 * side < rows.hi ? y + side : rows.hi - side) {
      for (int32_t x = columns.lo;; x = x + 2 * side < columns.hi ? x + side : columns.hi - side) {
        const int32_t cell = y * width_ + x;
        take_greater<kGreaterDecides>(cells_[cell], cell, best, maxima);
        if (x + side >= columns.hi) {
          break;
        }
      }
      if (y + side >= rows.hi) {
        break;
      }
    }
    if constexpr (kGreaterDecides && !kArgmax) {
      for (int i = 0; i < kVectorSize; ++i) {
        maxima.values.values[i] = static_cast<scalar_t>(best[i]);
      }
    }
    return maxima;
  }

  // Replaces the maxima by what is greater in a cell, by the rule of replaces(). Where nothing but the values of the
  // maxima is asked for, and their order does not show, that is std::fmax.
  template <bool kGreaterDecides>
  __device__ static void take_greater(const Cell& vector, int32_t cell, wide_t<scalar_t> (&best)[kVectorSize],
                                      Maxima<scalar_t, kVectorSize>& maxima) {
    for (int i = 0; i < kVectorSize; ++i) {
      const wide_t<scalar_t> value = vector.values[i];
      if constexpr (kGreaterDecides && !kArgmax) {
        best[i] = std::fmax(best[i], value);
      } else if (kGreaterDecides ? value > best[i] : replaces(value, best[i])) {
        best[i] = value;
        maxima.values.values[i] = vector.values[i];
        maxima.argmax.values[i] = cell;
      }
    }
  }

  __device__ void write(const Maxima<scalar_t, kVectorSize>& maxima, int64_t k, int32_t bin_index, scalar_t* output,
                        int32_t* argmax) const {
    int64_t to = k * problem_.output_region_stride + first_channel_ * problem_.output_channel_stride +
                 bin_index * problem_.output_bin_stride;
    if (problem_.channels_last) {
      store(maxima.values, output + to);
      if (kArgmax) {
        store(maxima.argmax, argmax + to);
      }
      return;
    }
    for (int c = 0; c < kVectorSize && first_channel_ + c < problem_.num_channels;
         ++c, to += problem_.output_channel_stride) {
      output[to] = maxima.values.values[c];
      if (kArgmax) {
        argmax[to] = maxima.argmax.values[c];
      }
    }
  }

  const RoIPoolProblem& problem_;
  const FeatureMaps& maps_;
  const int64_t image_;
  const int64_t first_channel_;
  const int32_t width_;
  const int32_t num_cells_;
  Cell* const cells_;
  SharedForwardLists& lists_;
};

// Pools all regions of all images. argmax is written only where kArgmax.
//
//   output, argmax  [K, C, PH, PW]
template <bool kArgmax, int kVectorSize, typename scalar_t>
__global__ void __launch_bounds__(kMaxThreads)
    forward_shared_kernel(const RoIPoolProblem problem, const SharedForwardPlan plan, scalar_t* output,
                          int32_t* argmax) {
  const int64_t num_blocks = plan.num_blocks(problem);
  for (int64_t block = blockIdx.x; block < num_blocks; block += gridDim.x) {
    const int64_t first_channel = block % plan.num_groups * kVectorSize;
    const int64_t share = block / plan.num_groups % plan.num_shares;
    const int64_t image = block / plan.num_groups / plan.num_shares;
    const SharedForward<kArgmax, kVectorSize, scalar_t> forward(problem, image, first_channel);
    forward.pool_share(share, plan.num_shares, output, argmax);
  }
}

}  // namespace roipool::cuda
