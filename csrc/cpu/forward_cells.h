// Pools cell by cell, from the map as it lies in memory: what has too few cells for vectors, and what the vector loops
// cannot pool.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/dtype_loops.h"
#include "cpu/region_shares.h"
#include "cpu/regions.h"
#include "problem.h"

namespace roipool::cpu {

// Returns the cell that a bin's value comes from, or -1 for an empty bin. kChannelsLast says that the cells of a plane
// are cell_stride apart; else they are adjacent.
template <bool kChannelsLast, typename scalar_t>
int64_t scan_bin(const FeatureMaps& maps, const scalar_t* plane, CellRange rows, CellRange columns) {
  if (rows.empty() || columns.empty()) {
    return -1;
  }
  const int64_t cell_stride = kChannelsLast ? maps.cell_stride : 1;
  int64_t best_cell = rows.lo * maps.width + columns.lo;
  wide_t<scalar_t> best = plane[best_cell * cell_stride];
  for (int64_t y = rows.lo; y < rows.hi; ++y) {
    const int64_t first = y * maps.width;
    const scalar_t* values = plane + first * cell_stride;
    for (int64_t x = columns.lo; x < columns.hi; ++x) {
      const wide_t<scalar_t> value = values[x * cell_stride];
      if (replaces(value, best)) {
        best = value;
        best_cell = first + x;
      }
    }
  }
  return best_cell;
}

template <bool kChannelsLast, typename scalar_t>
void pool_channel_by_cells(const LevelProblem& problem, const PlacedRegion& region, int64_t c, scalar_t* output,
                           int32_t* argmax) {
  const FeatureMaps& maps = problem.maps;
  const auto* plane =
      static_cast<const scalar_t*>(maps.input) + region.image * maps.image_stride + c * maps.channel_stride;
  int64_t to = region.k * problem.output_region_stride + c * problem.output_channel_stride;
  for (int64_t p = 0; p < region.grid.num_rows; ++p) {
    for (int64_t q = 0; q < region.grid.num_columns; ++q) {
      const int64_t cell = scan_bin<kChannelsLast>(maps, plane, region.grid.rows[p], region.grid.columns[q]);
      output[to] = cell < 0 ? scalar_t{} : plane[cell * maps.cell_stride];
      if (argmax != nullptr) {
        argmax[to] = static_cast<int32_t>(cell);
      }
      to += problem.output_bin_stride;
    }
  }
}

// Pools one channel of a region. argmax may be null.
template <typename scalar_t>
void pool_channel_by_cells(const LevelProblem& problem, const PlacedRegion& region, int64_t c, scalar_t* output,
                           int32_t* argmax) {
  const auto pool =
      problem.channels_last ? pool_channel_by_cells<true, scalar_t> : pool_channel_by_cells<false, scalar_t>;
  pool(problem, region, c, output, argmax);
}

// Pools one channel of a region of contiguous maps by vectors. Returns false where that cannot be done: the bins have
// special values or too many cells, or vectors would reach beyond the maps.
template <typename scalar_t>
bool pool_channel_by_vectors(const LevelProblem& problem, const PlacedRegion& region, int64_t c, scalar_t* output,
                             int32_t* argmax) {
  using Loops = std::decay_t<decltype(DTypeLoops<scalar_t>::cells())>;
  using lane_t = typename Loops::lane_t;
  const FeatureMaps& maps = problem.maps;
  const int64_t plane = region.image * maps.image_stride + c * maps.channel_stride;
  const int64_t end = plane + (region.hull.rows.hi - 1) * maps.width + region.hull.columns.hi - 1 + Loops::kMaxLanes;
  if (end > problem.num_images * maps.image_stride || region.max_bin_cells() > Loops::kMaxBinCells) {
    return false;
  }
  const int64_t to = region.k * problem.output_region_stride + c * problem.output_channel_stride;
  return DTypeLoops<scalar_t>::cells().pool_bins(static_cast<const lane_t*>(maps.input) + plane, maps.width,
                                                 region.grid, reinterpret_cast<lane_t*>(output + to),
                                                 argmax == nullptr ? nullptr : argmax + to);
}

// Pools all channels of all regions. `cost` is of all regions together.
template <typename scalar_t>
void pool_cells(const LevelProblem& problem, const PlacedRegions& placed, double cost, scalar_t* output,
                int32_t* argmax) {
  for_each_region_share(placed, problem.num_channels, cost, [&] {
    return [&](const PlacedRegion& region, int64_t c) {
      if (problem.channels_last || !pool_channel_by_vectors(problem, region, c, output, argmax)) {
        pool_channel_by_cells(problem, region, c, output, argmax);
      }
    };
  });
}

}  // namespace roipool::cpu
