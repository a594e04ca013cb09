// The operators, but for the kernels of a device: the checks, the problem struct, the outputs, the choice of a dtype.
// Inline, because the CPU and the CUDA kernels live in two shared objects.
//
// The fake kernels in roipool/_library.py say the same of the same arguments, word for word; the tests compare them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "ops/checks.h"
#include "ops/tensors.h"
#include "problem.h"

namespace roipool {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// ---- The problem struct, from tensors that have been checked.

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
