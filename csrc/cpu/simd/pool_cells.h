// Pools bins from planes as they lie, one bin after the other: the cells of its rows side by side.
#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"

namespace roipool::cpu::simd {
namespace {

// Folds a vector in halves to one lane. choose(a, b) chooses between the lanes of two vectors.
template <typename T, int64_t kCount, typename Choose>
ROIPOOL_ALWAYS_INLINE T fold(Vector<T, kCount> lanes, const Choose& choose) {
  if constexpr (kCount == 2) {
    return choose(lanes[0], lanes[1]);
  } else {
    Vector<T, kCount / 2> halves[2];
    __builtin_memcpy(halves, &lanes, sizeof halves);
    return fold<T, kCount / 2>(choose(halves[0], halves[1]), choose);
  }
}

// Pools the bins of one region from one plane. Keys number the cells of a bin in row-major order.
template <typename LaneType, bool kArgmax>
class CellPool {
  using lane_t = typename LaneType::lane_t;
  using offset_t = typename LaneType::offset_t;
  static constexpr int64_t kCount = kLanes<lane_t>;
  using V = Vector<lane_t, kCount>;
  using O = Vector<offset_t, kCount>;

 public:
  ROIPOOL_ALWAYS_INLINE CellPool(const lane_t* plane, int64_t width) : plane_(plane), width_(width) {
    for (int64_t i = 0; i < kCount; ++i) {
      lane_numbers_[i] = static_cast<offset_t>(i);
    }
  }

  // Pools a bin that is not empty.
  ROIPOOL_ALWAYS_INLINE void pool_bin(CellRange rows, CellRange columns) {
    const lane_t* first = plane_ + rows.lo * width_ + columns.lo;
    const int64_t num_columns = columns.hi - columns.lo;
    V best = look_at(first);
    O best_key = lane_numbers_;
    const auto visit = [&](int64_t y, int64_t x) __attribute__((always_inline)) {
      const V value = look_at(first + y * width_ + x);
      const auto better = replaces<LaneType, true>(value, best);
      best = better ? value : best;
      if constexpr (kArgmax) {
        best_key = better ? lane_numbers_ + static_cast<offset_t>(y * num_columns + x) : best_key;
      }
    };
    if (num_columns <= kCount) {
      for (int64_t y = 1; y < rows.hi - rows.lo; ++y) {
        visit(y, 0);
      }
    } else {
      for (int64_t y = 0; y < rows.hi - rows.lo; ++y) {
        for (int64_t x = 0; x < num_columns; x += kCount) {
          visit(y, min(x, num_columns - kCount));  // the last vector of a row overlaps the one before it
        }
      }
    }
    if (num_columns < kCount) {  // lanes beyond the last column repeat the first one
      const auto beyond = lane_numbers_ >= static_cast<offset_t>(num_columns);
      best = beyond ? V{} + best[0] : best;
      best_key = beyond ? O{} + best_key[0] : best_key;
    }
    best_ = fold<lane_t, kCount>(best, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
    if constexpr (kArgmax) {
      const O key = best == V{} + best_ ? best_key : O{} + kMaxKey;
      const int64_t cell =
          fold<offset_t, kCount>(key, [](auto a, auto b) __attribute__((always_inline)) { return a < b ? a : b; });
      best_cell_ = (rows.lo + cell / num_columns) * width_ + columns.lo + cell % num_columns;
    }
  }

  // Return the maximum of the last bin, and its cell in the plane.
  ROIPOOL_ALWAYS_INLINE lane_t value() const { return swap_order<LaneType>(best_); }
  ROIPOOL_ALWAYS_INLINE int64_t cell() const { return best_cell_; }

  // Returns whether special values were met, in the bins or close to them: the results are of no use then.
  ROIPOOL_ALWAYS_INLINE bool has_met_special_values() const { return special_values_.found().any(); }

 private:
  // Is not below any key. It is found where the maximum is a NaN, and then but computed with.
  static constexpr auto kMaxKey = static_cast<offset_t>(sizeof(offset_t) == 2 ? UINT16_MAX : INT32_MAX);

  ROIPOOL_ALWAYS_INLINE V look_at(const lane_t* from) {
    const V lanes = swap_order<LaneType>(load<V>(from));
    special_values_.look_at(lanes);
    return lanes;
  }

  const lane_t* const plane_;
  const int64_t width_;
  O lane_numbers_;
  SpecialValueFinder<LaneType> special_values_;
  lane_t best_ = 0;
  int64_t best_cell_ = 0;
};

template <typename LaneType, bool kArgmax>
bool pool_bins_of_plane(const typename LaneType::lane_t* plane, int64_t width, const BinGrid& grid,
                        typename LaneType::lane_t* values, int32_t* argmax) {
  CellPool<LaneType, kArgmax> pool(plane, width);
  for (int64_t p = 0; p < grid.num_rows; ++p) {
    for (int64_t q = 0; q < grid.num_columns; ++q) {
      const bool empty = grid.rows[p].empty() || grid.columns[q].empty();
      if (!empty) {
        pool.pool_bin(grid.rows[p], grid.columns[q]);
      }
      *values++ = empty ? 0 : pool.value();
      if constexpr (kArgmax) {
        *argmax++ = empty ? -1 : static_cast<int32_t>(pool.cell());
      }
    }
  }
  return !pool.has_met_special_values();
}

template <typename LaneType>
bool pool_bins_by_cells(const typename LaneType::lane_t* plane, int64_t width, const BinGrid& grid,
                        typename LaneType::lane_t* values, int32_t* argmax) {
  return argmax == nullptr ? pool_bins_of_plane<LaneType, false>(plane, width, grid, values, nullptr)
                           : pool_bins_of_plane<LaneType, true>(plane, width, grid, values, argmax);
}

}  // namespace
}  // namespace roipool::cpu::simd
