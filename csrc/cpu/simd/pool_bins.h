// Pools bins from channel groups, packed or as they lie in a channels_last map.
#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"

namespace roipool::cpu::simd {
namespace {

// Says how lanes are read and compared.
enum class Lanes {
  kGreaterDecides,  // packed, and `>` alone says which lane replaces another
  kMerged,          // packed, rows merged with their offsets, and `>` decides
  kPacked,
  kInPlace,  // in the order that memory has, special values among them
};

// Pools kVectors adjacent vectors of the channels of a map. The best values and their offsets stay in registers over a
// whole bin.
template <typename LaneType, Lanes kLanesAre, bool kOffsets, int64_t kVectors>
class VectorPool {
  using lane_t = typename LaneType::lane_t;
  using offset_t = typename LaneType::offset_t;
  static constexpr int64_t kCount = kLanes<lane_t>;
  static constexpr bool kGreaterDecides = kLanesAre == Lanes::kGreaterDecides || kLanesAre == Lanes::kMerged;
  using V = Vector<lane_t, kCount>;
  using O = Vector<offset_t, kCount>;

 public:
  // Pools one bin that is not empty, from its first cell on.
  ROIPOOL_ALWAYS_INLINE void pool_bin(const GroupMap<LaneType>& map, const lane_t* first, int64_t num_rows,
                                      int64_t num_columns) {
    const int64_t cell_lanes = map.cell_lanes;
    const offset_t* row_offsets = kLanesAre == Lanes::kMerged ? map.row_offsets + (first - map.lanes) : nullptr;
    ROIPOOL_UNROLL
    for (int64_t v = 0; v < kVectors; ++v) {
      best_[v] = load_lanes(first + v * kCount);
      if constexpr (kLanesAre == Lanes::kMerged) {
        best_offset_[v] = load<O>(row_offsets + v * kCount);
      }
      rank_[v] = rank_of<LaneType, kGreaterDecides>(best_[v]);
    }
    // Goes down in steps of merged_rows. The last step is shorter, so that it ends where the bin does.
    for (int64_t step = 0; step < num_rows; step += map.merged_rows) {
      const int64_t y = min(step, num_rows - map.merged_rows);
      for (int64_t x = 0; x < num_columns; ++x) {
        const int64_t at = (y * map.width + x) * cell_lanes;
        const int64_t offset = y * map.map_width + x;
        if constexpr (kLanesAre == Lanes::kMerged) {
          visit_merged(first + at, row_offsets + at, offset);
        } else {
          visit(first + at, offset);
        }
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
  static ROIPOOL_ALWAYS_INLINE V load_lanes(const lane_t* from) {
    const V lanes = load<V>(from);
    return kLanesAre == Lanes::kInPlace ? swap_order<LaneType>(lanes) : lanes;
  }

  ROIPOOL_ALWAYS_INLINE void visit(const lane_t* cell, int64_t offset) {
    ROIPOOL_UNROLL
    for (int64_t v = 0; v < kVectors; ++v) {
      const V value = load_lanes(cell + v * kCount);
      const auto better = replaces<LaneType, kGreaterDecides>(value, rank_[v]);
      best_[v] = better ? value : best_[v];
      rank_[v] = better ? rank_of<LaneType, kGreaterDecides>(value) : rank_[v];  // optimised away where it is `value`
      if constexpr (kOffsets) {
        best_offset_[v] = better ? O{} + static_cast<offset_t>(offset) : best_offset_[v];
      }
    }
  }

  // Cells of merged rows are not visited in row-major order, so that of equal values the one with the lower offset is
  // the first.
  ROIPOOL_ALWAYS_INLINE void visit_merged(const lane_t* cell, const offset_t* row_offsets, int64_t offset) {
    ROIPOOL_UNROLL
    for (int64_t v = 0; v < kVectors; ++v) {
      const V value = load<V>(cell + v * kCount);
      const O value_offset = load<O>(row_offsets + v * kCount) + static_cast<offset_t>(offset);
      const auto better = (value > best_[v]) | ((value == best_[v]) & (value_offset < best_offset_[v]));
      best_[v] = better ? value : best_[v];
      best_offset_[v] = better ? value_offset : best_offset_[v];
    }
  }

  V best_[kVectors] = {};
  V rank_[kVectors] = {};  // of the best
  O best_offset_[kVectors] = {};
};

// Pools kVectors vectors of channels, from `lanes` on, for all bins of a region.
template <typename LaneType, Lanes kLanesAre, bool kOffsets, int64_t kVectors>
void pool_vectors(const GroupMap<LaneType>& map, const typename LaneType::lane_t* lanes, const BinGrid& grid,
                  typename LaneType::lane_t* values, typename LaneType::offset_t* offsets) {
  constexpr int64_t kGroupChannels = GroupLoops<LaneType>::kGroupChannels;
  for (int64_t p = 0; p < grid.num_rows; ++p) {
    const CellRange rows = grid.rows[p];
    for (int64_t q = 0; q < grid.num_columns; ++q) {
      const CellRange columns = grid.columns[q];
      VectorPool<LaneType, kLanesAre, kOffsets, kVectors> pool;
      if (!rows.empty() && !columns.empty()) {
        const auto* first = lanes + ((rows.lo - map.top) * map.width + columns.lo - map.left) * map.cell_lanes;
        pool.pool_bin(map, first, rows.hi - rows.lo, columns.hi - columns.lo);
      }
      const int64_t to = (p * grid.num_columns + q) * kGroupChannels;
      pool.store_bin(values + to, kOffsets ? offsets + to : nullptr);
    }
  }
}

// Pools all channels, as many vectors at a time as registers hold well.
template <typename LaneType, Lanes kLanesAre, bool kOffsets>
void pool_channels(const GroupMap<LaneType>& map, const BinGrid& grid, typename LaneType::lane_t* values,
                   typename LaneType::offset_t* offsets) {
  constexpr int64_t kCount = kLanes<typename LaneType::lane_t>;
  for (int64_t c = 0; c < map.num_channels;) {
    const int64_t num_vectors = (map.num_channels - c + kCount - 1) / kCount;
    const auto pool = num_vectors >= 4   ? pool_vectors<LaneType, kLanesAre, kOffsets, 4>
                      : num_vectors >= 2 ? pool_vectors<LaneType, kLanesAre, kOffsets, 2>
                                         : pool_vectors<LaneType, kLanesAre, kOffsets, 1>;
    pool(map, map.lanes + c, grid, values + c, kOffsets ? offsets + c : nullptr);
    c += kCount * (num_vectors >= 4 ? 4 : num_vectors >= 2 ? 2 : 1);
  }
}

template <typename LaneType>
void pool_bins(const GroupMap<LaneType>& map, const BinGrid& grid, typename LaneType::lane_t* values,
               typename LaneType::offset_t* offsets) {
  // Floats are packed as they lie in memory, so that those in place need no loop of their own.
  constexpr Lanes kInPlace = kIsHalfPrecision<LaneType> ? Lanes::kInPlace : Lanes::kPacked;
  using Pool =
      void (*)(const GroupMap<LaneType>&, const BinGrid&, typename LaneType::lane_t*, typename LaneType::offset_t*);
  const auto with_offsets = [&](Pool with, Pool without) { return offsets != nullptr ? with : without; };
  Pool pool;
  if (!map.is_packed) {
    pool = with_offsets(pool_channels<LaneType, kInPlace, true>, pool_channels<LaneType, kInPlace, false>);
  } else if (!greater_decides<LaneType>(map.special_values)) {
    pool = with_offsets(pool_channels<LaneType, Lanes::kPacked, true>, pool_channels<LaneType, Lanes::kPacked, false>);
  } else {
    pool = with_offsets(map.row_offsets != nullptr ? pool_channels<LaneType, Lanes::kMerged, true>
                                                   : pool_channels<LaneType, Lanes::kGreaterDecides, true>,
                        pool_channels<LaneType, Lanes::kGreaterDecides, false>);
  }
  pool(map, grid, values, offsets);
}

}  // namespace
}  // namespace roipool::cpu::simd
