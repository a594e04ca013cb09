// Chooses the way of a forward: pure functions of sizes and counts, with the thresholds that measurements gave.
// Comparing cells costs next to nothing, so that the choice is about memory: what is read again and again should stay
// in a cache, and each element of a result is written once.
//
//   by channel groups  (forward_channel_groups.h)  many channels: they are pooled side by side, from a packed copy
//   by rows            (forward_rows.h)            few channels: the cells of a row are pooled side by side
//
// Either way, what is pooled from is prepared: whole maps once for all regions, or by each region the part that it lies
// in, for itself alone.
#pragma once

#include <array>
#include <cstdint>

namespace roipool::cpu {

struct ForwardSizes {
  int64_t num_images;
  int64_t num_channels;
  int64_t map_height;  // in cells
  int64_t map_width;   // in cells
  int64_t num_regions;
  int64_t num_bins;  // of a region

  // Counts the cells of the maps, in one channel.
  int64_t num_cells() const { return num_images * map_height * map_width; }
};

enum class ForwardWay { kClear, kChannelGroups, kRows };  // kClear: there are no cells to pool

struct ForwardPlan {
  ForwardWay way;
  bool whole_maps;  // else each region prepares its part
};

// Counts the channels from which on groups of them are pooled side by side.
constexpr int64_t kMinGroupChannels = 16;

// Counts the columns that a map must have to be pooled by rows: the lanes of the widest register, which loads so many.
constexpr int64_t kMinRowWidth = 16;

// Counts the bins for each cell of the maps at which regions certainly cover them, so that nobody need look where.
constexpr int64_t kBinsPerCellThatCover = 4;

inline bool surely_cover_maps(const ForwardSizes& sizes) {
  return sizes.num_regions * sizes.num_bins >= kBinsPerCellThatCover * sizes.num_cells();
}

// num_part_cells counts the cells that the regions prepare where each prepares its part: in one channel, at most those
// of the maps.
inline ForwardPlan plan_forward(const ForwardSizes& sizes, int64_t num_part_cells) {
  if (sizes.num_cells() == 0) {
    return {ForwardWay::kClear, true};
  }
  const bool by_groups = sizes.num_channels >= kMinGroupChannels || sizes.map_width < kMinRowWidth;
  return {by_groups ? ForwardWay::kChannelGroups : ForwardWay::kRows, num_part_cells >= sizes.num_cells()};
}

// Returns whether a result is so large that it is written past the caches.
inline bool streams_past_caches(int64_t result_bytes) { return result_bytes >= 4 << 20; }

// ---- By channel groups, of whole maps: how threads share them out.

// Returns whether threads share out channel groups, each of which is packed and pooled from by one thread. Else there
// are too few of them, and they share out regions.
inline bool share_out_groups(int64_t num_images, int64_t num_groups, int64_t num_threads) {
  constexpr int64_t kMinGroupsPerThread = 2;
  return num_images * num_groups >= kMinGroupsPerThread * num_threads;
}

// Returns in how many shares threads that share out regions split the channel groups. Where a thread gets few regions,
// fetching all groups is most of its work.
inline int64_t num_group_splits(int64_t num_regions, int64_t num_groups, int64_t num_threads) {
  constexpr int64_t kMinRegionsPerThread = 64;
  return num_regions >= kMinRegionsPerThread * num_threads ? 1 : num_groups;
}

// ---- By channel groups, of whole maps, without argmax: how many rows of a packed map are merged to one.

constexpr int64_t kMaxMergedRows = 16;

// Returns the most rows, a power of two, that bins of at least so many rows can be pooled from.
inline int64_t merged_rows_of_region(int64_t min_bin_rows) {
  int64_t merged_rows = 1;
  while (merged_rows < kMaxMergedRows && 2 * merged_rows <= min_bin_rows) {
    merged_rows *= 2;
  }
  return merged_rows;
}

// Counts the visits of cells by regions of an image that can be pooled from at least [i] merged rows, i a power of two.
using VisitsByMergedRows = std::array<int64_t, kMaxMergedRows + 1>;

// Returns the rows up to which it pays to merge those of an image. Merging m/2 rows to m takes as long as visiting each
// cell of a map a few times, and saves 1/m of the visits.
inline int64_t max_merged_rows_of_image(const VisitsByMergedRows& visits, int64_t num_cells) {
  constexpr int64_t kVisitsWorthMerging = 4;
  int64_t merged_rows = 1;
  while (merged_rows < kMaxMergedRows &&
         visits[2 * merged_rows] / (2 * merged_rows) >= kVisitsWorthMerging * num_cells) {
    merged_rows *= 2;
  }
  return merged_rows;
}

}  // namespace roipool::cpu
