// Every refusal of an argument, one sentence each: the name of the argument, what it must be, what it was.
//
// roipool/_ops/checks.py says the same of the same arguments, word for word, where no native kernel runs; the tests
// compare them.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "ops/pyramid.h"
#include "problem.h"

namespace roipool {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// ---- How an error names things: as Python prints them.

inline std::string name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default: {
      std::string name = torch::headeronly::toString(dtype);
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
      return name;
    }
  }
}

inline std::string name_of(const torch::stable::Device& device) {
  std::ostringstream name;
  switch (device.type()) {
    case torch::headeronly::DeviceType::CPU:
      return "cpu";
    case torch::headeronly::DeviceType::CUDA:
      name << "cuda";
      break;
    default:
      name << "device type " << static_cast<int>(device.type());
  }
  if (device.has_index()) {
    name << ":" << static_cast<int>(device.index());
  }
  return name.str();
}

template <typename Sizes>
inline std::string name_of_shape(const Sizes& sizes) {
  std::ostringstream text;
  for (size_t i = 0; i < sizes.size(); ++i) {
    text << (i > 0 ? ", " : "(") << sizes[i];
  }
  text << (sizes.size() == 0 ? "()" : sizes.size() == 1 ? ",)" : ")");
  return text.str();
}

template <typename Sizes>
inline bool has_sizes(const Tensor& tensor, const Sizes& sizes) {
  return tensor.sizes().size() == sizes.size() && std::equal(sizes.begin(), sizes.end(), tensor.sizes().begin());
}

// ---- Checks of one property each.

// Throws std::invalid_argument, which reaches Python as ValueError; STD_TORCH_CHECK would put file and line in front.
template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

// Checks a condition. It is a macro so that the parts of a message are computed only where there is one.
#define ROIPOOL_CHECK(condition, ...) \
  do {                                \
    if (!(condition)) {               \
      refuse(__VA_ARGS__);            \
    }                                 \
  } while (false)

// Returns Tensor.scalar_type(), which throws where the stable ABI has no number for a dtype; then torch's own number,
// so that an error can name the dtype.
inline ScalarType dtype_of(const Tensor& tensor) {
  try {
    return tensor.scalar_type();
  } catch (const std::exception&) {
    int32_t dtype = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
    return static_cast<ScalarType>(dtype);
  }
}

inline bool is_feature_dtype(ScalarType dtype) {
  return dtype == ScalarType::Half || dtype == ScalarType::BFloat16 || dtype == ScalarType::Float ||
         dtype == ScalarType::Double;
}

// Counts the elements of a storage from the first of a tensor to its last.
inline int64_t extent_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  int64_t extent = 1;
  for (size_t i = 0; i < sizes.size(); ++i) {
    extent += (sizes[i] - 1) * strides[i];
  }
  return extent;
}

// Checks that a tensor lies within its storage, which can be made smaller behind its back: untyped_storage().resize_(0)
// frees it. No fake kernel checks this, as fake tensors have no memory.
inline void check_storage(const Tensor& tensor, const char* name) {
  if (tensor.numel() == 0) {
    return;
  }
  int64_t bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
  const int64_t needed = (tensor.storage_offset() + extent_of(tensor)) * static_cast<int64_t>(tensor.element_size());
  ROIPOOL_CHECK(needed <= bytes, name, " must lie within its storage, of which it needs ", needed, " bytes, got ",
                bytes);
}

inline void check_features(const Tensor& tensor, const char* name, const char* dimensions) {
  ROIPOOL_CHECK(tensor.dim() == 4, name, " must be a 4-D tensor ", dimensions, ", got shape ",
                name_of_shape(tensor.sizes()));
  const ScalarType dtype = dtype_of(tensor);
  ROIPOOL_CHECK(is_feature_dtype(dtype), name, " must be float16, bfloat16, float32 or float64, got ", name_of(dtype));
  check_storage(tensor, name);
}

inline void check_map_size(const char* name, int64_t height, int64_t width) {
  ROIPOOL_CHECK(height == 0 || width <= INT32_MAX / height, name,
                " must have at most 2147483647 cells in a plane (H*W), got ", height, " x ", width);
}

inline void check_same_device(const Tensor& tensor, const char* name, const Tensor& other, const char* other_name) {
  ROIPOOL_CHECK(tensor.device() == other.device(), name, " must be on the device of ", other_name, " (",
                name_of(other.device()), "), got ", name_of(tensor.device()));
}

inline void check_same_shape(const Tensor& tensor, const char* name, const Tensor& other, const char* other_name) {
  ROIPOOL_CHECK(has_sizes(tensor, other.sizes()), name, " must have the shape of ", other_name, " ",
                name_of_shape(other.sizes()), ", got shape ", name_of_shape(tensor.sizes()));
}

inline void check_rois(const Tensor& rois, const Tensor& other, const char* other_name) {
  ROIPOOL_CHECK(rois.dim() == 2 && rois.size(1) == 5,
                "rois must have shape (K, 5), rows [batch_index, x1, y1, x2, y2], got shape ",
                name_of_shape(rois.sizes()));
  const ScalarType dtype = dtype_of(rois);
  ROIPOOL_CHECK(is_feature_dtype(dtype) || dtype == ScalarType::Int || dtype == ScalarType::Long,
                "rois must be float16, bfloat16, float32, float64, int32 or int64, got ", name_of(dtype));
  check_same_device(rois, "rois", other, other_name);
  check_storage(rois, "rois");
}

inline void check_output_size(int64_t pooled_height, int64_t pooled_width) {
  ROIPOOL_CHECK(pooled_height >= 1 && pooled_width >= 1 && pooled_height <= INT32_MAX && pooled_width <= INT32_MAX,
                "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (", pooled_height,
                ", ", pooled_width, ")");
}

inline void check_scale(const char* name, double spatial_scale) {
  ROIPOOL_CHECK(std::isfinite(spatial_scale) && spatial_scale > 0, name, " must be finite and greater than 0, got ",
                spatial_scale);
}

inline void check_argmax(const Tensor& argmax, const Tensor& rois, const Tensor& other, const char* other_name) {
  ROIPOOL_CHECK(argmax.dim() == 4 && argmax.size(0) == rois.size(0) && argmax.size(1) == other.size(1),
                "argmax must have shape (K, C, PH, PW) with K = ", rois.size(0), " as in rois and C = ", other.size(1),
                " as in ", other_name, ", got shape ", name_of_shape(argmax.sizes()));
  const ScalarType dtype = dtype_of(argmax);
  ROIPOOL_CHECK(dtype == ScalarType::Int, "argmax must be int32, got ", name_of(dtype));
  check_same_device(argmax, "argmax", other, other_name);
  check_storage(argmax, "argmax");
}

inline void check_num_levels(const char* name, size_t num_levels) {
  ROIPOOL_CHECK(num_levels >= 1 && num_levels <= kMaxLevels, name, " must hold 1 to ", kMaxLevels, " levels, got ",
                num_levels);
}

// Checks the feature maps of a pyramid, which may differ in H and W alone.
inline void check_inputs(const std::vector<Tensor>& inputs) {
  check_num_levels("inputs", inputs.size());
  const Tensor& first = inputs[0];
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& input = inputs[i];
    const std::string name = "inputs[" + std::to_string(i) + "]";
    check_features(input, name.c_str(), "(N, C, H, W)");
    check_map_size(name.c_str(), input.size(2), input.size(3));
    ROIPOOL_CHECK(input.size(0) == first.size(0) && input.size(1) == first.size(1), name,
                  " must have the N and C of inputs[0], (", first.size(0), ", ", first.size(1), "), got shape ",
                  name_of_shape(input.sizes()));
    ROIPOOL_CHECK(input.scalar_type() == first.scalar_type(), name, " must be ", name_of(first.scalar_type()),
                  " as inputs[0], got ", name_of(input.scalar_type()));
    check_same_device(input, name.c_str(), first, "inputs[0]");
  }
}

inline void check_pyramid(const Pyramid& pyramid, const char* of, size_t num_levels) {
  ROIPOOL_CHECK(pyramid.spatial_scales.size() == num_levels, "spatial_scales must hold as many numbers as ", of, ", ",
                num_levels, ", got ", pyramid.spatial_scales.size());
  for (size_t i = 0; i < num_levels; ++i) {
    check_scale(("spatial_scales[" + std::to_string(i) + "]").c_str(), pyramid.spatial_scales[i]);
  }
  check_scale("canonical_scale", pyramid.canonical_scale);
}

// ---- The checks of each operator.

inline void check_roi_pool(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                           double spatial_scale) {
  check_features(input, "input", "(N, C, H, W)");
  check_map_size("input", input.size(2), input.size(3));
  check_rois(rois, input, "input");
  check_output_size(pooled_height, pooled_width);
  check_scale("spatial_scale", spatial_scale);
}

// Checks a tensor for an output of these sizes. One of other sizes is resized later.
template <typename Sizes>
void check_out(const Tensor& out, const Tensor& input, const Sizes& sizes) {
  const ScalarType dtype = dtype_of(out);
  ROIPOOL_CHECK(dtype == input.scalar_type(), "out must be ", name_of(input.scalar_type()), " as input, got ",
                name_of(dtype));
  check_same_device(out, "out", input, "input");
  for (int64_t i = 0; i < out.dim(); ++i) {
    ROIPOOL_CHECK(out.stride(i) != 0 || out.size(i) <= 1,
                  "out must not have elements that share memory: clone() it first");
  }
  if (has_sizes(out, sizes)) {
    check_storage(out, "out");
  }
}

inline void check_gradient(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax) {
  check_features(grad_output, "grad_output", "(K, C, PH, PW)");
  check_rois(rois, grad_output, "grad_output");
  check_argmax(argmax, rois, grad_output, "grad_output");
  check_same_shape(grad_output, "grad_output", argmax, "argmax");
}

inline void check_roi_pool_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                                    int64_t batch_size, int64_t height, int64_t width, double spatial_scale) {
  check_gradient(grad_output, rois, argmax);
  ROIPOOL_CHECK(batch_size >= 0 && height >= 0 && width >= 0, "batch_size, height and width must not be negative, got ",
                batch_size, ", ", height, " and ", width);
  check_map_size("grad_input", height, width);
  check_scale("spatial_scale", spatial_scale);
}

inline void check_roi_pool_gather(const Tensor& input, const Tensor& rois, const Tensor& argmax, double spatial_scale) {
  check_features(input, "input", "(N, C, H, W)");
  check_map_size("input", input.size(2), input.size(3));
  check_rois(rois, input, "input");
  check_argmax(argmax, rois, input, "input");
  check_scale("spatial_scale", spatial_scale);
}

inline void check_multiscale_roi_pool(const std::vector<Tensor>& inputs, const Tensor& rois, int64_t pooled_height,
                                      int64_t pooled_width, const Pyramid& pyramid) {
  check_inputs(inputs);
  check_rois(rois, inputs[0], "inputs[0]");
  check_output_size(pooled_height, pooled_width);
  check_pyramid(pyramid, "inputs", inputs.size());
}

inline void check_multiscale_roi_pool_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                                               int64_t batch_size, const std::vector<int64_t>& heights,
                                               const std::vector<int64_t>& widths, const Pyramid& pyramid) {
  check_gradient(grad_output, rois, argmax);
  check_num_levels("heights", heights.size());
  ROIPOOL_CHECK(widths.size() == heights.size(), "widths must hold as many numbers as heights, ", heights.size(),
                ", got ", widths.size());
  for (size_t i = 0; i < heights.size(); ++i) {
    ROIPOOL_CHECK(batch_size >= 0 && heights[i] >= 0 && widths[i] >= 0,
                  "batch_size, heights and widths must not be negative, got ", batch_size, ", ", heights[i], " and ",
                  widths[i]);
    check_map_size("grad_inputs", heights[i], widths[i]);
  }
  check_pyramid(pyramid, "heights", heights.size());
}

inline void check_multiscale_roi_pool_gather(const std::vector<Tensor>& inputs, const Tensor& rois,
                                             const Tensor& argmax, const Pyramid& pyramid) {
  check_inputs(inputs);
  check_rois(rois, inputs[0], "inputs[0]");
  check_argmax(argmax, rois, inputs[0], "inputs[0]");
  check_pyramid(pyramid, "inputs", inputs.size());
}

}  // namespace roipool
