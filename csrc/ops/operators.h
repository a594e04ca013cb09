// The operators, but for the kernels of a device: the checks, the problem struct, the outputs, the choice of a dtype.
// Inline, because the CPU and the CUDA kernels live in two shared objects.
//
// The fake kernels in roipool/_library.py say the same of the same arguments, word for word; the tests compare them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "problem.h"

namespace roipool {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Shape = std::array<int64_t, 4>;

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

// ---- Memory formats.

// Tensor.suggest_memory_format() of ATen, which the stable ABI does not have: channels_last where the strides descend
// in the order N, H, W, C. A tensor that qualifies for both formats (C = 1, say) counts as contiguous. Unlike there, a
// batch of none has the format that its strides say: the compiler, to which N may be a symbol, decides by them as well.
inline MemoryFormat memory_format_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  int64_t least = 0;
  if (strides[1] == 0) {
    return MemoryFormat::Contiguous;
  }
  for (const int dimension : {1, 3, 2, 0}) {
    const bool batch_of_one_channel = dimension == 0 && least == strides[1];
    const bool is_empty = dimension != 0 && sizes[dimension] == 0;
    if (is_empty || strides[dimension] < least || batch_of_one_channel) {
      return MemoryFormat::Contiguous;
    }
    least = strides[dimension] * (sizes[dimension] > 1 ? sizes[dimension] : 1);
  }
  return MemoryFormat::ChannelsLast;
}

// function(), which allocates a tensor, with an error that says so: before torch 2.13, its own says only that a call to
// torch has failed.
template <typename Sizes, typename Function>
Tensor allocate(const Sizes& sizes, ScalarType dtype, const torch::stable::Device& device, const Function& function) {
  try {
    return function();
  } catch (const std::exception& error) {
    throw std::runtime_error("cannot allocate a tensor of shape " + name_of_shape(sizes) + " and dtype " +
                             name_of(dtype) + " on " + name_of(device) + ": out of memory (" + error.what() + ")");
  }
}

inline Tensor empty(const Shape& sizes, ScalarType dtype, const torch::stable::Device& device, MemoryFormat format) {
  return allocate(sizes, dtype, device, [&] {
    return torch::stable::empty(sizes, dtype, torch::headeronly::Layout::Strided, device, /*pin_memory=*/false, format);
  });
}

inline Tensor make_contiguous(const Tensor& tensor, MemoryFormat format = MemoryFormat::Contiguous) {
  return allocate(tensor.sizes(), tensor.scalar_type(), tensor.device(),
                  [&] { return torch::stable::contiguous(tensor, format); });
}

// Whether a tensor lies in memory as empty() makes it.
inline bool is_dense(const Tensor& tensor, MemoryFormat format) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  const std::array<int, 4> order =
      format == MemoryFormat::ChannelsLast ? std::array<int, 4>{1, 3, 2, 0} : std::array<int, 4>{3, 2, 1, 0};
  int64_t stride = 1;
  for (const int dimension : order) {
    if (sizes[dimension] != 1 && strides[dimension] != stride) {
      return false;
    }
    stride *= sizes[dimension];
  }
  return true;
}

// torch::stable::contiguous, which asks the dispatcher even where there is nothing to do.
inline Tensor dense(const Tensor& tensor, MemoryFormat format) {
  return is_dense(tensor, format) ? tensor : make_contiguous(tensor, format);
}

inline std::vector<Tensor> dense(const std::vector<Tensor>& tensors, MemoryFormat format) {
  std::vector<Tensor> result;
  for (const Tensor& tensor : tensors) {
    result.push_back(dense(tensor, format));
  }
  return result;
}

// Whether two tensors may have memory in common.
inline bool may_overlap(const Tensor& a, const Tensor& b) {
  const auto end_of = [](const Tensor& tensor) {
    return static_cast<const char*>(tensor.const_data_ptr()) + extent_of(tensor) * tensor.element_size();
  };
  return a.numel() > 0 && b.numel() > 0 && static_cast<const char*>(a.const_data_ptr()) < end_of(b) &&
         static_cast<const char*>(b.const_data_ptr()) < end_of(a);
}

// torch.clone(tensor, out=out): resizes out as all of PyTorch's functions do, with their warning where it held
// anything.
inline void resize_and_copy(const Tensor& tensor, const Tensor& out) {
  const std::string shape = name_of_shape(out.sizes());  // which torch changes before it asks for memory
  std::array<StableIValue, 3> stack{torch::stable::detail::from(tensor),
                                    torch::stable::detail::from(std::optional<MemoryFormat>()),
                                    torch::stable::detail::from(out)};
  if (torch_call_dispatcher("aten::clone", "out", stack.data(), TORCH_ABI_VERSION) != TORCH_SUCCESS) {
    throw std::runtime_error("out of shape " + shape + " cannot be resized to " + name_of_shape(tensor.sizes()) +
                             ": it is another library's memory, or there is no more");
  }
  torch::stable::detail::to<Tensor>(stack[0]);  // what is returned is ours to release
}

// rois as the geometry reads them: contiguous, and float32 unless float64.
inline Tensor widen_rois(const Tensor& rois) {
  const bool exact = rois.scalar_type() == ScalarType::Float || rois.scalar_type() == ScalarType::Double;
  const bool is_dense = rois.stride(0) == 5 && rois.stride(1) == 1;
  if (exact) {
    return is_dense ? rois : make_contiguous(rois);
  }
  return allocate(rois.sizes(), ScalarType::Float, rois.device(),
                  [&] { return torch::stable::contiguous(torch::stable::to(rois, ScalarType::Float)); });
}

// ---- The problem struct, from tensors that have been checked.

// What a feature pyramid has beside its maps.
struct Pyramid {
  std::vector<double> spatial_scales;  // of each level
  double canonical_scale = 1;
  int64_t canonical_level = 0;
};

// `maps` are in `format` already (inputs, or new grad_inputs), `rois` as widen_rois() returns them.
inline RoIPoolProblem make_problem(const std::vector<Tensor>& maps, const Tensor& rois, int64_t pooled_height,
                                   int64_t pooled_width, const Pyramid& pyramid, MemoryFormat format) {
  const int64_t channels = maps[0].size(1);
  const bool channels_last = format == MemoryFormat::ChannelsLast;
  const int64_t num_bins = pooled_height * pooled_width;

  RoIPoolProblem problem{};
  problem.num_levels = static_cast<int64_t>(maps.size());
  problem.num_images = maps[0].size(0);
  problem.rois = rois.const_data_ptr();
  problem.rois_are_double = rois.scalar_type() == ScalarType::Double;
  problem.channels_last = channels_last;
  problem.num_rois = rois.size(0);
  problem.channels = channels;
  problem.pooled_height = pooled_height;
  problem.pooled_width = pooled_width;
  problem.region_stride = channels * num_bins;
  problem.channel_stride = channels_last ? 1 : num_bins;
  problem.bin_stride = channels_last ? channels : 1;

  const double first_level = std::nearbyint(-std::log2(pyramid.spatial_scales[0]));
  for (size_t i = 0; i < maps.size(); ++i) {
    FeatureMaps& level = problem.levels[i];
    level.data = const_cast<void*>(maps[i].const_data_ptr());  // written only where it is a grad_input
    level.height = maps[i].size(2);
    level.width = maps[i].size(3);
    level.spatial_scale = pyramid.spatial_scales[i];
    level.image_stride = channels * level.num_cells();
    level.channel_stride = channels_last ? 1 : level.num_cells();
    level.cell_stride = channels_last ? channels : 1;
    if (i > 0) {
      const auto bound = problem.rois_are_double ? level_bound<double> : level_bound<float>;
      problem.level_bounds[i - 1] = bound(first_level + static_cast<double>(i), pyramid.canonical_scale,
                                          static_cast<double>(pyramid.canonical_level));
    }
  }
  return problem;
}

inline void check_pyramid(const Pyramid& pyramid, const char* of, size_t num_levels) {
  ROIPOOL_CHECK(pyramid.spatial_scales.size() == num_levels, "spatial_scales must hold as many numbers as ", of, ", ",
                num_levels, ", got ", pyramid.spatial_scales.size());
  for (size_t i = 0; i < num_levels; ++i) {
    check_spatial_scale(("spatial_scales[" + std::to_string(i) + "]").c_str(), pyramid.spatial_scales[i]);
  }
  check_spatial_scale("canonical_scale", pyramid.canonical_scale);
}

// Calls function(scalar_t{}) with the C++ type of a feature dtype.
template <typename Function>
inline void dispatch(ScalarType dtype, const Function& function) {
  switch (dtype) {
    case ScalarType::Half:
      return function(Half{});
    case ScalarType::BFloat16:
      return function(BFloat16{});
    case ScalarType::Float:
      return function(float{});
    default:
      return function(double{});
  }
}

// ---- The operators: checks -> outputs -> device -> problem struct -> dtype -> kernel.
//
// Kernels is made anew for each call from the device of the arguments, and has, each for every dtype scalar_t,
//
//   void forward(const RoIPoolProblem&, scalar_t* output, int32_t* argmax) const;  // argmax may be null
//   void backward(const RoIPoolProblem&, const scalar_t* grad_output, const int32_t* argmax) const;
//   void gather(const RoIPoolProblem&, const int32_t* argmax, scalar_t* output) const;

inline void check_forward(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                          double spatial_scale) {
  check_features(input, "input", "(N, C, H, W)");
  check_map_size("input", input.size(2), input.size(3));
  check_rois(rois, input, "input");
  check_output_size(pooled_height, pooled_width);
  check_spatial_scale("spatial_scale", spatial_scale);
}

// out: a tensor of the right shape and dtype, dense in the memory format of inputs[0], for the output; or null.
// argmax: where to return it; or null.
template <typename Kernels>
Tensor pool(const std::vector<Tensor>& inputs, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
            const Pyramid& pyramid, const Tensor* out, Tensor* argmax) {
  const Tensor& input = inputs[0];
  const MemoryFormat format = memory_format_of(input);
  const std::vector<Tensor> maps = dense(inputs, format);
  const Tensor boxes = widen_rois(rois);
  const Shape sizes{rois.size(0), input.size(1), pooled_height, pooled_width};
  Tensor output = out != nullptr ? *out : empty(sizes, input.scalar_type(), input.device(), format);
  int32_t* cells = nullptr;
  if (argmax != nullptr) {
    *argmax = empty(sizes, ScalarType::Int, input.device(), format);
    cells = static_cast<int32_t*>(argmax->mutable_data_ptr());
  }
  if (output.numel() == 0) {
    return output;  // of any number of bins, for which there is no scratch memory
  }

  const Kernels kernels(input.device());
  const RoIPoolProblem problem = make_problem(maps, boxes, pooled_height, pooled_width, pyramid, format);
  dispatch(input.scalar_type(), [&](auto zero) {
    kernels.forward(problem, static_cast<decltype(zero)*>(output.mutable_data_ptr()), cells);
  });
  return output;
}

template <typename Kernels>
Tensor roi_pool(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                double spatial_scale) {
  check_forward(input, rois, pooled_height, pooled_width, spatial_scale);
  return pool<Kernels>({input}, rois, pooled_height, pooled_width, {{spatial_scale}}, nullptr, nullptr);
}

template <typename Kernels>
Tensor roi_pool_out(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                    double spatial_scale, const Tensor& out) {
  check_forward(input, rois, pooled_height, pooled_width, spatial_scale);
  const ScalarType dtype = dtype_of(out);
  ROIPOOL_CHECK(dtype == input.scalar_type(), "out must be ", name_of(input.scalar_type()), " as input, got ",
                name_of(dtype));
  check_same_device(out, "out", input, "input");
  for (int64_t i = 0; i < out.dim(); ++i) {
    ROIPOOL_CHECK(out.stride(i) != 0 || out.size(i) <= 1,
                  "out must not have elements that share memory: clone() it first");
  }

  const Shape sizes{rois.size(0), input.size(1), pooled_height, pooled_width};
  const bool fits = has_sizes(out, sizes);
  if (fits) {
    check_storage(out, "out");
  }
  if (fits && is_dense(out, memory_format_of(input)) && !may_overlap(out, input) && !may_overlap(out, rois)) {
    pool<Kernels>({input}, rois, pooled_height, pooled_width, {{spatial_scale}}, &out, nullptr);
    return out;
  }
  const Tensor output = pool<Kernels>({input}, rois, pooled_height, pooled_width, {{spatial_scale}}, nullptr, nullptr);
  if (fits) {
    Tensor target = out;
    torch::stable::copy_(target, output);
  } else {
    resize_and_copy(output, out);
  }
  return out;
}

template <typename Kernels>
std::tuple<Tensor, Tensor> roi_pool_with_argmax(const Tensor& input, const Tensor& rois, int64_t pooled_height,
                                                int64_t pooled_width, double spatial_scale) {
  check_forward(input, rois, pooled_height, pooled_width, spatial_scale);
  Tensor argmax;
  Tensor output = pool<Kernels>({input}, rois, pooled_height, pooled_width, {{spatial_scale}}, nullptr, &argmax);
  return {output, argmax};
}

inline void check_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax) {
  check_features(grad_output, "grad_output", "(K, C, PH, PW)");
  check_rois(rois, grad_output, "grad_output");
  check_argmax(argmax, rois, grad_output, "grad_output");
  check_same_shape(grad_output, "grad_output", argmax, "argmax");
}

// The gradients of the maps of each level take the memory format of argmax, which is that of the input of the forward.
template <typename Kernels>
std::vector<Tensor> pool_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                                  int64_t batch_size, const std::vector<int64_t>& heights,
                                  const std::vector<int64_t>& widths, const Pyramid& pyramid) {
  const MemoryFormat format = memory_format_of(argmax);
  const Tensor grads = dense(grad_output, format);
  const Tensor cells = dense(argmax, format);
  const Tensor boxes = widen_rois(rois);
  std::vector<Tensor> grad_inputs;
  for (size_t i = 0; i < heights.size(); ++i) {
    grad_inputs.push_back(empty({batch_size, argmax.size(1), heights[i], widths[i]}, grad_output.scalar_type(),
                                grad_output.device(), format));
  }
  if (std::all_of(grad_inputs.begin(), grad_inputs.end(), [](const Tensor& grad) { return grad.numel() == 0; })) {
    return grad_inputs;  // of any number of images
  }
  if (argmax.numel() == 0) {
    for (Tensor& grad_input : grad_inputs) {
      torch::stable::zero_(grad_input);
    }
    return grad_inputs;
  }

  const Kernels kernels(grad_output.device());
  const RoIPoolProblem problem = make_problem(grad_inputs, boxes, argmax.size(2), argmax.size(3), pyramid, format);
  dispatch(grad_output.scalar_type(), [&](auto zero) {
    kernels.backward(problem, static_cast<const decltype(zero)*>(grads.const_data_ptr()),
                     static_cast<const int32_t*>(cells.const_data_ptr()));
  });
  return grad_inputs;
}

template <typename Kernels>
Tensor roi_pool_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax, int64_t batch_size,
                         int64_t height, int64_t width) {
  check_backward(grad_output, rois, argmax);
  ROIPOOL_CHECK(batch_size >= 0 && height >= 0 && width >= 0, "batch_size, height and width must not be negative, got ",
                batch_size, ", ", height, " and ", width);
  check_map_size("grad_input", height, width);
  return pool_backward<Kernels>(grad_output, rois, argmax, batch_size, {height}, {width}, {{1.0}})[0];
}

// The result takes the memory format of argmax: it stands in for an output of the forward.
template <typename Kernels>
Tensor pool_gather(const std::vector<Tensor>& inputs, const Tensor& rois, const Tensor& argmax,
                   const Pyramid& pyramid) {
  const Tensor& input = inputs[0];
  const MemoryFormat format = memory_format_of(argmax);
  const std::vector<Tensor> maps = dense(inputs, format);
  const Tensor cells = dense(argmax, format);
  const Tensor boxes = widen_rois(rois);
  Tensor output = empty({argmax.size(0), argmax.size(1), argmax.size(2), argmax.size(3)}, input.scalar_type(),
                        input.device(), format);
  if (output.numel() == 0) {
    return output;
  }

  const Kernels kernels(input.device());
  const RoIPoolProblem problem = make_problem(maps, boxes, argmax.size(2), argmax.size(3), pyramid, format);
  dispatch(input.scalar_type(), [&](auto zero) {
    kernels.gather(problem, static_cast<const int32_t*>(cells.const_data_ptr()),
                   static_cast<decltype(zero)*>(output.mutable_data_ptr()));
  });
  return output;
}

template <typename Kernels>
Tensor roi_pool_gather(const Tensor& input, const Tensor& rois, const Tensor& argmax) {
  check_features(input, "input", "(N, C, H, W)");
  check_map_size("input", input.size(2), input.size(3));
  check_rois(rois, input, "input");
  check_argmax(argmax, rois, input, "input");
  return pool_gather<Kernels>({input}, rois, argmax, {{1.0}});
}

// ---- The same for a feature pyramid.

inline void check_multiscale_forward(const std::vector<Tensor>& inputs, const Tensor& rois, int64_t pooled_height,
                                     int64_t pooled_width, const Pyramid& pyramid) {
  check_inputs(inputs);
  check_rois(rois, inputs[0], "inputs[0]");
  check_output_size(pooled_height, pooled_width);
  check_pyramid(pyramid, "inputs", inputs.size());
}

template <typename Kernels>
Tensor multiscale_roi_pool(const std::vector<Tensor>& inputs, const Tensor& rois, int64_t pooled_height,
                           int64_t pooled_width, const std::vector<double>& spatial_scales, double canonical_scale,
                           int64_t canonical_level) {
  const Pyramid pyramid{spatial_scales, canonical_scale, canonical_level};
  check_multiscale_forward(inputs, rois, pooled_height, pooled_width, pyramid);
  return pool<Kernels>(inputs, rois, pooled_height, pooled_width, pyramid, nullptr, nullptr);
}

template <typename Kernels>
std::tuple<Tensor, Tensor> multiscale_roi_pool_with_argmax(const std::vector<Tensor>& inputs, const Tensor& rois,
                                                           int64_t pooled_height, int64_t pooled_width,
                                                           const std::vector<double>& spatial_scales,
                                                           double canonical_scale, int64_t canonical_level) {
  const Pyramid pyramid{spatial_scales, canonical_scale, canonical_level};
  check_multiscale_forward(inputs, rois, pooled_height, pooled_width, pyramid);
  Tensor argmax;
  Tensor output = pool<Kernels>(inputs, rois, pooled_height, pooled_width, pyramid, nullptr, &argmax);
  return {output, argmax};
}

template <typename Kernels>
std::vector<Tensor> multiscale_roi_pool_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                                                 int64_t batch_size, const std::vector<int64_t>& heights,
                                                 const std::vector<int64_t>& widths,
                                                 const std::vector<double>& spatial_scales, double canonical_scale,
                                                 int64_t canonical_level) {
  const Pyramid pyramid{spatial_scales, canonical_scale, canonical_level};
  check_backward(grad_output, rois, argmax);
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
  return pool_backward<Kernels>(grad_output, rois, argmax, batch_size, heights, widths, pyramid);
}

template <typename Kernels>
Tensor multiscale_roi_pool_gather(const std::vector<Tensor>& inputs, const Tensor& rois, const Tensor& argmax,
                                  const std::vector<double>& spatial_scales, double canonical_scale,
                                  int64_t canonical_level) {
  const Pyramid pyramid{spatial_scales, canonical_scale, canonical_level};
  check_inputs(inputs);
  check_rois(rois, inputs[0], "inputs[0]");
  check_argmax(argmax, rois, inputs[0], "inputs[0]");
  check_pyramid(pyramid, "inputs", inputs.size());
  return pool_gather<Kernels>(inputs, rois, argmax, pyramid);
}

// Registers the operators of a device: STABLE_TORCH_LIBRARY_IMPL(roipool, DEVICE, m) { implement<Kernels>(m); }
template <typename Kernels>
void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("roi_pool", TORCH_BOX(&roi_pool<Kernels>));
  m.impl("roi_pool.out", TORCH_BOX(&roi_pool_out<Kernels>));
  m.impl("roi_pool_with_argmax", TORCH_BOX(&roi_pool_with_argmax<Kernels>));
  m.impl("roi_pool_backward", TORCH_BOX(&roi_pool_backward<Kernels>));
  m.impl("roi_pool_gather", TORCH_BOX(&roi_pool_gather<Kernels>));
  m.impl("multiscale_roi_pool", TORCH_BOX(&multiscale_roi_pool<Kernels>));
  m.impl("multiscale_roi_pool_with_argmax", TORCH_BOX(&multiscale_roi_pool_with_argmax<Kernels>));
  m.impl("multiscale_roi_pool_backward", TORCH_BOX(&multiscale_roi_pool_backward<Kernels>));
  m.impl("multiscale_roi_pool_gather", TORCH_BOX(&multiscale_roi_pool_gather<Kernels>));
}

}  // namespace roipool
