// Finds what a forward prepares of the maps: all of them for all regions, or the part of a map that a region lies in.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"
#include "cpu/regions.h"
#include "geometry.h"
#include "problem.h"

namespace roipool::cpu {

inline CellRectangle whole_map(const FeatureMaps& maps) {
  return {{0, static_cast<int32_t>(maps.height)}, {0, static_cast<int32_t>(maps.width)}};
}

// Returns what a region prepares for itself alone: the rectangle that its bins lie in, widened to min_columns columns
// where the map has them. It has no cell where all bins are empty.
inline CellRectangle part_of_region(const FeatureMaps& maps, const RegionBins& bins, int64_t min_columns) {
  CellRectangle part = bins.hull();
  const auto width = static_cast<int32_t>(std::min(min_columns, maps.width));
  if (part.num_cells() > 0 && part.width() < width) {
    part.columns.lo = std::min<int32_t>(part.columns.lo, maps.width - width);
    part.columns.hi = part.columns.lo + width;
  }
  return part;
}

// Counts the cells that the regions prepare where each prepares its part of the maps for itself alone, up to `limit`.
// Columns are prepared column_step at a time.
inline int64_t count_part_cells(const LevelProblem& problem, int64_t column_step, int64_t limit) {
  int64_t num_cells = 0;
  RegionBins bins(problem);
  for (int64_t i = 0; i < problem.num_regions() && num_cells < limit; ++i) {
    if (bins.place(problem.regions[i]) >= 0) {
      const CellRectangle part = bins.hull();
      const int64_t width = divide_up(part.width(), column_step) * column_step;
      num_cells += part.height() * std::min(width, problem.maps.width);
    }
  }
  return std::min(num_cells, limit);
}

}  // namespace roipool::cpu
