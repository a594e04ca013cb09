// What the CPU kernels know of regions: their level, their bins, their image.
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

// Describes a rectangle of a map.
struct Rectangle {
  CellRange rows;
  CellRange columns;

  int64_t height() const { return std::max(0, rows.hi - rows.lo); }
  int64_t width() const { return std::max(0, columns.hi - columns.lo); }
  int64_t num_cells() const { return height() * width(); }
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
  Rectangle hull() const { return {hull(rows_), hull(columns_)}; }

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

// Sorts the regions problem.regions[first .. last-1] by image, and keeps them in ascending order within each.
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

  // Delimit the regions of no image.
  const int64_t* begin_of_none() const { return begin(static_cast<int64_t>(starts_.size()) - 2); }
  const int64_t* end_of_none() const { return regions_.data() + regions_.size(); }

 private:
  std::vector<int64_t> starts_;
  std::vector<int64_t> regions_;
};

// ---- What a forward prepares of the maps.

inline Rectangle whole_map(const FeatureMaps& maps) {
  return {{0, static_cast<int32_t>(maps.height)}, {0, static_cast<int32_t>(maps.width)}};
}

// Returns what a region prepares for itself alone: the rectangle that its bins lie in, widened to min_columns columns
// where the map has them. It has no cell where all bins are empty.
inline Rectangle part_of_region(const FeatureMaps& maps, const RegionBins& bins, int64_t min_columns) {
  Rectangle part = bins.hull();
  const auto width = static_cast<int32_t>(std::min(min_columns, maps.width));
  if (part.num_cells() > 0 && part.width() < width) {
    part.columns.lo = std::min<int32_t>(part.columns.lo, maps.width - width);
    part.columns.hi = part.columns.lo + width;
  }
  return part;
}

// Counts the cells that the regions prepare where each prepares its part of the maps for itself alone, up to `limit`.
// Columns are prepared column_step at a time.
inline int64_t count_part_cells(const LevelProblem& problem, int64_t column_step, int64_t limit) {
  int64_t num_cells = 0;
  RegionBins bins(problem);
  for (int64_t i = 0; i < problem.num_regions() && num_cells < limit; ++i) {
    if (bins.place(problem.regions[i]) >= 0) {
      const Rectangle part = bins.hull();
      const int64_t width = divide_up(part.width(), column_step) * column_step;
      num_cells += part.height() * std::min(width, problem.maps.width);
    }
  }
  return std::min(num_cells, limit);
}

// ---- Regions and their outputs.

// Writes 0 and -1 for a region that has no bins. argmax may be null.
template <typename scalar_t>
void clear_region(const RoIPoolProblem& problem, int64_t k, scalar_t* output, int32_t* argmax) {
  std::fill_n(output + k * problem.output_region_stride, problem.output_region_stride, scalar_t{});
  if (argmax != nullptr) {
    std::fill_n(argmax + k * problem.output_region_stride, problem.output_region_stride, -1);
  }
}

// Calls function(bins, image, k, share) in parallel for each region that has bins and each of its shares, its channels
// say, and clears the other regions. make_function() makes a function for each thread. work_per_share is in elements,
// as for grain_of().
template <typename scalar_t, typename MakeFunction>
void for_each_region_share(const LevelProblem& problem, scalar_t* output, int32_t* argmax, int64_t num_shares,
                           int64_t work_per_share, const MakeFunction& make_function) {
  parallel_for(0, problem.num_regions() * num_shares, grain_of(work_per_share), [&](int64_t first, int64_t last) {
    auto function = make_function();
    RegionBins bins(problem);
    int64_t placed = -1;
    int64_t image = -1;
    for (int64_t task = first; task < last; ++task) {
      const int64_t k = problem.regions[task / num_shares];
      const int64_t share = task % num_shares;
      if (k != placed) {
        image = bins.place(k);
        placed = k;
      }
      if (image >= 0) {
        function(bins, image, k, share);
      } else if (share == 0) {
        clear_region(problem, k, output, argmax);
      }
    }
  });
}

}  // namespace roipool::cpu
