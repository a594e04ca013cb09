// Finds the bins that meet a tile of cells.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/backward.h"
#include "cuda/launch.cuh"
#include "cuda/regions.h"
#include "cuda/warp.cuh"
#include "problem.h"

namespace roipool::cuda {

// Names the cells of a map that a warp sums.
struct MapTile {
  int64_t image;
  int64_t level;
  CellRectangle cells;
  int32_t map_width;
  RowFinder row_finder;

  __device__ MapTile(const RoIPoolProblem& problem, const BackwardPlan& plan, int64_t image, int64_t index)
      : image(image), level(problem.num_levels - 1) {
    while (index >= plan.levels[level].end) {
      --level;
    }
    const FeatureMaps& maps = problem.levels[level];
    const LevelTiles& tiles = plan.levels[level];
    const auto in_level = static_cast<int32_t>(index - tiles.begin);
    const int32_t down = in_level / tiles.num_across;
    map_width = static_cast<int32_t>(maps.width);
    cells.rows = range_of(down, tiles.height, static_cast<int32_t>(maps.height));
    cells.columns = range_of(in_level - down * tiles.num_across, tiles.width, map_width);
    row_finder = tiles.row_finder;
  }

  __device__ int32_t num_cells() const {
    return (cells.rows.hi - cells.rows.lo) * (cells.columns.hi - cells.columns.lo);
  }

  // Points to the first cell of the tile, in the first channel of its image.
  template <typename scalar_t>
  __device__ scalar_t* first_of(const FeatureMaps& maps) const {
    const int64_t first = cells.rows.lo * maps.width + cells.columns.lo;
    return static_cast<scalar_t*>(maps.grad_input) + image * maps.image_stride + first * maps.cell_stride;
  }

  // Returns the number of a cell of the map among those of the tile, row by row, or -1. A negative number is no cell.
  __device__ int32_t find(int32_t cell) const {
    const uint32_t y = row_finder.row_of(static_cast<uint32_t>(cell));
    const uint32_t row = y - cells.rows.lo;
    const uint32_t column = static_cast<uint32_t>(cell) - y * map_width - cells.columns.lo;
    const uint32_t width = cells.columns.hi - cells.columns.lo;
    const bool is_here = row < static_cast<uint32_t>(cells.rows.hi - cells.rows.lo) && column < width;
    return is_here ? static_cast<int32_t>(row * width + column) : -1;
  }

 private:
  __device__ static CellRange range_of(int32_t index, int32_t size, int32_t end) {
    const int32_t lo = index * size;
    return {lo, end - lo < size ? end : lo + size};
  }
};

// Returns the first number below `end` for which a condition holds, or `end`. The condition must hold for all numbers
// after that one.
template <typename Condition>
__device__ int64_t find_first(int64_t end, const Condition& holds) {
  int64_t begin = 0;
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (holds(middle)) {
      end = middle;
    } else {
      begin = middle + 1;
    }
  }
  return begin;
}

// Lists the bins that meet a tile, in order. For a whole warp.
class BinLister {
 public:
  // runs  [kMaxRuns], shared
  __device__ BinLister(const RoIPoolProblem& problem, const PlacedRegions& placed, const MapTile& tile, BinRun* runs)
      : problem_(problem), placed_(placed), tile_(tile), runs_(runs) {}

  // Goes on to the next segment that has regions of the tile's image and level, where none is left of the last one.
  // Returns whether there is one. Within a segment they lie side by side.
  __device__ bool find_next() {
    for (; next_ >= end_ && segment_ < problem_.num_rois; segment_ += kSegmentRegions) {
      const int64_t left = problem_.num_rois - segment_;
      const int64_t size = left < kSegmentRegions ? left : kSegmentRegions;
      const auto first_from = [&](int64_t image) {
        return segment_ + find_first(size, [&](int64_t i) {
                 const PlacedRegion& region = placed_[segment_ + i];
                 return region.level > tile_.level || (region.level == tile_.level && region.image >= image);
               });
      };
      next_ = first_from(tile_.image);
      end_ = first_from(tile_.image + 1);
    }
    return next_ < end_;
  }

  // Writes runs of bins of the next regions; returns how many bins they have.
  __device__ uint32_t list() {
    const uint32_t num_bins = problem_.num_bins() <= kMaxRunBins ? list_regions() : list_rows();
    __syncwarp();
    return num_bins;
  }

 private:
  // Names some bins of a region.
  struct BinRectangle {
    int64_t first_row;
    int64_t end_row;
    int64_t first_column;
    int64_t num_columns;
  };

  // Writes a run for each region, as long as there is room. A lane looks at a region.
  __device__ uint32_t list_regions() {
    int num_runs = 0;
    uint32_t num_bins = 0;
    for (; num_runs + kWarp <= kMaxRuns && find_next(); next_ += kWarp) {
      const int64_t i = next_ + lane();
      const BinRectangle bins = i < end_ ? find_bins(i) : BinRectangle{};
      const auto own_bins = static_cast<uint32_t>((bins.end_row - bins.first_row) * bins.num_columns);
      uint32_t end = own_bins;  // after those of the lanes below
      for (int distance = 1; distance < kWarp; distance *= 2) {
        const uint32_t below = __shfl_up_sync(kAllLanes, end, distance);
        end += lane() >= distance ? below : 0;
      }
      end += num_bins;
      num_bins = __shfl_sync(kAllLanes, end, kWarp - 1);
      const unsigned listed = __ballot_sync(kAllLanes, own_bins > 0);
      if (own_bins > 0) {
        write_run(num_runs + __popc(listed & lanes_below()), i, bins, end - own_bins, end);
      }
      num_runs += __popc(listed);
    }
    return num_bins;
  }

  // Writes one run of one region: for regions of very many bins.
  __device__ uint32_t list_rows() {
    BinRectangle bins = find_bins(next_);
    bins.first_row = row_ > bins.first_row ? row_ : bins.first_row;
    const bool is_one_row = bins.num_columns == 0 || bins.num_columns > kMaxRunBins;
    const int64_t max_rows = is_one_row ? 1 : kMaxRunBins / bins.num_columns;
    const bool is_last = bins.end_row - bins.first_row <= max_rows;
    bins.end_row = is_last ? bins.end_row : bins.first_row + max_rows;
    const auto num_bins = static_cast<uint32_t>((bins.end_row - bins.first_row) * bins.num_columns);
    if (lane() == 0) {
      write_run(0, next_, bins, 0, num_bins);
    }
    row_ = is_last ? 0 : bins.end_row;
    next_ += is_last ? 1 : 0;
    return num_bins;
  }

  // Finds the bins of region i that meet the tile.
  __device__ BinRectangle find_bins(int64_t i) const {
    const CellRange* const rows = placed_.rows(i);
    const CellRange* const columns = placed_.columns(i);
    const CellRange p = meeting(rows, problem_.pooled_height, tile_.cells.rows);
    const CellRange q = meeting(columns, problem_.pooled_width, tile_.cells.columns);
    return p.empty() || q.empty() ? BinRectangle{} : BinRectangle{p.lo, p.hi, q.lo, q.hi - q.lo};
  }

  // Returns which of some ranges, which ascend, meet another one.
  __device__ static CellRange meeting(const CellRange* ranges, int64_t num_ranges, const CellRange& cells) {
    return {static_cast<int32_t>(find_first(num_ranges, [&](int64_t i) { return ranges[i].hi > cells.lo; })),
            static_cast<int32_t>(find_first(num_ranges, [&](int64_t i) { return ranges[i].lo >= cells.hi; }))};
  }

  __device__ void write_run(int run, int64_t i, const BinRectangle& bins, uint32_t begin, uint32_t end) {
    const bool is_row = bins.end_row - bins.first_row == 1;
    const int64_t first_bin = bins.first_row * problem_.pooled_width + bins.first_column;
    runs_[run] = {begin, end, is_row ? 0.0f : 1.0f / static_cast<float>(bins.num_columns),
                  static_cast<uint32_t>(problem_.pooled_width - bins.num_columns),
                  placed_[i].k * problem_.output_region_stride + first_bin * problem_.output_bin_stride};
  }

  const RoIPoolProblem& problem_;
  const PlacedRegions& placed_;
  const MapTile& tile_;
  BinRun* const runs_;
  int64_t segment_ = 0;  // the next one
  int64_t next_ = 0;     // region
  int64_t end_ = 0;      // of the plane's regions in the segment before
  int64_t row_ = 0;      // of bins of the next region, where it has very many
};

}  // namespace roipool::cuda
