// Calls roipool's operators from C++, by way of PyTorch's dispatcher. CMake finds this header and the libraries by
// find_package(roipool); see examples/cpp.
//
// They compute what the Python functions of the same names do, without derivatives: those come from Python alone. Call
// them under c10::InferenceMode or at::NoGradGuard. Elsewhere, backward() warns, and their gradients are missing.
//
// Arguments that are refused raise a std::exception that says why. Its type depends on the version of torch.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdint>

namespace roipool {

// Max-pools regions of feature maps to a fixed size.
//
//   input          [N, C, H, W]; float16, bfloat16, float32 or float64
//   rois           [K, 5], rows [batch_index, x1, y1, x2, y2], corners in image pixels; floating, int32 or int64
//   spatial_scale  feature cells per image pixel
//
// Returns [K, C, pooled_height, pooled_width] in the dtype and memory format of input.
inline at::Tensor roi_pool(const at::Tensor& input, const at::Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                           double spatial_scale) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymInt, c10::SymInt, double);
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("roipool::roi_pool", "").typed<Signature>();
  return op.call(input, rois, pooled_height, pooled_width, spatial_scale);
}

// Max-pools each region from one level of a feature pyramid: of those that there are, the one that is nearest to
// floor(canonical_level + log2(sqrt(area) / canonical_scale) + 1e-6).
//
//   inputs           1 to 8 maps, finest first, each as the input of roi_pool; all of one N, C, dtype and device
//   spatial_scales   feature cells per image pixel, of each map. The first map is of level -log2(spatial_scales[0]),
//                    rounded; each further map is of the next level
//   canonical_scale  size in image pixels, the square root of the area, of the regions that belong to canonical_level
inline at::Tensor multiscale_roi_pool(at::TensorList inputs, const at::Tensor& rois, int64_t pooled_height,
                                      int64_t pooled_width, c10::ArrayRef<double> spatial_scales,
                                      double canonical_scale = 224, int64_t canonical_level = 4) {
  using Signature =
      at::Tensor(at::TensorList, const at::Tensor&, c10::SymInt, c10::SymInt, c10::ArrayRef<double>, double, int64_t);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("roipool::multiscale_roi_pool", "").typed<Signature>();
  return op.call(inputs, rois, pooled_height, pooled_width, spatial_scales, canonical_scale, canonical_level);
}

}  // namespace roipool
