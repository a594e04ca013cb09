// The operator as plain data, free of torch, so that a kernel can be compiled and tested without it.
#pragma once

#include <cstdint>
#include <type_traits>

#include "geometry.h"

namespace roipool {

// Half-precision numbers are compared, and their gradients summed, as floats.
template <typename scalar_t>
using wide_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

// The feature maps of a batch, at one level where there are several.
struct FeatureMaps {
  void* data;              // [N, C, H, W]: input, or grad_input in the backward
  int64_t height;          // H, in cells
  int64_t width;           // W, in cells
  double spatial_scale;    // cells per image pixel
  int64_t image_stride;    // in elements
  int64_t channel_stride;  // H*W where contiguous, 1 where channels_last
  int64_t cell_stride;     // 1 where contiguous, C where channels_last; cell = y * W + x

  ROIPOOL_HOST_DEVICE int64_t num_cells() const { return height * width; }
};

constexpr int64_t kMaxLevels = 8;

// One call of any of the operators.
struct RoIPoolProblem {
  FeatureMaps levels[kMaxLevels];       // of a feature pyramid, finest first; a single one where there is no pyramid
  double level_bounds[kMaxLevels - 1];  // see level_of()
  int64_t num_levels;
  int64_t num_images;      // N
  const void* rois;        // [K, 5], contiguous: batch_index, x1, y1, x2, y2
  bool rois_are_double;    // else float
  bool channels_last;      // the memory format of maps, output and argmax alike
  int64_t num_rois;        // K
  int64_t channels;        // C
  int64_t pooled_height;   // PH
  int64_t pooled_width;    // PW
  int64_t region_stride;   // of output and argmax [K, C, PH, PW], in elements
  int64_t channel_stride;  // PH*PW where contiguous, 1 where channels_last
  int64_t bin_stride;      // 1 where contiguous, C where channels_last; bin = p * PW + q

  ROIPOOL_HOST_DEVICE int64_t num_bins() const { return pooled_height * pooled_width; }

  // The image that region k belongs to, or -1.
  ROIPOOL_HOST_DEVICE int64_t image_of_region(int64_t k) const {
    return rois_are_double ? image_of(static_cast<const double*>(rois) + 5 * k, num_images)
                           : image_of(static_cast<const float*>(rois) + 5 * k, num_images);
  }

  // The level that region k is pooled from.
  ROIPOOL_HOST_DEVICE int64_t level_of_region(int64_t k) const {
    return rois_are_double ? level_of(static_cast<const double*>(rois) + 5 * k, level_bounds, num_levels)
                           : level_of(static_cast<const float*>(rois) + 5 * k, level_bounds, num_levels);
  }
};

}  // namespace roipool
