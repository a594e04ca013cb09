// Says what is prepared of the maps before regions are pooled from it: whole maps once for all regions, or for each
// region the part of a map that it lies in.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/regions.h"
#include "geometry.h"
#include "problem.h"

namespace roipool::cpu {

inline CellRectangle whole_map(const FeatureMaps& maps) {
  return {{0, static_cast<int32_t>(maps.height)}, {0, static_cast<int32_t>(maps.width)}};
}

// Returns how many columns of a map are prepared at a time: where they are adjacent, the lanes of the widest register.
inline int64_t column_step(const RoIPoolProblem& problem, int64_t lane_bytes) {
  return problem.channels_last ? 1 : simd::kMaxVectorBytes / lane_bytes;
}

// Returns what a region prepares for itself alone: the rectangle that its bins lie in, widened to min_columns columns
// where the map has them.
inline CellRectangle part_of_region(const FeatureMaps& maps, const PlacedRegion& region, int64_t min_columns) {
  CellRectangle part = region.hull;
  const auto width = static_cast<int32_t>(std::min(min_columns, maps.width));
  if (part.width() < width) {
    part.columns.lo = std::min<int32_t>(part.columns.lo, maps.width - width);
    part.columns.hi = part.columns.lo + width;
  }
  return part;
}

}  // namespace roipool::cpu
