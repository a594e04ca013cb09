#include <algorithm>
#include <cstdint>

#include "cpu/forward_cells.h"
#include "cpu/forward_channel_groups.h"
#include "cpu/forward_rows.h"
#include "cpu/kernels.h"
#include "cpu/regions.h"

namespace roipool::cpu {
namespace {

// The cells that the regions prepare if each prepares what it lies in, for itself alone; at most those of the maps.
template <typename scalar_t>
int64_t cells_to_prepare(const LevelProblem& problem) {
  const int64_t all = problem.num_images * problem.maps.num_cells();
  if (problem.num_regions() * problem.num_bins() >= 4 * all) {  // then there is no need to look at them
    return all;
  }
  const int64_t columns = columns_at_a_time<scalar_t>(problem);
  int64_t cells = 0;
  Bins bins(problem);
  for (int64_t i = 0; i < problem.num_regions() && cells < all; ++i) {
    if (bins.locate(problem.regions[i]) >= 0) {
      const Rectangle part = bins.hull();
      cells += part.height() * std::min(divide_up(part.width(), columns) * columns, problem.maps.width);
    }
  }
  return std::min(cells, all);
}

template <typename scalar_t>
void forward_level(const LevelProblem& problem, scalar_t* output, int32_t* argmax) {
  constexpr int64_t kFewChannels = 16;
  constexpr int64_t kVeryFewChannels = 8;
  const int64_t all_cells = problem.num_images * problem.maps.num_cells();
  const bool is_narrow = problem.maps.width < RowLoops<Float32Lanes>::kMaxLanes;  // too narrow to be pooled by rows
  if (all_cells == 0) {
    for (const int64_t k : problem.regions) {
      clear_region(problem, k, output, argmax);
    }
    return;
  }
  if (is_narrow && problem.channels < kVeryFewChannels) {
    forward_cells(problem, output, argmax);
    return;
  }
  const int64_t cells = cells_to_prepare<scalar_t>(problem);
  const bool alone = cells < all_cells;
  const auto run = [&](auto&& forward) {
    if (alone) {
      forward.run_alone(cells);
    } else {
      forward.run();
    }
  };
  if (is_narrow || problem.channels >= kFewChannels) {
    run(BlockForward<scalar_t>(problem, output, argmax));
  } else {
    run(RowForward<scalar_t>(problem, output, argmax));
  }
}

// output, argmax: [K, C, PH, PW]; argmax may be null
template <typename scalar_t>
void forward_of_dtype(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) {
  for (int64_t level = 0; level < problem.num_levels; ++level) {
    forward_level(LevelProblem(problem, level), output, argmax);
  }
}

}  // namespace

void forward(const RoIPoolProblem& problem, void* output, int32_t* argmax) {
  with_dtype(problem.dtype,
             [&](auto zero) { forward_of_dtype(problem, static_cast<decltype(zero)*>(output), argmax); });
}

}  // namespace roipool::cpu
