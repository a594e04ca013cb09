#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/launch.cuh"
#include "problem.h"

namespace roipool {
namespace {

// The maps that region k is pooled from. A kernel for a single level has kPyramid = false: what it reads of them then
// lies at places that the compiler knows, and takes no registers.
template <bool kPyramid>
__device__ const FeatureMaps& maps_of_region(const RoIPoolProblem& problem, int64_t k) {
  return problem.levels[kPyramid ? problem.level_of_region(k) : 0];
}

// The cells of one bin.
struct Bin {
  Window row;
  Window column;

  __device__ bool empty() const { return row.empty() || column.empty(); }
};

// The axes of a region; false where all its bins are empty, by decree.
template <typename T>
__device__ bool locate_axes(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi, Axis<T>* x,
                            Axis<T>* y) {
  const T spatial_scale = static_cast<T>(maps.spatial_scale);
  return image_of(roi, problem.num_images) >= 0 &&
         make_axis(roi[1], roi[3], spatial_scale, maps.width, problem.pooled_width, x) &&
         make_axis(roi[2], roi[4], spatial_scale, maps.height, problem.pooled_height, y);
}

template <typename T>
__device__ Bin locate_bin(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi, int64_t p, int64_t q) {
  Axis<T> x;
  Axis<T> y;
  return locate_axes(problem, maps, roi, &x, &y) ? Bin{y.window(p), x.window(q)} : Bin{};
}

// function(roi) for region k.
template <typename Function>
__device__ auto with_roi(const RoIPoolProblem& problem, int64_t k, const Function& function) {
  return problem.rois_are_double ? function(static_cast<const double*>(problem.rois) + 5 * k)
                                 : function(static_cast<const float*>(problem.rois) + 5 * k);
}

// A bin of region k, in the maps of its level.
__device__ Bin locate_bin(const RoIPoolProblem& problem, const FeatureMaps& maps, const Divider& pooled_width,
                          int64_t k, int64_t bin) {
  const int64_t p = pooled_width.divide(bin);
  const int64_t q = bin - p * problem.pooled_width;
  return with_roi(problem, k, [&](const auto* roi) { return locate_bin(problem, maps, roi, p, q); });
}

}  // namespace
}  // namespace roipool
