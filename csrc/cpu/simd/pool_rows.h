#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"

namespace roipool {
namespace {

template <typename Kind>
bool is_plain(const typename Kind::lane_t* cells, int64_t num_cells) {
  constexpr int64_t kCount = kLanes<typename Kind::lane_t>;
  using V = Vector<typename Kind::lane_t, kCount>;
  decltype(is_nan<Kind>(V{})) special{};
  for (int64_t i = 0; i < num_cells; i += kCount) {
    const V lanes = load_some<V>(cells + i, num_cells - i);
    special |= is_nan<Kind>(lanes) | is_negative_zero<Kind>(lanes);
  }
  bool plain = true;
  for (int64_t i = 0; i < kCount; ++i) {
    plain &= special[i] == 0;
  }
  return plain;
}

template <typename Kind, bool kCells>
void pool_rows(const typename Kind::lane_t* plane, int64_t width, int64_t map_width, const Grid& grid,
               typename Kind::lane_t* scratch, typename Kind::cell_t* cell_scratch, typename Kind::lane_t* values,
               int32_t* cells) {
  using lane_t = typename Kind::lane_t;
  using cell_t = typename Kind::cell_t;
  constexpr int64_t kCount = kLanes<lane_t>;
  using V = Vector<lane_t, kCount>;
  using C = Vector<cell_t, kCount>;

  // The columns that the region covers, from `left` on, in vectors that lie within the map: the last one overlaps the
  // one before it.
  int64_t left = width - kCount;
  int64_t right = 0;
  for (int64_t q = 0; q < grid.num_columns; ++q) {
    if (!grid.columns[q].empty()) {
      left = min(left, grid.columns[q].lo);
      right = grid.columns[q].hi > right ? grid.columns[q].hi : right;
    }
  }
  // From a line of cache on, where there is one in the first row, so that no load of a vector spans two.
  left -= min(left, static_cast<int64_t>(reinterpret_cast<uintptr_t>(plane + left) / sizeof(lane_t) % kCount));
  const int64_t pitch = (right > left ? right - left : 0) + kCount;
  lane_t* reduced = scratch;                           // [kCount rows of bins][columns], then, transposed,
  lane_t* columns_of_bins = scratch + kCount * pitch;  // [columns][kCount rows of bins]
  lane_t* bins = columns_of_bins + kCount * pitch;     // [num_columns][kCount rows of bins]
  cell_t* reduced_cells = cell_scratch;
  cell_t* cells_of_columns = kCells ? reduced_cells + kCount * pitch : nullptr;
  cell_t* bin_cells = kCells ? cells_of_columns + kCount * pitch : nullptr;
  C lane_numbers;
  for (int64_t i = 0; i < kCount; ++i) {
    lane_numbers[i] = i;
  }

  for (int64_t p = 0; p < grid.num_rows; p += kCount) {
    const int64_t count = min(kCount, grid.num_rows - p);
    for (int64_t i = 0; i < count; ++i) {
      const CellRange row = grid.rows[p + i];
      for (int64_t x = left; x < right && !row.empty(); x += kCount) {
        const int64_t first = min(x, width - kCount);
        V best = load<V>(plane + row.lo * width + first);
        C best_cell = lane_numbers + static_cast<cell_t>(row.lo * map_width + first);
        for (int64_t y = row.lo + 1; y < row.hi; ++y) {
          const V value = load<V>(plane + y * width + first);
          const auto better = value > best;
          best = better ? value : best;
          if constexpr (kCells) {
            best_cell = better ? lane_numbers + static_cast<cell_t>(y * map_width + first) : best_cell;
          }
        }
        store(best, reduced + i * pitch + first - left);
        if constexpr (kCells) {
          store(best_cell, reduced_cells + i * pitch + first - left);
        }
      }
    }
    for (int64_t x = left; x < right; x += kCount) {
      const int64_t first = min(x, width - kCount) - left;
      transpose_square(reduced + first, pitch, columns_of_bins + first * kCount, kCount, count);
      if constexpr (kCells) {
        transpose_square(reduced_cells + first, pitch, cells_of_columns + first * kCount, kCount, count);
      }
    }
    for (int64_t q = 0; q < grid.num_columns; ++q) {
      V best{};
      C best_cell = C{} - 1;
      if (!grid.columns[q].empty()) {
        int64_t x = grid.columns[q].lo - left;
        best = load<V>(columns_of_bins + x * kCount);
        best_cell = kCells ? load<C>(cells_of_columns + x * kCount) : C{};
        for (++x; x < grid.columns[q].hi - left; ++x) {
          const V value = load<V>(columns_of_bins + x * kCount);
          if constexpr (kCells) {  // of equal values the one with the lower number, which is first in row-major order
            const C cell = load<C>(cells_of_columns + x * kCount);
            const auto better = (value > best) | ((value == best) & (cell < best_cell));
            best = better ? value : best;
            best_cell = better ? cell : best_cell;
          } else {
            best = value > best ? value : best;
          }
        }
      }
      store(best, bins + q * kCount);
      if constexpr (kCells) {
        store(best_cell, bin_cells + q * kCount);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const bool empty = grid.rows[p + i].empty();
      for (int64_t q = 0; q < grid.num_columns; ++q) {
        values[(p + i) * grid.num_columns + q] = empty ? 0 : bins[q * kCount + i];
        if constexpr (kCells) {
          cells[(p + i) * grid.num_columns + q] = empty ? -1 : static_cast<int32_t>(bin_cells[q * kCount + i]);
        }
      }
    }
  }
}

template <typename Kind>
void pool_plane(const typename Kind::lane_t* plane, int64_t width, int64_t map_width, const Grid& grid,
                typename Kind::lane_t* scratch, typename Kind::cell_t* cell_scratch, typename Kind::lane_t* values,
                int32_t* cells) {
  const auto pool = cells == nullptr ? pool_rows<Kind, false> : pool_rows<Kind, true>;
  pool(plane, width, map_width, grid, scratch, cell_scratch, values, cells);
}

}  // namespace
}  // namespace roipool
