// Finds the level, the image and the bins of regions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

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

// Holds the bins of one region at a time.
class RegionBins {
 public:
  explicit RegionBins(const LevelProblem& problem)
      : problem_(problem), rows_(problem.pooled_height), columns_(problem.pooled_width) {}

  // Moves to region k. Returns the image that it lies in, or -1 where all its bins are empty: see place_region().
  int64_t place(int64_t k) {
    return problem_.with_roi(k, [this](const auto* roi) { return place(roi); });
  }

  const std::vector<CellRange>& rows() const { return rows_; }
  const std::vector<CellRange>& columns() const { return columns_; }
  simd::BinGrid grid() const { return {rows_.data(), problem_.pooled_height, columns_.data(), problem_.pooled_width}; }

  // Returns the rectangle that the bins lie in, which has no cell where all of them are empty.
  CellRectangle hull() const { return {hull(rows_), hull(columns_)}; }

  // Returns the largest offset of any cell from the first cell of its bin, along the rows of the map.
  int64_t max_offset() const { return (max_size(rows_) - 1) * problem_.maps.width + max_size(columns_) - 1; }

  // Returns the rows of the lowest bin that is not empty; 0 if all are.
  int64_t min_bin_rows() const {
    int64_t min_rows = 0;
    for (const CellRange rows : rows_) {
      if (!rows.empty()) {
        min_rows = min_rows == 0 ? rows.hi - rows.lo : std::min<int64_t>(min_rows, rows.hi - rows.lo);
      }
    }
    return min_rows;
  }

  // Counts the cells of all bins together: each once for each bin that it is in.
  int64_t num_visits() const { return sum_of_sizes(rows_) * sum_of_sizes(columns_); }

  // Writes the first cell of each bin, or -1 for an empty one.
  void first_cells(int32_t* cells) const {
    for (const CellRange rows : rows_) {
      for (const CellRange columns : columns_) {
        const bool empty = rows.empty() || columns.empty();
        *cells++ = empty ? -1 : static_cast<int32_t>(rows.lo * problem_.maps.width + columns.lo);
      }
    }
  }

 private:
  static CellRange hull(const std::vector<CellRange>& ranges) {
    CellRange hull = {std::numeric_limits<int32_t>::max(), 0};
    for (const CellRange range : ranges) {
      if (!range.empty()) {
        hull.lo = std::min(hull.lo, range.lo);
        hull.hi = std::max(hull.hi, range.hi);
      }
    }
    return hull;
  }

  static int64_t max_size(const std::vector<CellRange>& ranges) {
    int64_t size = 0;
    for (const CellRange range : ranges) {
      size = std::max<int64_t>(size, range.hi - range.lo);
    }
    return size;
  }

  static int64_t sum_of_sizes(const std::vector<CellRange>& ranges) {
    int64_t sum = 0;
    for (const CellRange range : ranges) {
      sum += std::max(0, range.hi - range.lo);
    }
    return sum;
  }

  template <typename T>
  int64_t place(const T* roi) {
    Axis<T> x;
    Axis<T> y;
    const int64_t image = place_region(problem_, problem_.maps, roi, &x, &y);
    if (image < 0) {
      return -1;
    }
    for (int64_t p = 0; p < problem_.pooled_height; ++p) {
      rows_[p] = y.bin_cells(p);
    }
    for (int64_t q = 0; q < problem_.pooled_width; ++q) {
      columns_[q] = x.bin_cells(q);
    }
    return image;
  }

  const LevelProblem& problem_;
  std::vector<CellRange> rows_;
  std::vector<CellRange> columns_;
};

// Sorts the regions problem.regions[begin .. end-1] by image, and keeps them in ascending order within each.
class RegionsByImage {
 public:
  RegionsByImage(const LevelProblem& problem, int64_t begin, int64_t end)
      : starts_(problem.num_images + 2, 0), regions_(end - begin) {
    const int64_t num_images = problem.num_images;
    const auto bucket_of = [&](int64_t k) {  // those of no image come last
      const int64_t image = problem.image_of_region(k);
      return image < 0 ? num_images : image;
    };
    for (int64_t i = begin; i < end; ++i) {
      ++starts_[bucket_of(problem.regions[i]) + 1];
    }
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t k = problem.regions[i];
      regions_[next[bucket_of(k)]++] = k;
    }
  }

  const int64_t* begin(int64_t image) const { return regions_.data() + starts_[image]; }
  const int64_t* end(int64_t image) const { return regions_.data() + starts_[image + 1]; }

  // Delimit the regions of no image.
  const int64_t* begin_of_none() const { return begin(static_cast<int64_t>(starts_.size()) - 2); }
  const int64_t* end_of_none() const { return regions_.data() + regions_.size(); }

 private:
  std::vector<int64_t> starts_;
  std::vector<int64_t> regions_;
};

}  // namespace roipool::cpu
