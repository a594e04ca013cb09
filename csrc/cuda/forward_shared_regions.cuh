// Lists the regions that a block of the forward from shared memory pools. The functions that take `lists` are for whole
// blocks: all threads call them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/forward_shared_memory.h"
#include "problem.h"

namespace roipool::cuda {

// Lists the regions of an image among first, first + step, and so on, until there are no more, or no room for more;
// returns the region to go on with. Regions of no image are dealt out to the images.
__device__ inline int64_t list_regions_of_share(const RoIPoolProblem& problem, int64_t image, int64_t first,
                                                int64_t step, SharedForwardLists& lists) {
  if (threadIdx.x == 0) {
    lists.num_listed = 0;
    lists.needs_rule = 0;
  }
  if (threadIdx.x <= kMaxMerges) {
    lists.num_regions[threadIdx.x] = 0;
    lists.num_sorted[threadIdx.x] = 0;
  }
  int32_t num_listed = 0;
  while (first < problem.num_rois && num_listed + kScannedRegions <= kListedRegions) {
    __syncthreads();  // before others are listed, all have read how many there are
    for (int i = threadIdx.x; i < kScannedRegions; i += blockDim.x) {
      const int64_t k = first + i * step;
      if (k < problem.num_rois) {
        const int64_t image_of_k = problem.image_of_region(k);
        if (image_of_k == image || (image_of_k < 0 && k % problem.num_images == image)) {
          lists.regions[atomicAdd(&lists.num_listed, 1)] = static_cast<uint32_t>(k);
        }
      }
    }
    __syncthreads();
    num_listed = lists.num_listed;
    first += kScannedRegions * step;
  }
  return first;
}

// Returns the least height and width of a region's bins that have a cell; 0 where none has.
template <typename T>
__device__ int32_t min_bin_side(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi) {
  Axis<T> x;
  Axis<T> y;
  if (!place_axes(problem, maps, roi, &x, &y)) {
    return 0;
  }
  const auto min_side = [](const Axis<T>& axis, int64_t num_bins) {
    int32_t side = 0;
    for (int64_t i = 0; i < num_bins; ++i) {
      const CellRange cells = axis.bin_cells(i);
      if (!cells.empty() && (side == 0 || cells.hi - cells.lo < side)) {
        side = cells.hi - cells.lo;
      }
    }
    return side;
  };
  const int32_t height = min_side(y, problem.pooled_height);
  const int32_t width = min_side(x, problem.pooled_width);
  return height < width ? height : width;
}

// Sorts the listed regions by how many times the squares of cells may be merged, up to the largest squares that fit in
// all bins of the region. For an argmax, squares are never merged.
template <bool kArgmax>
__device__ void sort_by_num_merges(const RoIPoolProblem& problem, const FeatureMaps& maps, SharedForwardLists& lists) {
  for (int32_t i = threadIdx.x; i < lists.num_listed; i += blockDim.x) {
    uint8_t num_merges = 0;
    if (!kArgmax) {
      const int32_t side =
          problem.with_roi(lists.regions[i], [&](const auto* roi) { return min_bin_side(problem, maps, roi); });
      while (num_merges < kMaxMerges && (2 << num_merges) <= side) {
        ++num_merges;
      }
    }
    lists.num_merges[i] = num_merges;
    atomicAdd(&lists.num_regions[num_merges], 1);
  }
  __syncthreads();
  for (int32_t i = threadIdx.x; i < lists.num_listed; i += blockDim.x) {
    int32_t place = atomicAdd(&lists.num_sorted[lists.num_merges[i]], 1);
    for (int fewer = 0; fewer < lists.num_merges[i]; ++fewer) {
      place += lists.num_regions[fewer];
    }
    lists.by_num_merges[place] = static_cast<uint16_t>(i);
  }
}

// Places row i of a region's bins, or column i - PH.
template <typename T>
__device__ ShortCellRange place_bin_range(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi,
                                          int64_t i) {
  Axis<T> x;
  Axis<T> y;
  if (!place_axes(problem, maps, roi, &x, &y)) {
    return ShortCellRange{};
  }
  const CellRange cells = i < problem.pooled_height ? y.bin_cells(i) : x.bin_cells(i - problem.pooled_height);
  return {static_cast<int16_t>(cells.lo), static_cast<int16_t>(cells.hi)};
}

}  // namespace roipool::cuda
