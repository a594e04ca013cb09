// Describes one call of any of the operators as plain data, free of torch, so that kernels can be compiled and tested
// without it; and states the rules that all kernels share.
#pragma once

#include <cstdint>

#include "dtypes.h"
#include "geometry.h"
#include "host_device.h"

namespace roipool {

// Describes the feature maps of a batch; of one level, where there are several.
struct FeatureMaps {
  const void* input;       // [N, C, H, W], read by forward and gather; null in the backward
  void* grad_input;        // [N, C, H, W], written by the backward; null in forward and gather
  int64_t height;          // H, in cells
  int64_t width;           // W, in cells
  double spatial_scale;    // cells per image pixel
  int64_t image_stride;    // in elements
  int64_t channel_stride;  // H*W where contiguous, 1 where channels_last
  int64_t cell_stride;     // 1 where contiguous, C where channels_last; cell = y * W + x

  ROIPOOL_HOST_DEVICE int64_t num_cells() const { return height * width; }
};

constexpr int64_t kMaxLevels = 8;

struct RoIPoolProblem {
  FeatureMaps levels[kMaxLevels];       // of a feature pyramid, finest first; just one where there is no pyramid
  double level_bounds[kMaxLevels - 1];  // see level_of()
  int64_t num_levels;
  int64_t num_images;             // N
  DType dtype;                    // of maps and output
  const void* rois;               // [K, 5], contiguous: batch_index, x1, y1, x2, y2
  bool rois_are_double;           // else float
  bool channels_last;             // the memory format of maps, output and argmax alike
  int64_t num_rois;               // K
  int64_t num_channels;           // C
  int64_t pooled_height;          // PH
  int64_t pooled_width;           // PW
  int64_t output_region_stride;   // of output and argmax [K, C, PH, PW], in elements
  int64_t output_channel_stride;  // PH*PW where contiguous, 1 where channels_last
  int64_t output_bin_stride;      // 1 where contiguous, C where channels_last; bin_index = p * PW + q

  ROIPOOL_HOST_DEVICE int64_t num_bins() const { return pooled_height * pooled_width; }

  // Calls function(roi) with the row of `rois` that describes region k: a const float* or a const double*.
  ROIPOOL_NO_HOST_DEVICE_CHECK
  template <typename Function>
  ROIPOOL_HOST_DEVICE auto with_roi(int64_t k, const Function& function) const {
    return rois_are_double ? function(static_cast<const double*>(rois) + 5 * k)
                           : function(static_cast<const float*>(rois) + 5 * k);
  }

  // Returns the image that region k belongs to, or -1.
  ROIPOOL_HOST_DEVICE int64_t image_of_region(int64_t k) const {
    return with_roi(k, [this](const auto* roi) { return image_of(roi, num_images); });
  }

  // Returns the level that region k is pooled from.
  ROIPOOL_HOST_DEVICE int64_t level_of_region(int64_t k) const {
    return with_roi(k, [this](const auto* roi) { return level_of(roi, level_bounds, num_levels); });
  }
};

// Places a region on maps: bin (p, q) has the cells y->bin_cells(p) by x->bin_cells(q). Returns the image that they lie
// in, or -1 where every bin is empty, because the batch index is outside the batch or a coordinate is not finite.
template <typename T>
ROIPOOL_HOST_DEVICE int64_t place_region(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi,
                                         Axis<T>* x, Axis<T>* y) {
  const T spatial_scale = static_cast<T>(maps.spatial_scale);
  const bool is_finite = make_axis(roi[1], roi[3], spatial_scale, maps.width, problem.pooled_width, x) &&
                         make_axis(roi[2], roi[4], spatial_scale, maps.height, problem.pooled_height, y);
  return is_finite ? image_of(roi, problem.num_images) : -1;
}

// Returns whether a cell's value replaces the best of its bin so far, where cells are visited in row-major order: it is
// greater, or NaN. That is the rule of torch.nn.functional.max_pool2d.
template <typename T>
ROIPOOL_HOST_DEVICE bool replaces(T value, T best) {
  return value > best || value != value;
}

// Returns whether an element of argmax names a cell. It names none in an empty bin; callers may pass any number.
ROIPOOL_HOST_DEVICE bool is_cell(int32_t argmax, int64_t num_cells) { return argmax >= 0 && argmax < num_cells; }

}  // namespace roipool
