// Pools each level of a pyramid in the way that forward.h chooses for it.
#include "cpu/forward.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

#include "cpu/forward_cells.h"
#include "cpu/forward_packed_maps.h"
#include "cpu/forward_region_parts.h"
#include "cpu/forward_rows.h"
#include "cpu/kernels.h"
#include "cpu/region_parts.h"
#include "cpu/region_shares.h"
#include "cpu/regions.h"
#include "dtypes.h"

namespace roipool::cpu {
namespace {

template <typename scalar_t>
ForwardWork work_of(const LevelProblem& problem, const PlacedRegions& placed, bool with_argmax) {
  ForwardWork work{};
  work.num_channels = problem.num_channels;
  work.group_channels = ChannelGroups<scalar_t>::kGroupChannels;
  work.vector_lanes = simd::kMaxVectorBytes / sizeof(scalar_t);
  work.map_width = problem.maps.width;
  work.num_cells = problem.num_images * problem.maps.num_cells();
  work.channels_last = problem.channels_last;
  work.half_precision = sizeof(scalar_t) == 2;
  work.with_argmax = with_argmax;
  const int64_t row_lanes = simd::kMaxVectorBytes / sizeof(wide_t<scalar_t>);
  for (const PlacedRegion& region : placed) {
    if (region.image >= 0) {
      const CellRectangle& hull = region.hull;
      const int64_t row_vectors = divide_up(hull.width(), row_lanes);
      const int64_t row_blocks = divide_up(problem.pooled_height, row_lanes);
      ++work.num_regions;
      work.num_bins += problem.num_bins();
      work.num_part_cells += hull.num_cells();
      work.num_part_vectors += hull.height() * divide_up(hull.width(), work.vector_lanes);
      work.num_visits += region.row_visits() * region.column_visits();
      work.num_bin_vectors += region.row_visits() * region.column_vectors(work.vector_lanes);
      work.num_row_vectors += region.row_visits() * row_vectors;
      work.num_row_squares += row_blocks * row_vectors;
      work.num_column_vectors += row_blocks * region.column_visits();
    }
  }
  return work;
}

// Clears the regions that lie in no image.
template <typename scalar_t>
void clear_regions(const LevelProblem& problem, const PlacedRegions& placed, scalar_t* output, int32_t* argmax) {
  for (const PlacedRegion& region : placed) {
    if (region.image < 0) {
      clear_region(problem, region.k, output, argmax);
    }
  }
}

// Returns the way that ROIPOOL_CPU_FORWARD asks for, for tests and comparisons, or null.
const char* way_asked_for() {
  const char* asked = std::getenv("ROIPOOL_CPU_FORWARD");
  const auto is_asked = [&](const NamedForwardWay& known) { return std::strcmp(known.name, asked) == 0; };
  if (asked != nullptr && std::none_of(std::begin(kForwardWays), std::end(kForwardWays), is_asked)) {
    std::string names;
    for (const NamedForwardWay& known : kForwardWays) {
      names += std::string(names.empty() ? "" : ", ") + known.name;
    }
    throw std::runtime_error("ROIPOOL_CPU_FORWARD must be one of " + names + ", got " + asked);
  }
  return asked;
}

template <typename scalar_t>
void forward_level(const LevelProblem& problem, scalar_t* output, int32_t* argmax) {
  const PlacedRegions placed(problem);
  clear_regions(problem, placed, output, argmax);
  const ForwardWork work = work_of<scalar_t>(problem, placed, argmax != nullptr);
  const ForwardWay way = choose_way(work, way_asked_for());
  const double cost = predict(way, work);
  switch (way) {
    case ForwardWay::kPackedMaps:
      PackedMapsForward<scalar_t>(problem, placed, output, argmax).pool(work);
      break;
    case ForwardWay::kPackedParts:
    case ForwardWay::kInPlace:
      RegionPartsForward<scalar_t>(problem, placed, output, argmax).pool(way == ForwardWay::kInPlace, cost);
      break;
    case ForwardWay::kRows:
      RowForward<scalar_t>(problem, placed, output, argmax).pool(work.num_part_cells >= work.num_cells, cost);
      break;
    case ForwardWay::kCells:
      pool_cells(problem, placed, cost, output, argmax);
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
