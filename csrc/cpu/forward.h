// Chooses the way of a forward: pure functions of sizes and counts. Each way is priced by forward_costs.h, and the
// cheapest is taken.
//
//   packed maps   (forward_packed_maps.h)   whole maps are packed, group by group, and all regions pooled from them
//   packed parts  (forward_region_parts.h)  each region packs the part of the map that it lies in, for itself alone
//   in place      (forward_region_parts.h)  channels_last maps are pooled from as they lie
//   rows          (forward_rows.h)          the cells of a row are pooled side by side, channel by channel
//   cells         (forward_cells.h)         cell by cell, channel by channel
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "arithmetic.h"
#include "cpu/forward_costs.h"
#include "cpu/simd/loops.h"

namespace roipool::cpu {

enum class ForwardWay { kPackedMaps, kPackedParts, kInPlace, kRows, kCells };

struct NamedForwardWay {
  const char* name;
  ForwardWay way;
};

constexpr NamedForwardWay kForwardWays[] = {{"packed_maps", ForwardWay::kPackedMaps},
                                            {"packed_parts", ForwardWay::kPackedParts},
                                            {"in_place", ForwardWay::kInPlace},
                                            {"rows", ForwardWay::kRows},
                                            {"cells", ForwardWay::kCells}};

// Counts the columns that a map must have to be pooled by rows: the lanes of the widest register, which loads so many.
constexpr int64_t kMinRowWidth = 16;

// Returns whether a way can pool such maps at all.
inline bool can_pool(ForwardWay way, const ForwardWork& work) {
  switch (way) {
    case ForwardWay::kInPlace:
      return work.channels_last;
    case ForwardWay::kRows:
      return work.map_width >= kMinRowWidth;
    case ForwardWay::kPackedMaps:
    case ForwardWay::kPackedParts:
    case ForwardWay::kCells:
      break;
  }
  return true;
}

// Predicts how long a way takes on one thread, in nanoseconds.
inline double predict(ForwardWay way, const ForwardWork& work) {
  switch (way) {
    case ForwardWay::kPackedMaps:
      return cost_of_packing_maps(work) + cost_of_pooling_packed_maps(work);
    case ForwardWay::kPackedParts:
      return cost_of_packing_parts(work) + cost_of_pooling_packed_parts(work);
    case ForwardWay::kInPlace:
      return cost_of_pooling_in_place(work);
    case ForwardWay::kRows:
      return cost_of_pooling_rows(work);
    case ForwardWay::kCells:
      break;
  }
  return cost_of_pooling_cells(work);
}

// Returns the cheapest way, or the one that is asked for by its name, unless that is null or cannot pool such maps.
// Where the maps have no cell, every bin is empty.
inline ForwardWay choose_way(const ForwardWork& work, const char* asked) {
  ForwardWay cheapest = ForwardWay::kCells;
  if (work.num_cells == 0) {
    return cheapest;
  }
  for (const auto [name, way] : kForwardWays) {
    if (!can_pool(way, work)) {
      continue;
    }
    if (asked != nullptr && std::strcmp(asked, name) == 0) {
      return way;
    }
    if (predict(way, work) < predict(cheapest, work)) {
      cheapest = way;
    }
  }
  return cheapest;
}

// Returns whether a result is so large that it is written past the caches.
inline bool streams_past_caches(int64_t result_bytes) { return result_bytes >= 4 << 20; }

// ---- Packed maps: how many channels are packed at a time, and how threads share them out.

// Returns the bytes of a cell of a packed map: four registers, which keep its channels while a bin is pooled, or fewer,
// so that the map fits into the cache of a core.
inline int64_t packed_map_cell_bytes(int64_t num_cells) {
  constexpr int64_t kCacheBytes = 3 << 19;
  int64_t cell_bytes = simd::kGroupBytes;
  while (cell_bytes > simd::kMaxVectorBytes && num_cells * cell_bytes > kCacheBytes) {
    cell_bytes /= 2;
  }
  return cell_bytes;
}

// Returns in how many shares the regions of an image are pooled, each from a packed map of its own. Threads have
// nothing to do where there are fewer channel groups of images than threads; more shares than that would pack more, to
// no avail.
inline int64_t num_shares_of_image(int64_t num_packed_maps, int64_t num_threads, double packing_cost,
                                   double pooling_cost) {
  constexpr int64_t kMaxShares = 16;
  const auto time_of = [&](int64_t num_shares) {
    const auto rounds = static_cast<double>(divide_up(num_packed_maps * num_shares, num_threads));
    return rounds * (packing_cost + pooling_cost / static_cast<double>(num_shares));
  };
  int64_t best = 1;
  for (int64_t num_shares = 2; num_shares <= kMaxShares; ++num_shares) {
    // A share must save much of the time, as it costs other processes the time of its packing.
    constexpr double kWorthwhile = 0.8;
    if (time_of(num_shares) < kWorthwhile * time_of(best)) {
      best = num_shares;
    }
  }
  return best;
}

// ---- Packed maps: how many of their rows are merged to one.

constexpr int64_t kMaxMergedRows = 16;

// Returns the most rows, a power of two, that bins of at least so many rows should be pooled from. With argmax, a visit
// of merged rows takes as long as two or three others, so that merging two is of no use.
inline int64_t merged_rows_of_region(int64_t min_bin_rows, bool with_argmax) {
  int64_t merged_rows = 1;
  while (merged_rows < kMaxMergedRows && 2 * merged_rows <= min_bin_rows) {
    merged_rows *= 2;
  }
  return with_argmax && merged_rows == 2 ? 1 : merged_rows;
}

// Counts the visits of cells by regions of an image that can be pooled from at least [i] merged rows, i a power of two.
using VisitsByMergedRows = std::array<int64_t, kMaxMergedRows + 1>;

// Returns the rows up to which it pays to merge those of an image. Merging m/2 rows to m takes as long as visiting each
// cell of a map a few times, and saves 1/m of the visits.
inline int64_t max_merged_rows_of_image(const VisitsByMergedRows& visits, int64_t num_cells, bool with_argmax) {
  const int64_t visits_worth_merging = with_argmax ? 8 : 4;
  int64_t merged_rows = 1;
  while (merged_rows < kMaxMergedRows &&
         visits[2 * merged_rows] / (2 * merged_rows) >= visits_worth_merging * num_cells) {
    merged_rows *= 2;
  }
  return with_argmax && merged_rows == 2 ? 1 : merged_rows;
}

}  // namespace roipool::cpu
