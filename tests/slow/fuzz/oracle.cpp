// Exports oracle.h to Python, which calls it by ctypes.
#include "oracle.h"

#include <algorithm>

extern "C" {

struct Arguments {
  int64_t num_levels;
  const double* const* maps;
  const int64_t* heights;
  const int64_t* widths;
  const double* spatial_scales;
  int64_t num_images;
  int64_t channels;
  int64_t num_rois;
  int64_t pooled_height;
  int64_t pooled_width;
  double canonical_scale;
  int64_t canonical_level;
  const void* rois;
  bool rois_are_double;
};
}

namespace {

// Calls function(problem, rois).
template <typename Function>
void with_problem(const Arguments& arguments, const Function& function) {
  oracle::Problem problem{{},
                          arguments.num_images,
                          arguments.channels,
                          arguments.num_rois,
                          arguments.pooled_height,
                          arguments.pooled_width,
                          arguments.canonical_scale,
                          arguments.canonical_level};
  for (int64_t i = 0; i < arguments.num_levels; ++i) {
    problem.levels.push_back(
        {arguments.maps[i], arguments.heights[i], arguments.widths[i], arguments.spatial_scales[i]});
  }
  if (arguments.rois_are_double) {
    function(problem, static_cast<const double*>(arguments.rois));
  } else {
    function(problem, static_cast<const float*>(arguments.rois));
  }
}

}  // namespace

extern "C" void oracle_argmax(const Arguments* arguments, int32_t* argmax) {
  with_problem(*arguments, [&](const oracle::Problem& problem, const auto* rois) {
    const auto cells = oracle::argmax(problem, rois);
    std::copy(cells.begin(), cells.end(), argmax);
  });
}

// Writes the sums of each level, as doubles, whatever they were added up in.
extern "C" void oracle_backward(const Arguments* arguments, const int32_t* argmax, const double* grad_output,
                                bool in_double, double* const* sums) {
  with_problem(*arguments, [&](const oracle::Problem& problem, const auto* rois) {
    using T = std::decay_t<decltype(*rois)>;
    const auto copy = [&](const auto& results) {
      for (size_t i = 0; i < results.size(); ++i) {
        std::copy(results[i].begin(), results[i].end(), sums[i]);
      }
    };
    if (in_double) {
      copy(oracle::backward<T, double>(problem, rois, grad_output, argmax));
    } else {
      copy(oracle::backward<T, float>(problem, rois, grad_output, argmax));
    }
  });
}

// Writes which element of its level's maps each element of argmax stands for, or -1.
extern "C" void oracle_cells(const Arguments* arguments, const int32_t* argmax, int64_t* levels, int64_t* cells) {
  with_problem(*arguments, [&](const oracle::Problem& problem, const auto* rois) {
    oracle::for_each_cell(problem, rois, argmax, [&](int64_t level, int64_t cell, int64_t element) {
      levels[element] = level;
      cells[element] = cell;
    });
  });
}
