// Makes the problems and devices that the tests of CUDA plans share.
#pragma once

#include <cstdint>

#include "cuda/device_limits.h"
#include "problem.h"

constexpr roipool::cuda::DeviceLimits kHopper{232448, 132};  // an H100

// Returns a problem of one level with contiguous float32 maps [N, C, H, W], pooled from K regions.
inline roipool::RoIPoolProblem problem_of(int64_t num_images, int64_t num_channels, int64_t height, int64_t width,
                                          int64_t num_rois = 1000, int64_t pooled_height = 7,
                                          int64_t pooled_width = 7) {
  roipool::RoIPoolProblem problem{};
  problem.dtype = roipool::DType::kFloat32;
  problem.num_levels = 1;
  problem.num_images = num_images;
  problem.num_channels = num_channels;
  problem.levels[0].height = height;
  problem.levels[0].width = width;
  problem.num_rois = num_rois;
  problem.pooled_height = pooled_height;
  problem.pooled_width = pooled_width;
  return problem;
}

inline roipool::RoIPoolProblem channels_last(roipool::RoIPoolProblem problem) {
  problem.channels_last = true;
  return problem;
}
