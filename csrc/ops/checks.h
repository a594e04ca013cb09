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

// ---- Checks. std::invalid_argument reaches Python as ValueError; STD_TORCH_CHECK would put file and line in front.

template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

// A macro, so that the parts of a message are put together only where there is one.
#define ROIPOOL_CHECK(condition, ...) \
  do {                                \
    if (!(condition)) {               \
      refuse(__VA_ARGS__);            \
    }                                 \
  } while (false)

// Tensor.scalar_type(), which throws where the stable ABI has no number for a dtype: then torch's own, to be named.
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

// The elements of a storage from the first of a tensor to its last.
inline int64_t extent_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  int64_t extent = 1;
  for (size_t i = 0; i < sizes.size(); ++i) {
    extent += (sizes[i] - 1) * strides[i];
  }
  return extent;
}

// A storage can be made smaller behind its tensors' backs: untyped_storage().resize_(0) frees it. No fake kernel checks
// this, as it is the state of a memory that fake tensors do not have.
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

inline void check_spatial_scale(const char* name, double spatial_scale) {
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

// The feature maps of a pyramid, which may differ in H and W alone.
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

// What a feature pyramid has beside its maps.
struct Pyramid {
  std::vector<double> spatial_scales;  // of each level
  double canonical_scale = 1;
  int64_t canonical_level = 0;
};

inline void check_pyramid(const Pyramid& pyramid, const char* of, size_t num_levels) {
  ROIPOOL_CHECK(pyramid.spatial_scales.size() == num_levels, "spatial_scales must hold as many numbers as ", of, ", ",
                num_levels, ", got ", pyramid.spatial_scales.size());
  for (size_t i = 0; i < num_levels; ++i) {
    check_spatial_scale(("spatial_scales[" + std::to_string(i) + "]").c_str(), pyramid.spatial_scales[i]);
  }
  check_spatial_scale("canonical_scale", pyramid.canonical_scale);
}

}  // namespace roipool
