#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/simd/loops.h"
#include "problem.h"

namespace roipool::cpu {

// The problem as one level of a pyramid sees it: its maps, and the regions that are pooled from them, ascending.
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

// A rectangle of a map.
struct Rectangle {
  CellRange rows;
  CellRange columns;

  int64_t height() const { return std::max(0, rows.hi - rows.lo); }
  int64_t width() const { return std::max(0, columns.hi - columns.lo); }
  int64_t num_cells() const { return height() * width(); }
};

// The bins of one region at a time, on both axes.
class Bins {
 public:
  explicit Bins(const LevelProblem& problem)
      : problem_(problem), rows_(problem.pooled_height), columns_(problem.pooled_width) {}

  // Moves to region k. Returns the image that it lies in, or -1 where all its bins are empty by decree: a batch index
  // of no image, or a coordinate that is not finite.
  int64_t locate(int64_t k) {
    return problem_.with_roi(k, [this](const auto* roi) { return locate(roi); });
  }

  const std::vector<CellRange>& rows() const { return rows_; }
  const std::vector<CellRange>& columns() const { return columns_; }
  Grid grid() const { return {rows_.data(), problem_.pooled_height, columns_.data(), problem_.pooled_width}; }

  // What the bins lie in, without a cell where all of them are empty.
  Rectangle hull() const { return {hull(rows_), hull(columns_)}; }

  // The largest number that a cell of a bin has, counted from the bin's first cell along the rows of the map.
  int64_t span() const { return (longest(rows_) - 1) * problem_.maps.width + longest(columns_) - 1; }

  // The rows of the lowest bin that is not empty; 0 if all are.
  int64_t least_height() const {
    int64_t least = 0;
    for (const CellRange row : rows_) {
      if (!row.empty()) {
        least = least == 0 ? row.hi - row.lo : std::min<int64_t>(least, row.hi - row.lo);
      }
    }
    return least;
  }

  // The cells of all bins together, counted once for each bin that they are in.
  int64_t num_visits() const { return sum(rows_) * sum(columns_); }

  // The first cell of each bin, or -1 of an empty one.
  void first_cells(int32_t* cells) const {
    for (const CellRange row : rows_) {
      for (const CellRange column : columns_) {
        const bool empty = row.empty() || column.empty();
        *cells++ = empty ? -1 : static_cast<int32_t>(row.lo * problem_.maps.width + column.lo);
      }
    }
  }

 private:
  static CellRange hull(const std::vector<CellRange>& windows) {
    CellRange hull = {std::numeric_limits<int32_t>::max(), 0};
    for (const CellRange window : windows) {
      if (!window.empty()) {
        hull.lo = std::min(hull.lo, window.lo);
        hull.hi = std::max(hull.hi, window.hi);
      }
    }
    return hull;
  }

  static int64_t longest(const std::vector<CellRange>& windows) {
    int64_t cells = 0;
    for (const CellRange window : windows) {
      cells = std::max<int64_t>(cells, window.hi - window.lo);
    }
    return cells;
  }

  static int64_t sum(const std::vector<CellRange>& windows) {
    int64_t cells = 0;
    for (const CellRange window : windows) {
      cells += std::max(0, window.hi - window.lo);
    }
    return cells;
  }

  template <typename T>
  int64_t locate(const T* roi) {
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

// The regions problem.regions[first .. last-1] of each image, in ascending order.
class RegionsByImage {
 public:
  RegionsByImage(const LevelProblem& problem, int64_t first, int64_t last)
      : starts_(problem.num_images + 2, 0), regions_(last - first) {
    const int64_t num_images = problem.num_images;
    const auto bucket_of = [&](int64_t k) {  // those of no image come last
      const int64_t image = problem.image_of_region(k);
      return image < 0 ? num_images : image;
    };
    for (int64_t i = first; i < last; ++i) {
      ++starts_[bucket_of(problem.regions[i]) + 1];
    }
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (int64_t i = first; i < last; ++i) {
      const int64_t k = problem.regions[i];
      regions_[next[bucket_of(k)]++] = k;
    }
  }

  const int64_t* begin(int64_t image) const { return regions_.data() + starts_[image]; }
  const int64_t* end(int64_t image) const { return regions_.data() + starts_[image + 1]; }

  // The regions of no image.
  const int64_t* begin_of_none() const { return begin(static_cast<int64_t>(starts_.size()) - 2); }
  const int64_t* end_of_none() const { return regions_.data() + regions_.size(); }

 private:
  std::vector<int64_t> starts_;
  std::vector<int64_t> regions_;
};

// How many columns of a map are prepared at a time for being pooled: where they are adjacent, as many as the widest
// register holds.
template <typename scalar_t>
int64_t columns_at_a_time(const LevelProblem& problem) {
  return problem.channels_last ? 1 : 64 / sizeof(scalar_t);
}

inline Rectangle whole_map(const LevelProblem& problem) {
  return {{0, static_cast<int32_t>(problem.maps.height)}, {0, static_cast<int32_t>(problem.maps.width)}};
}

// What a region prepares of a map for itself alone: what its bins lie in, and at least so many columns, if there are.
// Without a cell where all bins are empty.
inline Rectangle part_of(const LevelProblem& problem, const Bins& bins, int64_t least_columns) {
  Rectangle part = bins.hull();
  const auto width = static_cast<int32_t>(std::min(least_columns, problem.maps.width));
  if (part.num_cells() > 0 && part.width() < width) {
    part.columns.lo = std::min<int32_t>(part.columns.lo, problem.maps.width - width);
    part.columns.hi = part.columns.lo + width;
  }
  return part;
}

// The cells that all bins visit together.
inline int64_t count_visits(const LevelProblem& problem) {
  int64_t visits = 0;
  Bins bins(problem);
  for (const int64_t k : problem.regions) {
    visits += bins.locate(k) < 0 ? 0 : bins.num_visits();
  }
  return visits;
}

// A region that has no bins: 0 and -1.
template <typename scalar_t>
void clear_region(const RoIPoolProblem& problem, int64_t k, scalar_t* output, int32_t* argmax) {
  std::fill_n(output + k * problem.output_region_stride, problem.output_region_stride, scalar_t(0));
  if (argmax != nullptr) {
    std::fill_n(argmax + k * problem.output_region_stride, problem.output_region_stride, -1);
  }
}

// Calls function(bins, image, k, i) in parallel for each of the shares of each region that has bins, its channels say,
// and clears the other regions. Every thread makes a function of its own. work_per_share is in elements, as for
// grain_of.
template <typename scalar_t, typename MakeFunction>
void for_each_share(const LevelProblem& problem, scalar_t* output, int32_t* argmax, int64_t shares,
                    int64_t work_per_share, const MakeFunction& make_function) {
  parallel_for(0, problem.num_regions() * shares, grain_of(work_per_share), [&](int64_t begin, int64_t end) {
    auto function = make_function();
    Bins bins(problem);
    int64_t located = -1;
    int64_t image = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t k = problem.regions[task / shares];
      const int64_t i = task % shares;
      if (k != located) {
        image = bins.locate(k);
        located = k;
      }
      if (image >= 0) {
        function(bins, image, k, i);
      } else if (i == 0) {
        clear_region(problem, k, output, argmax);
      }
    }
  });
}

}  // namespace roipool::cpu
