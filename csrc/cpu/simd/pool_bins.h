// Pools bins from packed channel groups.
#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"

namespace roipool::cpu::simd {
namespace {

// Pools kVectors adjacent vectors of the channels of a packed map. The best values and their offsets stay in registers
// over a whole bin.
template <typename LaneType, bool kGreaterDecides, bool kOffsets, int64_t kVectors>
class VectorPool {
  using lane_t = typename LaneType::lane_t;
  using offset_t = typename LaneType::offset_t;
  static constexpr int64_t kCount = kLanes<lane_t>;
  using V = Vector<lane_t, kCount>;
  using O = Vector<offset_t, kCount>;

 public:
  // Pools one bin that is not empty, from its first cell on.
  ROIPOOL_ALWAYS_INLINE void pool_bin(const PackedMap<LaneType>& map, int64_t cell_lanes, const lane_t* first,
                                      int64_t num_rows, int64_t num_columns) {
    ROIPOOL_UNROLL
    for (int64_t v = 0; v < kVectors; ++v) {
      best_[v] = load<V>(first + v * kCount);
    }
    // Goes down in steps of merged_rows. The last step is shorter, so that it ends where the bin does.
    for (int64_t step = 0; step < num_rows; step += map.merged_rows) {
      const int64_t y = min(step, num_rows - map.merged_rows);
      for (int64_t x = 0; x < num_columns; ++x) {
        visit(first + (y * map.width + x) * cell_lanes, y * map.map_width + x);
      }
    }
  }

  ROIPOOL_ALWAYS_INLINE void store_bin(lane_t* values, offset_t* offsets) const {
    ROIPOOL_UNROLL
    for (int64_t v = 0; v < kVectors; ++v) {
      store(best_[v], values + v * kCount);
      if constexpr (kOffsets) {
        store(best_offset_[v], offsets + v * kCount);
      }
    }
  }

 private:
  ROIPOOL_ALWAYS_INLINE void visit(const lane_t* cell, int64_t offset) {
    ROIPOOL_UNROLL
    for (int64_t v = 0; v < kVectors; ++v) {
      const V value = load<V>(cell + v * kCount);
      const auto better = replaces<LaneType, kGreaterDecides>(value, best_[v]);
      best_[v] = better ? value : best_[v];
      if constexpr (kOffsets) {
        best_offset_[v] = better ? O{} + static_cast<offset_t>(offset) : best_offset_[v];
      }
    }
  }

  V best_[kVectors] = {};
  O best_offset_[kVectors] = {};
};

// Pools kVectors vectors of channels, from `lanes` on, for all bins of a region.
template <typename LaneType, bool kGreaterDecides, bool kOffsets, int64_t kVectors>
void pool_vectors(const PackedMap<LaneType>& map, const typename LaneType::lane_t* lanes, const BinGrid& grid,
                  typename LaneType::lane_t* values, typename LaneType::offset_t* offsets) {
  constexpr int64_t kGroupChannels = GroupLoops<LaneType>::kGroupChannels;
  const int64_t cell_lanes = GroupLoops<LaneType>::padded_channels(map.num_channels);
  for (int64_t p = 0; p < grid.num_rows; ++p) {
    const CellRange rows = grid.rows[p];
    for (int64_t q = 0; q < grid.num_columns; ++q) {
      const CellRange columns = grid.columns[q];
      VectorPool<LaneType, kGreaterDecides, kOffsets, kVectors> pool;
      if (!rows.empty() && !columns.empty()) {
        const auto* first = lanes + ((rows.lo - map.top) * map.width + columns.lo - map.left) * cell_lanes;
        pool.pool_bin(map, cell_lanes, first, rows.hi - rows.lo, columns.hi - columns.lo);
      }
      const int64_t to = (p * grid.num_columns + q) * kGroupChannels;
      pool.store_bin(values + to, kOffsets ? offsets + to : nullptr);
    }
  }
}

// Pools all channels, as many vectors at a time as registers hold well.
template <typename LaneType, bool kGreaterDecides, bool kOffsets>
void pool_channels(const PackedMap<LaneType>& map, const BinGrid& grid, typename LaneType::lane_t* values,
                   typename LaneType::offset_t* offsets) {
  constexpr int64_t kCount = kLanes<typename LaneType::lane_t>;
  for (int64_t c = 0; c < map.num_channels;) {
    const int64_t num_vectors = (map.num_channels - c + kCount - 1) / kCount;
    const auto pool = num_vectors >= 4   ? pool_vectors<LaneType, kGreaterDecides, kOffsets, 4>
                      : num_vectors >= 2 ? pool_vectors<LaneType, kGreaterDecides, kOffsets, 2>
                                         : pool_vectors<LaneType, kGreaterDecides, kOffsets, 1>;
    pool(map, map.lanes + c, grid, values + c, kOffsets ? offsets + c : nullptr);
    c += kCount * (num_vectors >= 4 ? 4 : num_vectors >= 2 ? 2 : 1);
  }
}

template <typename LaneType>
void pool_bins(const PackedMap<LaneType>& map, const BinGrid& grid, typename LaneType::lane_t* values,
               typename LaneType::offset_t* offsets) {
  const bool with_offsets = offsets != nullptr;
  const auto pool = greater_decides<LaneType>(map.special_values)
                        ? (with_offsets ? pool_channels<LaneType, true, true> : pool_channels<LaneType, true, false>)
                        : (with_offsets ? pool_channels<LaneType, false, true> : pool_channels<LaneType, false, false>);
  pool(map, grid, values, offsets);
}

}  // namespace
}  // namespace roipool::cpu::simd
