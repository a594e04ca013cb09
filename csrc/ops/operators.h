// The operators, for any device: checks -> outputs -> problem -> kernels. Each device registers them with its kernels.
//
// `Kernels` stands for those of a device. It is made anew for each call, from the device of the arguments, and has
//
//   void forward(const RoIPoolProblem&, void* output, int32_t* argmax) const;  // argmax may be null
//   void backward(const RoIPoolProblem&, const void* grad_output, const int32_t* argmax) const;
//   void gather(const RoIPoolProblem&, const int32_t* argmax, void* output) const;
//
// Everything is inline, because the CPU and the CUDA kernels live in two shared objects.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

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

// ---- The problem, from tensors that have been checked.

// Describes a problem but for its maps. `rois` are as widen_rois() returns them.
inline RoIPoolProblem make_problem(const Shape& output_sizes, ScalarType dtype, const Tensor& rois, int64_t num_images,
                                   MemoryFormat format) {
  const auto [num_rois, channels, pooled_height, pooled_width] = output_sizes;
  // One channel lies in memory alike in both formats; kernels know more ways for contiguous maps.
  const bool channels_last = format == MemoryFormat::ChannelsLast && channels > 1;
  RoIPoolProblem problem{};
  problem.num_images = num_images;
  problem.dtype = dtype_of_features(dtype);
  problem.rois = rois.const_data_ptr();
  problem.rois_are_double = rois.scalar_type() == ScalarType::Double;
  problem.channels_last = channels_last;
  problem.num_rois = num_rois;
  problem.num_channels = channels;
  problem.pooled_height = pooled_height;
  problem.pooled_width = pooled_width;
  problem.output_region_stride = channels * problem.num_bins();
  problem.output_channel_stride = channels_last ? 1 : problem.num_bins();
  problem.output_bin_stride = channels_last ? channels : 1;
  return problem;
}

// Adds the maps of a level to a problem, without their memory: they are dense in its memory format.
inline FeatureMaps& add_level(RoIPoolProblem& problem, int64_t height, int64_t width, const Pyramid& pyramid) {
  const int64_t index = problem.num_levels++;
  FeatureMaps& maps = problem.levels[index];
  maps.height = height;
  maps.width = width;
  maps.spatial_scale = pyramid.spatial_scales[index];
  maps.image_stride = problem.num_channels * maps.num_cells();
  maps.channel_stride = problem.channels_last ? 1 : maps.num_cells();
  maps.cell_stride = problem.channels_last ? problem.num_channels : 1;
  if (index > 0) {
    const double first_level = std::nearbyint(-std::log2(pyramid.spatial_scales[0]));
    problem.level_bounds[index - 1] =
        level_bound(first_level + static_cast<double>(index), pyramid.canonical_scale,
                    static_cast<double>(pyramid.canonical_level), problem.rois_are_double);
  }
  return maps;
}

// Adds the maps of each level, which are read.
inline void add_inputs(RoIPoolProblem& problem, const std::vector<Tensor>& inputs, const Pyramid& pyramid) {
  for (const Tensor& input : inputs) {
    add_level(problem, input.size(2), input.size(3), pyramid).input = input.const_data_ptr();
  }
}

// Adds the gradients of the maps of each level, which are written.
inline void add_grad_inputs(RoIPoolProblem& problem, std::vector<Tensor>& grad_inputs, const Pyramid& pyramid) {
  for (Tensor& grad_input : grad_inputs) {
    add_level(problem, grad_input.size(2), grad_input.size(3), pyramid).grad_input = grad_input.mutable_data_ptr();
  }
}

// ---- What the operators for one map and for a pyramid share.

// Runs the forward of checked arguments. `out` is a tensor of the right shape and dtype, dense in the memory format of
// inputs[0], to write the output to; null makes a new one. A new argmax is returned in *argmax, unless that is null.
template <typename Kernels>
Tensor compute_output(const std::vector<Tensor>& inputs, const Tensor& rois, int64_t pooled_height,
                      int64_t pooled_width, const Pyramid& pyramid, const Tensor* out, Tensor* argmax) {
  const Tensor& input = inputs[0];
  const MemoryFormat format = memory_format_of(input);
  const std::vector<Tensor> maps = make_dense(inputs, format);
  const Tensor wide_rois = widen_rois(rois);
  const Shape sizes{rois.size(0), input.size(1), pooled_height, pooled_width};
  Tensor output = out != nullptr ? *out : empty(sizes, input.scalar_type(), input.device(), format);
  int32_t* argmax_data = nullptr;
  if (argmax != nullptr) {
    *argmax = empty(sizes, ScalarType::Int, input.device(), format);
    argmax_data = static_cast<int32_t*>(argmax->mutable_data_ptr());
  }
  if (output.numel() == 0) {  // kernels need no scratch memory for any number of bins then
    return output;
  }

  const Kernels kernels(input.device());
  RoIPoolProblem problem = make_problem(sizes, input.scalar_type(), wide_rois, input.size(0), format);
  add_inputs(problem, maps, pyramid);
  kernels.forward(problem, output.mutable_data_ptr(), argmax_data);
  return output;
}

// Runs the backward of checked arguments. The gradients take the memory format of argmax, which is that of the input of
// the forward.
template <typename Kernels>
std::vector<Tensor> compute_grad_inputs(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                                        int64_t batch_size, const std::vector<int64_t>& heights,
                                        const std::vector<int64_t>& widths, const Pyramid& pyramid) {
  const MemoryFormat format = memory_format_of(argmax);
  const Tensor dense_grad_output = make_dense(grad_output, format);
  const Tensor dense_argmax = make_dense(argmax, format);
  const Tensor wide_rois = widen_rois(rois);
  std::vector<Tensor> grad_inputs;
  for (size_t i = 0; i < heights.size(); ++i) {
    grad_inputs.push_back(empty({batch_size, argmax.size(1), heights[i], widths[i]}, grad_output.scalar_type(),
                                grad_output.device(), format));
  }
  const auto is_empty = [](const Tensor& grad_input) { return grad_input.numel() == 0; };
  if (std::all_of(grad_inputs.begin(), grad_inputs.end(), is_empty)) {  // of any number of images
    return grad_inputs;
  }
  if (argmax.numel() == 0) {
    for (Tensor& grad_input : grad_inputs) {
      torch::stable::zero_(grad_input);
    }
    return grad_inputs;
  }

  const Kernels kernels(grad_output.device());
  RoIPoolProblem problem = make_problem(shape_of(argmax), grad_output.scalar_type(), wide_rois, batch_size, format);
  add_grad_inputs(problem, grad_inputs, pyramid);
  kernels.backward(problem, dense_grad_output.const_data_ptr(),
                   static_cast<const int32_t*>(dense_argmax.const_data_ptr()));
  return grad_inputs;
}

// Runs the gather of checked arguments. The result takes the memory format of argmax, as it stands in for an output of
// the forward.
template <typename Kernels>
Tensor compute_gathered(const std::vector<Tensor>& inputs, const Tensor& rois, const Tensor& argmax,
                        const Pyramid& pyramid) {
  const Tensor& input = inputs[0];
  const MemoryFormat format = memory_format_of(argmax);
  const std::vector<Tensor> maps = make_dense(inputs, format);
  const Tensor dense_argmax = make_dense(argmax, format);
  const Tensor wide_rois = widen_rois(rois);
  Tensor output = empty(shape_of(argmax), input.scalar_type(), input.device(), format);
  if (output.numel() == 0) {
    return output;
  }

  const Kernels kernels(input.device());
  RoIPoolProblem problem = make_problem(shape_of(argmax), input.scalar_type(), wide_rois, input.size(0), format);
  add_inputs(problem, maps, pyramid);
  kernels.gather(problem, static_cast<const int32_t*>(dense_argmax.const_data_ptr()), output.mutable_data_ptr());
  return output;
}

// ---- The operators for one map.

template <typename Kernels>
Tensor roi_pool(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                double spatial_scale) {
  check_roi_pool(input, rois, pooled_height, pooled_width, spatial_scale);
  return compute_output<Kernels>({input}, rois, pooled_height, pooled_width, {{spatial_scale}}, nullptr, nullptr);
}

// Writes to `out` without a copy where it lies in memory as a new output would. It may lie over the rois, since kernels
// place all regions before they write.
template <typename Kernels>
Tensor roi_pool_out(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                    double spatial_scale, const Tensor& out) {
  check_roi_pool(input, rois, pooled_height, pooled_width, spatial_scale);
  const Shape sizes{rois.size(0), input.size(1), pooled_height, pooled_width};
  check_out(out, input, sizes);
  const bool fits = has_sizes(out, sizes);
  if (fits && is_dense(out, memory_format_of(input)) && !may_overlap(out, input)) {
    compute_output<Kernels>({input}, rois, pooled_height, pooled_width, {{spatial_scale}}, &out, nullptr);
    return out;
  }
  const Tensor output =
      compute_output<Kernels>({input}, rois, pooled_height, pooled_width, {{spatial_scale}}, nullptr, nullptr);
  if (fits) {
    Tensor destination = out;
    torch::stable::copy_(destination, output);
  } else {
    resize_and_copy(output, out);
  }
  return out;
}

template <typename Kernels>
std::tuple<Tensor, Tensor> roi_pool_with_argmax(const Tensor& input, const Tensor& rois, int64_t pooled_height,
                                                int64_t pooled_width, double spatial_scale) {
  check_roi_pool(input, rois, pooled_height, pooled_width, spatial_scale);
  Tensor argmax;
  Tensor output =
      compute_output<Kernels>({input}, rois, pooled_height, pooled_width, {{spatial_scale}}, nullptr, &argmax);
  return {output, argmax};
}

template <typename Kernels>
Tensor roi_pool_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax, int64_t batch_size,
                         int64_t height, int64_t width, double spatial_scale) {
  check_roi_pool_backward(grad_output, rois, argmax, batch_size, height, width, spatial_scale);
  return compute_grad_inputs<Kernels>(grad_output, rois, argmax, batch_size, {height}, {width}, {{spatial_scale}})[0];
}

template <typename Kernels>
Tensor roi_pool_gather(const Tensor& input, const Tensor& rois, const Tensor& argmax, double spatial_scale) {
  check_roi_pool_gather(input, rois, argmax, spatial_scale);
  return compute_gathered<Kernels>({input}, rois, argmax, {{spatial_scale}});
}

// ---- The operators for a feature pyramid.

template <typename Kernels>
Tensor multiscale_roi_pool(const std::vector<Tensor>& inputs, const Tensor& rois, int64_t pooled_height,
                           int64_t pooled_width, const std::vector<double>& spatial_scales, double canonical_scale,
                           int64_t canonical_level) {
  const Pyramid pyramid{spatial_scales, canonical_scale, canonical_level};
  check_multiscale_roi_pool(inputs, rois, pooled_height, pooled_width, pyramid);
  return compute_output<Kernels>(inputs, rois, pooled_height, pooled_width, pyramid, nullptr, nullptr);
}

template <typename Kernels>
std::tuple<Tensor, Tensor> multiscale_roi_pool_with_argmax(const std::vector<Tensor>& inputs, const Tensor& rois,
                                                           int64_t pooled_height, int64_t pooled_width,
                                                           const std::vector<double>& spatial_scales,
                                                           double canonical_scale, int64_t canonical_level) {
  const Pyramid pyramid{spatial_scales, canonical_scale, canonical_level};
  check_multiscale_roi_pool(inputs, rois, pooled_height, pooled_width, pyramid);
  Tensor argmax;
  Tensor output = compute_output<Kernels>(inputs, rois, pooled_height, pooled_width, pyramid, nullptr, &argmax);
  return {output, argmax};
}

template <typename Kernels>
std::vector<Tensor> multiscale_roi_pool_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax,
                                                 int64_t batch_size, const std::vector<int64_t>& heights,
                                                 const std::vector<int64_t>& widths,
                                                 const std::vector<double>& spatial_scales, double canonical_scale,
                                                 int64_t canonical_level) {
  const Pyramid pyramid{spatial_scales, canonical_scale, canonical_level};
  check_multiscale_roi_pool_backward(grad_output, rois, argmax, batch_size, heights, widths, pyramid);
  return compute_grad_inputs<Kernels>(grad_output, rois, argmax, batch_size, heights, widths, pyramid);
}

template <typename Kernels>
Tensor multiscale_roi_pool_gather(const std::vector<Tensor>& inputs, const Tensor& rois, const Tensor& argmax,
                                  const std::vector<double>& spatial_scales, double canonical_scale,
                                  int64_t canonical_level) {
  const Pyramid pyramid{spatial_scales, canonical_scale, canonical_level};
  check_multiscale_roi_pool_gather(inputs, rois, argmax, pyramid);
  return compute_gathered<Kernels>(inputs, rois, argmax, pyramid);
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
