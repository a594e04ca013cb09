// Finds the level, the image and the bins of regions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "arithmetic.h"
#include "cpu/parallel.h"
#include "cpu/simd/loops.h"
#include "problem.h"

namespace roipool::cpu {

// Describes a problem as one level of a pyramid sees it: its maps, and the regions that are pooled from them,
// ascending.
struct LevelProblem : RoIPoolProblem {
  FeatureMaps maps;
  std::vector<int64_t> regions;

  LevelProblem(const RoIPoolProblem& problem, int64_t level) : RoIPoolProblem(problem), maps(problem.levels[level]) {
    regions.reserve(num_rois);
    for (int64_t k = 0; k < num_rois; ++k) {
      if (level_of_region(k) == level) {
        regions.push_back(k);
      }
    }
  }

  int64_t num_regions() const { return static_cast<int64_t>(regions.size()); }
};

// Describes a region on the maps of its level.
struct PlacedRegion {
  int64_t k;           // its row of rois
  int64_t image;       // that it lies in, or -1 where all its bins are empty
  simd::BinGrid grid;  // its bins; undefined where there is no image, as is
  CellRectangle hull;  // the rectangle that they lie in

  // Returns the largest offset of any cell from the first cell of its bin, along the rows of a map of such width.
  int64_t max_offset(int64_t map_width) const {
    return (max_size(grid.rows, grid.num_rows) - 1) * map_width + max_size(grid.columns, grid.num_columns) - 1;
  }

  // Returns the cells of the largest bin.
  int64_t max_bin_cells() const {
    return max_size(grid.rows, grid.num_rows) * max_size(grid.columns, grid.num_columns);
  }

  // Returns the rows of the lowest bin that is not empty; 0 if all are.
  int64_t min_bin_rows() const {
    int64_t min_rows = 0;
    for (int64_t p = 0; p < grid.num_rows; ++p) {
      if (!grid.rows[p].empty()) {
        const int64_t rows = grid.rows[p].hi - grid.rows[p].lo;
        min_rows = min_rows == 0 ? rows : std::min(min_rows, rows);
      }
    }
    return min_rows;
  }

  // Count the rows and the columns of all bins together: each once for each bin that it is in.
  int64_t row_visits() const { return sum_of_sizes(grid.rows, grid.num_rows); }
  int64_t column_visits() const { return sum_of_sizes(grid.columns, grid.num_columns); }

  // Counts the vectors of so many columns, or of fewer, that the bins of a row of bins have together.
  int64_t column_vectors(int64_t lanes) const {
    int64_t vectors = 0;
    for (int64_t q = 0; q < grid.num_columns; ++q) {
      vectors += divide_up(std::max(0, grid.columns[q].hi - grid.columns[q].lo), lanes);
    }
    return vectors;
  }

  // Writes the first cell of each bin of a map of such width, or -1 for an empty one.
  void first_cells(int64_t map_width, int32_t* cells) const {
    for (int64_t p = 0; p < grid.num_rows; ++p) {
      for (int64_t q = 0; q < grid.num_columns; ++q) {
        const bool empty = grid.rows[p].empty() || grid.columns[q].empty();
        *cells++ = empty ? -1 : static_cast<int32_t>(grid.rows[p].lo * map_width + grid.columns[q].lo);
      }
    }
  }

 private:
  static int64_t max_size(const CellRange* ranges, int64_t num_ranges) {
    int64_t size = 0;
    for (int64_t i = 0; i < num_ranges; ++i) {
      size = std::max<int64_t>(size, ranges[i].hi - ranges[i].lo);
    }
    return size;
  }

  static int64_t sum_of_sizes(const CellRange* ranges, int64_t num_ranges) {
    int64_t sum = 0;
    for (int64_t i = 0; i < num_ranges; ++i) {
      sum += std::max(0, ranges[i].hi - ranges[i].lo);
    }
    return sum;
  }
};

// Places all regions of a level, once for all that is pooled from them.
class PlacedRegions {
 public:
  explicit PlacedRegions(const LevelProblem& problem)
      : bins_per_region_(problem.pooled_height + problem.pooled_width),
        ranges_(problem.num_regions() * bins_per_region_),
        regions_(problem.num_regions()) {
    constexpr double kNanosecondsPerRange = 4;
    const int64_t grain = grain_of(problem.num_regions(), kNanosecondsPerRange * static_cast<double>(ranges_.size()));
    parallel_for(problem.num_regions(), grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k = problem.regions[i];
        CellRange* rows = ranges_.data() + i * bins_per_region_;
        regions_[i] = problem.with_roi(k, [&](const auto* roi) { return place(problem, k, roi, rows); });
      }
    });
  }

  PlacedRegions(const PlacedRegions&) = delete;  // the regions point into ranges_
  PlacedRegions& operator=(const PlacedRegions&) = delete;

  int64_t size() const { return static_cast<int64_t>(regions_.size()); }
  const PlacedRegion& operator[](int64_t i) const { return regions_[i]; }
  const PlacedRegion* begin() const { return regions_.data(); }
  const PlacedRegion* end() const { return regions_.data() + regions_.size(); }

 private:
  template <typename T>
  static PlacedRegion place(const LevelProblem& problem, int64_t k, const T* roi, CellRange* rows) {
    CellRange* columns = rows + problem.pooled_height;
    Axis<T> x;
    Axis<T> y;
    const int64_t image = place_region(problem, problem.maps, roi, &x, &y);
    CellRectangle hull{};
    if (image >= 0) {
      for (int64_t p = 0; p < problem.pooled_height; ++p) {
        rows[p] = y.bin_cells(p);
      }
      for (int64_t q = 0; q < problem.pooled_width; ++q) {
        columns[q] = x.bin_cells(q);
      }
      hull = {hull_of(rows, problem.pooled_height), hull_of(columns, problem.pooled_width)};
    }
    return {k, hull.empty() ? -1 : image, {rows, problem.pooled_height, columns, problem.pooled_width}, hull};
  }

  static CellRange hull_of(const CellRange* ranges, int64_t num_ranges) {
    CellRange hull = {std::numeric_limits<int32_t>::max(), 0};
    for (int64_t i = 0; i < num_ranges; ++i) {
      if (!ranges[i].empty()) {
        hull.lo = std::min(hull.lo, ranges[i].lo);
        hull.hi = std::max(hull.hi, ranges[i].hi);
      }
    }
    return hull;
  }

  const int64_t bins_per_region_;  // on both axes together
  std::vector<CellRange> ranges_;
  std::vector<PlacedRegion> regions_;
};

// Sorts the regions of a level by image, and keeps them in ascending order within each.
class RegionsByImage {
 public:
  // image_of(i) returns the image of region i, or -1.
  template <typename ImageOf>
  RegionsByImage(int64_t num_images, int64_t num_regions, const ImageOf& image_of)
      : starts_(num_images + 2, 0), order_(num_regions) {
    const auto bucket_of = [&](int64_t i) {  // those of no image come last
      const int64_t image = image_of(i);
      return image < 0 ? num_images : image;
    };
    for (int64_t i = 0; i < num_regions; ++i) {
      ++starts_[bucket_of(i) + 1];
    }
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (int64_t i = 0; i < num_regions; ++i) {
      order_[next[bucket_of(i)]++] = i;
    }
  }

  // Delimit the regions of an image, as indices into the regions of the level.
  const int64_t* begin(int64_t image) const { return order_.data() + starts_[image]; }
  const int64_t* end(int64_t image) const { return order_.data() + starts_[image + 1]; }

 private:
  std::vector<int64_t> starts_;
  std::vector<int64_t> order_;
};

}  // namespace roipool::cpu
