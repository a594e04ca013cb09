#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"

namespace roipool {
namespace {

// Pools kStrip adjacent vectors of a block, from `lanes` on: the best values, and their cells, stay in registers over a
// whole bin.
template <typename Kind, bool kPlain, bool kCells, int64_t kStrip>
void pool_strip(const Block<Kind>& block, const typename Kind::lane_t* lanes, const Grid& grid,
                typename Kind::lane_t* values, typename Kind::cell_t* cells) {
  using lane_t = typename Kind::lane_t;
  using cell_t = typename Kind::cell_t;
  constexpr int64_t kCount = kLanes<lane_t>;
  constexpr int64_t kBlock = InnerLoops<Kind>::kBlockChannels;
  using V = Vector<lane_t, kCount>;
  using C = Vector<cell_t, kCount>;
  const int64_t pitch = InnerLoops<Kind>::padded(block.channels);
  const int64_t width = block.width;
  const int64_t reach = block.reach;

  for (int64_t p = 0; p < grid.num_rows; ++p) {
    const CellRange row = grid.rows[p];
    for (int64_t q = 0; q < grid.num_columns; ++q) {
      const CellRange column = grid.columns[q];
      V best[kStrip] = {};
      C best_cell[kStrip] = {};
      if (!row.empty() && !column.empty()) {
        const lane_t* first = lanes + ((row.lo - block.top) * width + column.lo - block.left) * pitch;
        ROIPOOL_UNROLL
        for (int64_t v = 0; v < kStrip; ++v) {
          best[v] = load<V>(first + v * kCount);
        }
        const int64_t pool_height = row.hi - row.lo;
        const int64_t pool_width = column.hi - column.lo;
        // Steps of `reach` rows; the last is shorter, so that it ends where the bin does.
        for (int64_t step = 0; step < pool_height; step += reach) {
          const int64_t y = min(step, pool_height - reach);
          for (int64_t x = 0; x < pool_width; ++x) {
            ROIPOOL_UNROLL
            for (int64_t v = 0; v < kStrip; ++v) {
              const V value = load<V>(first + (y * width + x) * pitch + v * kCount);
              const auto better = replaces<Kind, kPlain>(value, best[v]);
              best[v] = better ? value : best[v];
              if constexpr (kCells) {
                best_cell[v] = better ? C{} + static_cast<cell_t>(y * block.map_width + x) : best_cell[v];
              }
            }
          }
        }
      }
      const int64_t to = (p * grid.num_columns + q) * kBlock;
      ROIPOOL_UNROLL
      for (int64_t v = 0; v < kStrip; ++v) {
        store(best[v], values + to + v * kCount);
        if constexpr (kCells) {
          store(best_cell[v], cells + to + v * kCount);
        }
      }
    }
  }
}

template <typename Kind, bool kPlain, bool kCells>
void pool_strips(const Block<Kind>& block, const Grid& grid, typename Kind::lane_t* values,
                 typename Kind::cell_t* cells) {
  constexpr int64_t kCount = kLanes<typename Kind::lane_t>;
  for (int64_t c = 0; c < block.channels;) {
    const int64_t vectors = (block.channels - c + kCount - 1) / kCount;
    const auto strip = vectors >= 4   ? pool_strip<Kind, kPlain, kCells, 4>
                       : vectors >= 2 ? pool_strip<Kind, kPlain, kCells, 2>
                                      : pool_strip<Kind, kPlain, kCells, 1>;
    strip(block, block.lanes + c, grid, values + c, kCells ? cells + c : nullptr);
    c += kCount * (vectors >= 4 ? 4 : vectors >= 2 ? 2 : 1);
  }
}

template <typename Kind>
void pool(const Block<Kind>& block, const Grid& grid, typename Kind::lane_t* values, typename Kind::cell_t* cells) {
  const bool plain = block.contents.plain;
  const auto strips = plain ? (cells == nullptr ? pool_strips<Kind, true, false> : pool_strips<Kind, true, true>)
                            : (cells == nullptr ? pool_strips<Kind, false, false> : pool_strips<Kind, false, true>);
  strips(block, grid, values, cells);
}

}  // namespace
}  // namespace roipool
