// Describes what one call of an operator is given.
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
  oracle::Problem oracle_problem;
  std::vector<std::vector<double>> values;  // of the inputs, for the oracle

  bool is_valid() const {
    bool valid = is_scale(oracle_problem.canonical_scale);
    for (const double spatial_scale : spatial_scales) {
      valid = valid && is_scale(spatial_scale);
    }
    return valid;
  }

  at::IntArrayRef output_sizes() const { return sizes_; }

  // Appends the arguments by which regions are placed, the last ones of every operator.
  Stack with_scales(Stack stack) const {
    if (pyramid) {
      stack.insert(stack.end(), {spatial_scales, oracle_problem.canonical_scale, oracle_problem.canonical_level});
    } else {
      stack.emplace_back(spatial_scales[0]);
    }
    return stack;
  }

  c10::IValue input() const { return pyramid ? c10::IValue(inputs) : c10::IValue(inputs[0]); }

  Stack forward_arguments() const {
    return with_scales({input(), rois, oracle_problem.pooled_height, oracle_problem.pooled_width});
  }

  Stack backward_arguments(const at::Tensor& grad_output, const at::Tensor& argmax) const {
    Stack stack{grad_output, rois, argmax, oracle_problem.num_images};
    if (!pyramid) {
      stack.insert(stack.end(), {oracle_problem.levels[0].height, oracle_problem.levels[0].width});
      return with_scales(stack);
    }
    std::vector<int64_t> heights;
    std::vector<int64_t> widths;
    for (const oracle::Level& level : oracle_problem.levels) {
      heights.push_back(level.height);
      widths.push_back(level.width);
    }
    stack.insert(stack.end(), {heights, widths});
    return with_scales(stack);
  }

  Stack gather_arguments(const at::Tensor& argmax) const { return with_scales({input(), rois, argmax}); }

  std::vector<int64_t> sizes_;
};

inline void print(const Problem& problem) {
  const oracle::Problem& oracle_problem = problem.oracle_problem;
  std::cerr << "output_size (" << oracle_problem.pooled_height << ", " << oracle_problem.pooled_width
            << "), canonical_scale " << oracle_problem.canonical_scale << ", canonical_level "
            << oracle_problem.canonical_level << "\n";
  for (size_t i = 0; i < problem.inputs.size(); ++i) {
    const at::Tensor& input = problem.inputs[i];
    std::cerr << "input " << input.scalar_type() << " " << input.sizes() << ", strides " << input.strides()
              << ", spatial_scale " << problem.spatial_scales[i] << "\n";
  }
  std::cerr << "rois " << problem.rois.strides() << std::setprecision(17) << "\n";
  for (int64_t k = 0; k < oracle_problem.num_rois; ++k) {
    for (const double number : doubles(problem.rois[k])) {
      std::cerr << " " << number;
    }
    std::cerr << "\n";
  }
}

// Returns the side of a square of which `count` have so many elements together: 2 at least, `most` at most.
inline int64_t side(int64_t elements, int64_t count, int64_t most) {
  const double root = std::sqrt(static_cast<double>(elements) / static_cast<double>(std::max<int64_t>(1, count)));
  return std::clamp(static_cast<int64_t>(root), int64_t{2}, most);
}

inline Problem problem(Bytes& bytes) {
  Problem problem;
  problem.pyramid = bytes.one_in(3);
  problem.dtype = bytes.pick(kFeatureDtypes);
  oracle::Problem& oracle_problem = problem.oracle_problem;
  oracle_problem.num_images = bytes.in(0, 3);
  oracle_problem.channels = bytes.one_in(3) ? bytes.in(15, 70) : bytes.in(0, 14);
  oracle_problem.num_rois = bytes.one_in(16) ? bytes.in(0, 60) : bytes.in(0, 5);
  oracle_problem.canonical_scale = problem.pyramid ? scale(bytes) * 32 : 1;
  oracle_problem.canonical_level = problem.pyramid ? bytes.in(-3, 6) : 0;
  const int64_t num_levels = problem.pyramid ? bytes.in(1, 8) : 1;
  // Most problems are small, so that thousands run in a second; a few are larger.
  const int64_t elements = bytes.one_in(16) ? 20000 : 2000;
  const int64_t most_bins = side(elements, oracle_problem.num_rois * oracle_problem.channels, 7);
  const int64_t most_cells =
      side(elements, oracle_problem.num_images * oracle_problem.channels * num_levels, elements > 2000 ? 40 : 14);
  oracle_problem.pooled_height = bytes.in(1, most_bins);
  oracle_problem.pooled_width = bytes.in(1, most_bins);
  double image_size = 1;
  for (int64_t i = 0; i < num_levels; ++i) {
    const int64_t height = bytes.in(0, most_cells);
    const int64_t width = bytes.in(0, most_cells);
    problem.spatial_scales.push_back(scale(bytes));
    problem.inputs.push_back(
        features(bytes, {oracle_problem.num_images, oracle_problem.channels, height, width}, problem.dtype));
    image_size = std::max(image_size, static_cast<double>(std::max(height, width)) / problem.spatial_scales.back());
  }
  problem.rois = rois(bytes, oracle_problem.num_rois, oracle_problem.num_images, image_size);
  problem.sizes_ = {oracle_problem.num_rois, oracle_problem.channels, oracle_problem.pooled_height,
                    oracle_problem.pooled_width};
  for (int64_t i = 0; i < num_levels; ++i) {
    const at::Tensor& input = problem.inputs[i];
    problem.values.push_back(doubles(input));
    oracle_problem.levels.push_back(
        {problem.values.back().data(), input.size(2), input.size(3), problem.spatial_scales[i]});
  }
  return problem;
}

}  // namespace fuzz
