#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/launch.cuh"
#include "problem.h"

namespace roipool::cuda {

// The maps that region k is pooled from. A kernel for a single level has kPyramid = false: what it reads of them then
// lies at places that the compiler knows, and takes no registers.
template <bool kPyramid>
__device__ const FeatureMaps& maps_of_region(const RoIPoolProblem& problem, int64_t k) {
  return problem.levels[kPyramid ? problem.level_of_region(k) : 0];
}

// The cells of one bin.
struct Bin {
  CellRange row;
  CellRange column;

  __device__ bool empty() const { return row.empty() || column.empty(); }
};

template <typename T>
__device__ Bin locate_bin(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi, int64_t p, int64_t q) {
  Axis<T> x;
  Axis<T> y;
  return place_region(problem, maps, roi, &x, &y) >= 0 ? Bin{y.bin_cells(p), x.bin_cells(q)} : Bin{};
}

// A bin of region k, in the maps of its level.
__device__ inline Bin locate_bin(const RoIPoolProblem& problem, const FeatureMaps& maps, const Divider& pooled_width,
                                 int64_t k, int64_t bin) {
  const int64_t p = pooled_width.divide(bin);
  const int64_t q = bin - p * problem.pooled_width;
  return problem.with_roi(k, [&](const auto* roi) { return locate_bin(problem, maps, roi, p, q); });
}

}  // namespace roipool::cuda
