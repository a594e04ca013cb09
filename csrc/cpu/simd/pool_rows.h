// Pools bins from planes, by rows.
#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"

namespace roipool::cpu::simd {
namespace {

template <typename LaneType>
bool has_special_values(const typename LaneType::lane_t* values, int64_t num_values) {
  constexpr int64_t kCount = kLanes<typename LaneType::lane_t>;
  using V = Vector<typename LaneType::lane_t, kCount>;
  SpecialValueFinder<LaneType> special_values;
  for (int64_t i = 0; i < num_values; i += kCount) {
    special_values.look_at(load_some<V>(values + i, num_values - i));
  }
  return special_values.found().any();
}

// Pools the bins of one region. As many rows of bins as a register has lanes are reduced side by side:
//
//   reduced    [kCount rows of bins][columns]          the cells of each row of bins, reduced to one row
//   transposed [columns][kCount rows of bins]          what is reduced, transposed
//   bins       [columns of bins][kCount rows of bins]  the columns of each bin, reduced to one
//
// Each has a twin for argmax where that is asked for.
template <typename LaneType, bool kArgmax>
class RowPool {
  using lane_t = typename LaneType::lane_t;
  using offset_t = typename LaneType::offset_t;
  static constexpr int64_t kCount = kLanes<lane_t>;
  using V = Vector<lane_t, kCount>;
  using O = Vector<offset_t, kCount>;

 public:
  ROIPOOL_ALWAYS_INLINE RowPool(const lane_t* plane, int64_t width, int64_t map_width, const BinGrid& grid,
                                lane_t* scratch, offset_t* offset_scratch)
      : plane_(plane), width_(width), map_width_(map_width), grid_(grid), left_(width - kCount) {
    for (int64_t q = 0; q < grid.num_columns; ++q) {
      if (!grid.columns[q].empty()) {
        left_ = min(left_, grid.columns[q].lo);
        right_ = max(right_, grid.columns[q].hi);
      }
    }
    // Begins at a line of cache, where there is one in the first row, so that no load of a vector spans two.
    left_ -= min(left_, static_cast<int64_t>(reinterpret_cast<uintptr_t>(plane + left_) / sizeof(lane_t) % kCount));
    row_lanes_ = max(right_ - left_, 0) + kCount;
    reduced_ = scratch;
    transposed_ = reduced_ + kCount * row_lanes_;
    bins_ = transposed_ + kCount * row_lanes_;
    reduced_offsets_ = offset_scratch;
    transposed_offsets_ = kArgmax ? reduced_offsets_ + kCount * row_lanes_ : nullptr;
    bin_offsets_ = kArgmax ? transposed_offsets_ + kCount * row_lanes_ : nullptr;
    for (int64_t i = 0; i < kCount; ++i) {
      lane_numbers_[i] = i;
    }
  }

  ROIPOOL_ALWAYS_INLINE void pool(lane_t* values, int32_t* argmax) {
    for (int64_t p = 0; p < grid_.num_rows; p += kCount) {
      const int64_t num_rows = min(kCount, grid_.num_rows - p);
      for (int64_t i = 0; i < num_rows; ++i) {
        reduce_rows(grid_.rows[p + i], i);
      }
      transpose_rows(num_rows);
      for (int64_t q = 0; q < grid_.num_columns; ++q) {
        reduce_columns(grid_.columns[q], q);
      }
      for (int64_t i = 0; i < num_rows; ++i) {
        write(p + i, i, values, argmax);
      }
    }
  }

 private:
  // Reduces the cells of row number i of the bins to one row, in vectors that lie within the plane: the last one
  // overlaps the one before it.
  ROIPOOL_ALWAYS_INLINE void reduce_rows(CellRange rows, int64_t i) {
    for (int64_t x = left_; x < right_ && !rows.empty(); x += kCount) {
      const int64_t first = min(x, width_ - kCount);
      V best = load<V>(plane_ + rows.lo * width_ + first);
      O best_offset = lane_numbers_ + static_cast<offset_t>(rows.lo * map_width_ + first);
      for (int64_t y = rows.lo + 1; y < rows.hi; ++y) {
        const V value = load<V>(plane_ + y * width_ + first);
        const auto better = replaces<LaneType, true>(value, best);
        best = better ? value : best;
        if constexpr (kArgmax) {
          best_offset = better ? lane_numbers_ + static_cast<offset_t>(y * map_width_ + first) : best_offset;
        }
      }
      store(best, reduced_ + i * row_lanes_ + first - left_);
      if constexpr (kArgmax) {
        store(best_offset, reduced_offsets_ + i * row_lanes_ + first - left_);
      }
    }
  }

  ROIPOOL_ALWAYS_INLINE void transpose_rows(int64_t num_rows) {
    for (int64_t x = left_; x < right_; x += kCount) {
      const int64_t first = min(x, width_ - kCount) - left_;
      transpose_square(reduced_ + first, row_lanes_, transposed_ + first * kCount, kCount, num_rows);
      if constexpr (kArgmax) {
        transpose_square(reduced_offsets_ + first, row_lanes_, transposed_offsets_ + first * kCount, kCount, num_rows);
      }
    }
  }

  // Reduces the columns of column number q of the bins to one. Columns are not visited in row-major order, so that of
  // equal values the one with the lower offset is the first.
  ROIPOOL_ALWAYS_INLINE void reduce_columns(CellRange columns, int64_t q) {
    V best{};
    O best_offset = O{} - 1;
    if (!columns.empty()) {
      int64_t x = columns.lo - left_;
      best = load<V>(transposed_ + x * kCount);
      best_offset = kArgmax ? load<O>(transposed_offsets_ + x * kCount) : O{};
      for (++x; x < columns.hi - left_; ++x) {
        const V value = load<V>(transposed_ + x * kCount);
        if constexpr (kArgmax) {
          const O offset = load<O>(transposed_offsets_ + x * kCount);
          const auto better = replaces<LaneType, true>(value, best) | ((value == best) & (offset < best_offset));
          best = better ? value : best;
          best_offset = better ? offset : best_offset;
        } else {
          best = replaces<LaneType, true>(value, best) ? value : best;
        }
      }
    }
    store(best, bins_ + q * kCount);
    if constexpr (kArgmax) {
      store(best_offset, bin_offsets_ + q * kCount);
    }
  }

  // Writes row number p of the bins from lane i.
  ROIPOOL_ALWAYS_INLINE void write(int64_t p, int64_t i, lane_t* values, int32_t* argmax) const {
    const bool empty = grid_.rows[p].empty();
    for (int64_t q = 0; q < grid_.num_columns; ++q) {
      values[p * grid_.num_columns + q] = empty ? 0 : bins_[q * kCount + i];
      if constexpr (kArgmax) {
        argmax[p * grid_.num_columns + q] = empty ? -1 : static_cast<int32_t>(bin_offsets_[q * kCount + i]);
      }
    }
  }

  const lane_t* const plane_;
  const int64_t width_;
  const int64_t map_width_;
  const BinGrid grid_;
  int64_t left_;  // of the columns that the region covers
  int64_t right_ = 0;
  int64_t row_lanes_;
  lane_t* reduced_;
  lane_t* transposed_;
  lane_t* bins_;
  offset_t* reduced_offsets_;
  offset_t* transposed_offsets_;
  offset_t* bin_offsets_;
  O lane_numbers_;
};

template <typename LaneType>
void pool_bins_by_rows(const typename LaneType::lane_t* plane, int64_t width, int64_t map_width, const BinGrid& grid,
                       typename LaneType::lane_t* scratch, typename LaneType::offset_t* offset_scratch,
                       typename LaneType::lane_t* values, int32_t* argmax) {
  if (argmax == nullptr) {
    RowPool<LaneType, false>(plane, width, map_width, grid, scratch, nullptr).pool(values, nullptr);
  } else {
    RowPool<LaneType, true>(plane, width, map_width, grid, scratch, offset_scratch).pool(values, argmax);
  }
}

}  // namespace
}  // namespace roipool::cpu::simd
