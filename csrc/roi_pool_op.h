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
#include <cmath>
#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>

#include "roi_pool.h"

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
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(dtype);
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

inline bool is_feature_dtype(ScalarType dtype) {
  return dtype == ScalarType::Half || dtype == ScalarType::BFloat16 || dtype == ScalarType::Float ||
         dtype == ScalarType::Double;
}

inline void check_features(const Tensor& tensor, const char* name, const char* dimensions) {
  ROIPOOL_CHECK(tensor.dim() == 4, name, " must be a 4-D tensor ", dimensions, ", got shape ",
                name_of_shape(tensor.sizes()));
  ROIPOOL_CHECK(is_feature_dtype(tensor.scalar_type()), name, " must be float16, bfloat16, float32 or float64, got ",
                name_of(tensor.scalar_type()));
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
  const ScalarType dtype = rois.scalar_type();
  ROIPOOL_CHECK(is_feature_dtype(dtype) || dtype == ScalarType::Int || dtype == ScalarType::Long,
                "rois must be float16, bfloat16, float32, float64, int32 or int64, got ", name_of(dtype));
  check_same_device(rois, "rois", other, other_name);
}

inline void check_output_size(int64_t pooled_height, int64_t pooled_width) {
  ROIPOOL_CHECK(pooled_height >= 1 && pooled_width >= 1 && pooled_height <= INT32_MAX && pooled_width <= INT32_MAX,
                "output_size must be at least 1 (and at most 2147483647) in both dimensions, got (", pooled_height,
                ", ", pooled_width, ")");
}

inline void check_spatial_scale(double spatial_scale) {
  ROIPOOL_CHECK(std::isfinite(spatial_scale) && spatial_scale > 0,
                "spatial_scale must be finite and greater than 0, got ", spatial_scale);
}

inline void check_argmax(const Tensor& argmax, const Tensor& rois, const Tensor& other, const char* other_name) {
  ROIPOOL_CHECK(argmax.dim() == 4 && argmax.size(0) == rois.size(0) && argmax.size(1) == other.size(1),
                "argmax must have shape (K, C, PH, PW) with K = ", rois.size(0), " as in rois and C = ", other.size(1),
                " as in ", other_name, ", got shape ", name_of_shape(argmax.sizes()));
  ROIPOOL_CHECK(argmax.scalar_type() == ScalarType::Int, "argmax must be int32, got ", name_of(argmax.scalar_type()));
  check_same_device(argmax, "argmax", other, other_name);
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

inline Tensor empty(const Shape& sizes, ScalarType dtype, const torch::stable::Device& device, MemoryFormat format) {
  try {
    return torch::stable::empty(sizes, dtype, torch::headeronly::Layout::Strided, device, /*pin_memory=*/false, format);
  } catch (const std::exception& error) {  // which, before torch 2.13, says only that a call to torch has failed
    throw std::runtime_error("cannot allocate a tensor of shape " + name_of_shape(sizes) + " and dtype " +
                             name_of(dtype) + " on " + name_of(device) + ": out of memory (" + error.what() + ")");
  }
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
  return is_dense(tensor, format) ? tensor : torch::stable::contiguous(tensor, format);
}

// Whether two tensors may have memory in common.
inline bool may_overlap(const Tensor& a, const Tensor& b) {
  const auto end_of = [](const Tensor& tensor) {
    int64_t last = 0;
    for (int64_t i = 0; i < tensor.dim(); ++i) {
      last += (tensor.size(i) - 1) * tensor.stride(i);
    }
    return static_cast<const char*>(tensor.const_data_ptr()) + (last + 1) * tensor.element_size();
  };
  return a.numel() > 0 && b.numel() > 0 && static_cast<const char*>(a.const_data_ptr()) < end_of(b) &&
         static_cast<const char*>(b.const_data_ptr()) < end_of(a);
}

// torch.clone(tensor, out=out): resizes out as all of PyTorch's functions do, with their warning where it held
// anything.
inline void resize_and_copy(const Tensor& tensor, const Tensor& out) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(tensor),
                                    torch::stable::detail::from(std::optional<MemoryFormat>()),
                                    torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::clone", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // what is returned is ours to release
}

// rois as the geometry reads them: contiguous, and float32 unless float64.
inline Tensor widen_rois(const Tensor& rois) {
  const bool exact = rois.scalar_type() == ScalarType::Float || rois.scalar_type() == ScalarType::Double;
  const bool is_dense = rois.stride(0) == 5 && rois.stride(1) == 1;
  return exact && is_dense ? rois
                           : torch::stable::contiguous(exact ? rois : torch::stable::to(rois, ScalarType::Float));
}

// ---- The problem struct, from tensors that have been checked.

// `maps` is in `format` already (input, or a new grad_input), `rois` as widen_rois() returns them.
inline RoIPoolProblem make_problem(const Tensor& maps, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                                   double spatial_scale, MemoryFormat format) {
  const int64_t channels = maps.size(1);
  const int64_t height = maps.size(2);
  const int64_t width = maps.size(3);
  const bool channels_last = format == MemoryFormat::ChannelsLast;
  const int64_t num_cells = height * width;
  const int64_t num_bins = pooled_height * pooled_width;

  RoIPoolProblem problem{};
  problem.maps.data = const_cast<void*>(maps.const_data_ptr());  // written only where it is a grad_input
  problem.maps.num_images = maps.size(0);
  problem.maps.height = height;
  problem.maps.width = width;
  problem.maps.spatial_scale = spatial_scale;
  problem.maps.image_stride = channels * num_cells;
  problem.maps.channel_stride = channels_last ? 1 : num_cells;
  problem.maps.cell_stride = channels_last ? channels : 1;
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
  return problem;
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
  check_spatial_scale(spatial_scale);
}

// out: a tensor of the right shape and dtype, dense in the memory format of input, for the output; or null.
// argmax: where to return it; or null.
template <typename Kernels>
Tensor pool(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width, double spatial_scale,
            const Tensor* out, Tensor* argmax) {
  const MemoryFormat format = memory_format_of(input);
  const Tensor maps = dense(input, format);
  const Tensor boxes = widen_rois(rois);
  const Shape sizes{rois.size(0), input.size(1), pooled_height, pooled_width};
  Tensor output = out != nullptr ? *out : empty(sizes, input.scalar_type(), input.device(), format);
  int32_t* cells = nullptr;
  if (argmax != nullptr) {
    *argmax = empty(sizes, ScalarType::Int, input.device(), format);
    cells = static_cast<int32_t*>(argmax->mutable_data_ptr());
  }

  const Kernels kernels(input.device());
  const RoIPoolProblem problem = make_problem(maps, boxes, pooled_height, pooled_width, spatial_scale, format);
  dispatch(input.scalar_type(), [&](auto zero) {
    kernels.forward(problem, static_cast<decltype(zero)*>(output.mutable_data_ptr()), cells);
  });
  return output;
}

template <typename Kernels>
Tensor roi_pool(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                double spatial_scale) {
  check_forward(input, rois, pooled_height, pooled_width, spatial_scale);
  return pool<Kernels>(input, rois, pooled_height, pooled_width, spatial_scale, nullptr, nullptr);
}

template <typename Kernels>
Tensor roi_pool_out(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                    double spatial_scale, const Tensor& out) {
  check_forward(input, rois, pooled_height, pooled_width, spatial_scale);
  ROIPOOL_CHECK(out.scalar_type() == input.scalar_type(), "out must be ", name_of(input.scalar_type()),
                " as input, got ", name_of(out.scalar_type()));
  check_same_device(out, "out", input, "input");
  for (int64_t i = 0; i < out.dim(); ++i) {
    ROIPOOL_CHECK(out.stride(i) != 0 || out.size(i) <= 1,
                  "out must not have elements that share memory: clone() it first");
  }

  const Shape sizes{rois.size(0), input.size(1), pooled_height, pooled_width};
  const bool fits = has_sizes(out, sizes);
  if (fits && is_dense(out, memory_format_of(input)) && !may_overlap(out, input) && !may_overlap(out, rois)) {
    pool<Kernels>(input, rois, pooled_height, pooled_width, spatial_scale, &out, nullptr);
    return out;
  }
  const Tensor output = pool<Kernels>(input, rois, pooled_height, pooled_width, spatial_scale, nullptr, nullptr);
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
  Tensor output = pool<Kernels>(input, rois, pooled_height, pooled_width, spatial_scale, nullptr, &argmax);
  return {output, argmax};
}

// grad_input takes the memory format of argmax, which is that of the input of the forward.
template <typename Kernels>
Tensor roi_pool_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax, int64_t batch_size,
                         int64_t height, int64_t width) {
  check_features(grad_output, "grad_output", "(K, C, PH, PW)");
  check_rois(rois, grad_output, "grad_output");
  check_argmax(argmax, rois, grad_output, "grad_output");
  check_same_shape(grad_output, "grad_output", argmax, "argmax");
  ROIPOOL_CHECK(batch_size >= 0 && height >= 0 && width >= 0, "batch_size, height and width must not be negative, got ",
                batch_size, ", ", height, " and ", width);
  check_map_size("grad_input", height, width);

  const MemoryFormat format = memory_format_of(argmax);
  const Tensor grads = dense(grad_output, format);
  const Tensor cells = dense(argmax, format);
  const Tensor boxes = widen_rois(rois);
  Tensor grad_input =
      empty({batch_size, argmax.size(1), height, width}, grad_output.scalar_type(), grad_output.device(), format);

  const Kernels kernels(grad_output.device());
  const RoIPoolProblem problem = make_problem(grad_input, boxes, argmax.size(2), argmax.size(3), 1.0, format);
  dispatch(grad_output.scalar_type(), [&](auto zero) {
    kernels.backward(problem, static_cast<const decltype(zero)*>(grads.const_data_ptr()),
                     static_cast<const int32_t*>(cells.const_data_ptr()));
  });
  return grad_input;
}

// The result takes the memory format of argmax: it stands in for an output of the forward.
template <typename Kernels>
Tensor roi_pool_gather(const Tensor& input, const Tensor& rois, const Tensor& argmax) {
  check_features(input, "input", "(N, C, H, W)");
  check_map_size("input", input.size(2), input.size(3));
  check_rois(rois, input, "input");
  check_argmax(argmax, rois, input, "input");

  const MemoryFormat format = memory_format_of(argmax);
  const Tensor maps = dense(input, format);
  const Tensor cells = dense(argmax, format);
  const Tensor boxes = widen_rois(rois);
  Tensor output = empty({argmax.size(0), argmax.size(1), argmax.size(2), argmax.size(3)}, input.scalar_type(),
                        input.device(), format);

  const Kernels kernels(input.device());
  const RoIPoolProblem problem = make_problem(maps, boxes, argmax.size(2), argmax.size(3), 1.0, format);
  dispatch(input.scalar_type(), [&](auto zero) {
    kernels.gather(problem, static_cast<const int32_t*>(cells.const_data_ptr()),
                   static_cast<decltype(zero)*>(output.mutable_data_ptr()));
  });
  return output;
}

// Registers the operators of a device: STABLE_TORCH_LIBRARY_IMPL(roipool, DEVICE, m) { implement<Kernels>(m); }
template <typename Kernels>
void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("roi_pool", TORCH_BOX(&roi_pool<Kernels>));
  m.impl("roi_pool.out", TORCH_BOX(&roi_pool_out<Kernels>));
  m.impl("roi_pool_with_argmax", TORCH_BOX(&roi_pool_with_argmax<Kernels>));
  m.impl("roi_pool_backward", TORCH_BOX(&roi_pool_backward<Kernels>));
  m.impl("roi_pool_gather", TORCH_BOX(&roi_pool_gather<Kernels>));
}

}  // namespace roipool
