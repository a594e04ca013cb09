// Finds the cells of a region's bins.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/divider.cuh"
#include "geometry.h"
#include "problem.h"

namespace roipool::cuda {

// Returns the maps that region k is pooled from. A kernel for a single level has kPyramid = false: what it reads of the
// maps then lies at places that the compiler knows, and takes no registers.
template <bool kPyramid>
__device__ const FeatureMaps& maps_of_region(const RoIPoolProblem& problem, int64_t k) {
  return problem.levels[kPyramid ? problem.level_of_region(k) : 0];
}

template <typename T>
__device__ CellRectangle place_bin(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi, int64_t p,
                                   int64_t q) {
  Axis<T> x;
  Axis<T> y;
  return place_axes(problem, maps, roi, &x, &y) ? CellRectangle{y.bin_cells(p), x.bin_cells(q)} : CellRectangle{};
}

// Places a bin of region k in the maps of its level.
__device__ inline CellRectangle place_bin(const RoIPoolProblem& problem, const FeatureMaps& maps,
                                          const Divider& pooled_width, int64_t k, int64_t bin_index) {
  const int64_t p = pooled_width.divide(bin_index);
  const int64_t q = bin_index - p * problem.pooled_width;
  return problem.with_roi(k, [&](const auto* roi) { return place_bin(problem, maps, roi, p, q); });
}

}  // namespace roipool::cuda
