// One problem: what an operator is called with.
#pragma once
#include <iomanip>
#include <iostream>

#include "arguments.h"
#include "calls.h"
#include "oracle.h"

namespace fuzz {

struct Problem {
  bool pyramid;
  at::ScalarType dtype;
  std::vector<at::Tensor> inputs;
  std::vector<double> spatial_scales;
  at::Tensor rois;
  oracle::Problem plain;
  std::vector<std::vector<double>> values;  // of the inputs

  bool is_valid() const {
    bool valid = is_scale(plain.canonical_scale);
    for (const double spatial_scale : spatial_scales) {
      valid = valid && is_scale(spatial_scale);
    }
    return valid;
  }

  at::IntArrayRef output_sizes() const { return sizes_; }

  // The arguments of an operator after its tensors.
  Stack with_pyramid(Stack stack) const {
    if (pyramid) {
      stack.insert(stack.end(), {spatial_scales, plain.canonical_scale, plain.canonical_level});
    }
    return stack;
  }

  c10::IValue input() const { return pyramid ? c10::IValue(inputs) : c10::IValue(inputs[0]); }

  Stack forward_arguments() const {
    Stack stack{input(), rois, plain.pooled_height, plain.pooled_width};
    if (!pyramid) {
      stack.emplace_back(spatial_scales[0]);
    }
    return with_pyramid(stack);
  }

  Stack backward_arguments(const at::Tensor& grad_output, const at::Tensor& argmax) const {
    Stack stack{grad_output, rois, argmax, plain.num_images};
    if (!pyramid) {
      stack.insert(stack.end(), {plain.levels[0].height, plain.levels[0].width});
      return stack;
    }
    std::vector<int64_t> heights;
    std::vector<int64_t> widths;
    for (const oracle::Level& level : plain.levels) {
      heights.push_back(level.height);
      widths.push_back(level.width);
    }
    stack.insert(stack.end(), {heights, widths});
    return with_pyramid(stack);
  }

  Stack gather_arguments(const at::Tensor& argmax) const { return with_pyramid({input(), rois, argmax}); }

  std::vector<int64_t> sizes_;
};

inline void print(const Problem& problem) {
  const oracle::Problem& plain = problem.plain;
  std::cerr << "output_size (" << plain.pooled_height << ", " << plain.pooled_width << "), canonical_scale "
            << plain.canonical_scale << ", canonical_level " << plain.canonical_level << "\n";
  for (size_t i = 0; i < problem.inputs.size(); ++i) {
    const at::Tensor& input = problem.inputs[i];
    std::cerr << "input " << input.scalar_type() << " " << input.sizes() << ", strides " << input.strides()
              << ", spatial_scale " << problem.spatial_scales[i] << "\n";
  }
  std::cerr << "rois " << problem.rois.strides() << std::setprecision(17) << "\n";
  for (int64_t k = 0; k < plain.num_rois; ++k) {
    for (const double number : doubles(problem.rois[k])) {
      std::cerr << " " << number;
    }
    std::cerr << "\n";
  }
}

// Of a square, of which `count` have as many elements together; but 2 at least, and `most` at most.
inline int64_t side(int64_t elements, int64_t count, int64_t most) {
  const double root = std::sqrt(static_cast<double>(elements) / static_cast<double>(std::max<int64_t>(1, count)));
  return std::clamp(static_cast<int64_t>(root), int64_t{2}, most);
}

inline Problem problem(Bytes& bytes) {
  Problem problem;
  problem.pyramid = bytes.one_in(3);
  problem.dtype = bytes.pick(kFeatureDtypes);
  oracle::Problem& plain = problem.plain;
  plain.num_images = bytes.in(0, 3);
  plain.channels = bytes.one_in(3) ? bytes.in(15, 70) : bytes.in(0, 14);
  plain.num_rois = bytes.one_in(16) ? bytes.in(0, 60) : bytes.in(0, 5);
  plain.canonical_scale = problem.pyramid ? scale(bytes) * 32 : 1;
  plain.canonical_level = problem.pyramid ? bytes.in(-3, 6) : 0;
  const int64_t num_levels = problem.pyramid ? bytes.in(1, 8) : 1;
  // Small enough that there are thousands of executions in a second; a few of them are larger.
  const int64_t elements = bytes.one_in(16) ? 20000 : 2000;
  const int64_t most_bins = side(elements, plain.num_rois * plain.channels, 7);
  const int64_t most_cells = side(elements, plain.num_images * plain.channels * num_levels, elements > 2000 ? 40 : 14);
  plain.pooled_height = bytes.in(1, most_bins);
  plain.pooled_width = bytes.in(1, most_bins);
  double extent = 1;
  for (int64_t i = 0; i < num_levels; ++i) {
    const int64_t height = bytes.in(0, most_cells);
    const int64_t width = bytes.in(0, most_cells);
    problem.spatial_scales.push_back(scale(bytes));
    problem.inputs.push_back(features(bytes, {plain.num_images, plain.channels, height, width}, problem.dtype));
    extent = std::max(extent, static_cast<double>(std::max(height, width)) / problem.spatial_scales.back());
  }
  problem.rois = rois(bytes, plain.num_rois, plain.num_images, extent);
  problem.sizes_ = {plain.num_rois, plain.channels, plain.pooled_height, plain.pooled_width};
  for (int64_t i = 0; i < num_levels; ++i) {
    const at::Tensor& input = problem.inputs[i];
    problem.values.push_back(doubles(input));
    plain.levels.push_back({problem.values.back().data(), input.size(2), input.size(3), problem.spatial_scales[i]});
  }
  return problem;
}

}  // namespace fuzz
