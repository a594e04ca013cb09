// Pools each level of a pyramid in the way that forward.h chooses for it.
#include "cpu/forward.h"

#include <cstdint>

#include "cpu/forward_channel_groups.h"
#include "cpu/forward_rows.h"
#include "cpu/kernels.h"
#include "cpu/region_parts.h"
#include "cpu/region_shares.h"
#include "cpu/regions.h"
#include "dtypes.h"

namespace roipool::cpu {
namespace {

ForwardSizes sizes_of(const LevelProblem& problem) {
  ForwardSizes sizes{};
  sizes.num_images = problem.num_images;
  sizes.num_channels = problem.num_channels;
  sizes.map_height = problem.maps.height;
  sizes.map_width = problem.maps.width;
  sizes.num_regions = problem.num_regions();
  sizes.num_bins = problem.num_bins();
  return sizes;
}

// Returns how many columns of a map are prepared at a time: where they are adjacent, the lanes of the widest register.
template <typename scalar_t>
int64_t column_step(const LevelProblem& problem) {
  return problem.channels_last ? 1 : simd::kMaxVectorBytes / sizeof(scalar_t);
}

template <typename scalar_t>
void forward_level(const LevelProblem& problem, scalar_t* output, int32_t* argmax) {
  const ForwardSizes sizes = sizes_of(problem);
  const int64_t num_part_cells = surely_cover_maps(sizes)
                                     ? sizes.num_cells()
                                     : count_part_cells(problem, column_step<scalar_t>(problem), sizes.num_cells());
  const ForwardPlan plan = plan_forward(sizes, num_part_cells);
  switch (plan.way) {
    case ForwardWay::kClear:
      for (const int64_t k : problem.regions) {
        clear_region(problem, k, output, argmax);
      }
      break;
    case ForwardWay::kChannelGroups:
      if (plan.whole_maps) {
        ChannelGroupForward<scalar_t>(problem, output, argmax).pool_from_whole_maps();
      } else {
        ChannelGroupForward<scalar_t>(problem, output, argmax)
            .pool_from_region_parts(num_part_cells, column_step<scalar_t>(problem));
      }
      break;
    case ForwardWay::kRows:
      if (plan.whole_maps) {
        RowForward<scalar_t>(problem, output, argmax).pool_from_whole_maps();
      } else {
        RowForward<scalar_t>(problem, output, argmax).pool_from_region_parts(num_part_cells);
      }
      break;
  }
}

}  // namespace

void forward(const RoIPoolProblem& problem, void* output, int32_t* argmax) {
  with_dtype(problem.dtype, [&](auto zero) {
    for (int64_t level = 0; level < problem.num_levels; ++level) {
      forward_level(LevelProblem(problem, level), static_cast<decltype(zero)*>(output), argmax);
    }
  });
}

}  // namespace roipool::cpu
