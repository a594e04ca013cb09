// Packs channel groups, and merges their rows.
#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"

namespace roipool::cpu::simd {
namespace {

// Packs a map whose channels lie side by side. Lanes beyond the last channel hold those of other cells, or 0.
template <typename LaneType>
SpecialValues pack_channels_last(const typename LaneType::lane_t* map, const StridedMatrix& matrix,
                                 typename LaneType::lane_t* packed) {
  using lane_t = typename LaneType::lane_t;
  constexpr int64_t kCount = kLanes<lane_t>;
  using V = Vector<lane_t, kCount>;
  const int64_t cell_lanes = GroupLoops<LaneType>::padded_channels(matrix.num_channels);
  const lane_t* end = map + (matrix.num_positions - 1) * matrix.position_stride + matrix.num_channels;
  SpecialValueFinder<LaneType> special_values;
  for (int64_t cell = 0; cell < matrix.num_positions; ++cell) {
    const lane_t* from = map + cell * matrix.position_stride;
    for (int64_t c = 0; c < cell_lanes; c += kCount) {
      const V lanes = swap_order<LaneType>(load_some<V>(from + c, end - from - c));
      special_values.look_at(lanes);
      store(lanes, packed + cell * cell_lanes + c);
    }
  }
  return special_values.found();
}

// Packs a map whose cells lie side by side, by transposing squares of it. Lanes beyond the last channel repeat it.
template <typename LaneType>
SpecialValues pack_contiguous(const typename LaneType::lane_t* map, const StridedMatrix& matrix,
                              typename LaneType::lane_t* packed) {
  using lane_t = typename LaneType::lane_t;
  constexpr int64_t kCount = kLanes<lane_t>;
  using V = Vector<lane_t, kCount>;
  const int64_t cell_lanes = GroupLoops<LaneType>::padded_channels(matrix.num_channels);
  SpecialValueFinder<LaneType> special_values;
  for (int64_t c = 0; c < cell_lanes; c += kCount) {
    for (int64_t cell = 0; cell < matrix.num_positions; cell += kCount) {
      // The last square overlaps the one before it; a map of fewer cells than lanes is loaded cell by cell.
      const int64_t first = max(0, min(cell, matrix.num_positions - kCount));
      V rows[kCount];
      ROIPOOL_UNROLL
      for (int64_t i = 0; i < kCount; ++i) {
        const int64_t channel = min(c + i, matrix.num_channels - 1);
        const lane_t* from = map + channel * matrix.channel_stride + first;
        rows[i] = swap_order<LaneType>(load_some<V>(from, matrix.num_positions));
        special_values.look_at(rows[i]);
      }
      transpose(rows);
      ROIPOOL_UNROLL
      for (int64_t i = 0; i < kCount; ++i) {
        if (i < matrix.num_positions) {
          store(rows[i], packed + (first + i) * cell_lanes + c);
        }
      }
    }
  }
  return special_values.found();
}

template <typename LaneType>
SpecialValues pack(const typename LaneType::lane_t* map, const StridedMatrix& matrix,
                   typename LaneType::lane_t* packed) {
  return matrix.channel_stride == 1 ? pack_channels_last<LaneType>(map, matrix, packed)
                                    : pack_contiguous<LaneType>(map, matrix, packed);
}

template <typename LaneType, bool kOffsets>
void merge_lanes(typename LaneType::lane_t* packed, typename LaneType::offset_t* row_offsets, int64_t num_channels,
                 int64_t height, int64_t width, int64_t merged_rows) {
  constexpr int64_t kCount = kLanes<typename LaneType::lane_t>;
  using V = Vector<typename LaneType::lane_t, kCount>;
  using O = Vector<typename LaneType::offset_t, kCount>;
  const int64_t row_lanes = width * GroupLoops<LaneType>::padded_channels(num_channels);
  const int64_t below = merged_rows / 2 * row_lanes;
  const auto cells_below = static_cast<typename LaneType::offset_t>(merged_rows / 2 * width);
  const bool is_first = merged_rows == 2;
  // Goes downwards, so that what is read below has not been merged yet.
  for (int64_t i = 0; i < (height - merged_rows + 1) * row_lanes; i += kCount) {
    const V upper = load<V>(packed + i);
    const V lower = load<V>(packed + below + i);
    const auto better = lower > upper;
    store(better ? lower : upper, packed + i);
    if constexpr (kOffsets) {
      const O upper_offset = is_first ? O{} : load<O>(row_offsets + i);
      const O lower_offset = is_first ? O{} : load<O>(row_offsets + below + i);
      store(better ? lower_offset + cells_below : upper_offset, row_offsets + i);
    }
  }
}

template <typename LaneType>
void merge_rows(typename LaneType::lane_t* packed, typename LaneType::offset_t* row_offsets, int64_t num_channels,
                int64_t height, int64_t width, int64_t merged_rows) {
  const auto merge = row_offsets == nullptr ? merge_lanes<LaneType, false> : merge_lanes<LaneType, true>;
  merge(packed, row_offsets, num_channels, height, width, merged_rows);
}

}  // namespace
}  // namespace roipool::cpu::simd
