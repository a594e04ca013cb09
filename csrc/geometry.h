// Turns the coordinates of one region into its image, its level and the cells of its bins. This is the only place that
// interprets coordinates, but for the scales of axes that differ, which Python multiplies in
// (roipool/_ops/arguments.py); it runs on the host and on CUDA devices.
//
// T is double where the rois are float64, else float. Every operation is a single IEEE operation in T: the library is
// built without fast-math and without contraction to fused multiply-add, so that CPU and CUDA get the same integers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "host_device.h"

namespace roipool {

// Names the cells lo .. hi-1 of a map's row or column.
struct alignas(8) CellRange {
  int32_t lo;
  int32_t hi;

  ROIPOOL_HOST_DEVICE bool empty() const { return hi <= lo; }
};

// Names the cells of some rows by those of some columns of a map.
struct CellRectangle {
  CellRange rows;
  CellRange columns;

  ROIPOOL_HOST_DEVICE bool empty() const { return rows.empty() || columns.empty(); }
  ROIPOOL_HOST_DEVICE int64_t height() const { return rows.empty() ? 0 : rows.hi - rows.lo; }
  ROIPOOL_HOST_DEVICE int64_t width() const { return columns.empty() ? 0 : columns.hi - columns.lo; }
  ROIPOOL_HOST_DEVICE int64_t num_cells() const { return height() * width(); }
};

// Describes a region on one axis, in feature cells.
template <typename T>
struct Axis {
  int32_t start;      // the first cell of the region, which may lie outside of the map
  int32_t num_cells;  // of the map
  T bin_size;         // cells per bin, a fraction in general

  // Rounds bin number `index` outwards to whole cells, and clips it to the map.
  ROIPOOL_HOST_DEVICE CellRange bin_cells(int64_t index) const {
    return {clip(static_cast<int32_t>(std::floor(static_cast<T>(index) * bin_size)) + start),
            clip(static_cast<int32_t>(std::ceil(static_cast<T>(index + 1) * bin_size)) + start)};
  }

 private:
  ROIPOOL_HOST_DEVICE int32_t clip(int32_t cell) const { return cell < 0 ? 0 : (cell > num_cells ? num_cells : cell); }
};

// Returns the image that a region belongs to, or -1 where its batch index is out of range or not finite.
template <typename T>
ROIPOOL_HOST_DEVICE int64_t image_of(const T* roi, int64_t num_images) {
  const T index = roi[0];
  // The comparison fails for NaN. 2^62 keeps the conversion defined. An index in (-1, 0) truncates to image 0.
  if (!(index > T(-1) && index < T(4611686018427387904.0))) {
    return -1;
  }
  const int64_t image = static_cast<int64_t>(index);
  return image < num_images ? image : -1;
}

// Returns the level of a feature pyramid that a region is pooled from: the number of bounds, which ascend, that its
// area in image pixels reaches. Areas are compared, so that no square root is taken on a device. An area that is not
// greater than 0 reaches none.
template <typename T>
ROIPOOL_HOST_DEVICE int64_t level_of(const T* roi, const double* bounds, int64_t num_levels) {
  if (num_levels == 1) {
    return 0;
  }
  const T area = (roi[3] - roi[1]) * (roi[4] - roi[2]);
  int64_t level = 0;
  while (level < num_levels - 1 && area >= static_cast<T>(bounds[level])) {
    ++level;
  }
  return level;
}

// Returns the least area that belongs to `level`, by floor(canonical_level + log2(sqrt(area) / canonical_scale)): Lin
// et al., Feature Pyramid Networks (2017), equation 1. Computes it in T step by step as torchvision does, with its
// 1e-6, but with an exact square root: the last bit of torch.sqrt varies with the processor, and with it torchvision's
// level.
template <typename T>
double level_bound_as(double level, double canonical_scale, double canonical_level) {
  using Bits = std::conditional_t<sizeof(T) == sizeof(uint64_t), uint64_t, uint32_t>;
  const auto area_of = [](Bits bits) {
    T area;
    std::memcpy(&area, &bits, sizeof(area));
    return area;
  };
  const auto reaches = [&](T area) {
    const T ratio = std::sqrt(area) / static_cast<T>(canonical_scale);
    return static_cast<T>(canonical_level) + std::log2(ratio) + static_cast<T>(1e-6) >= static_cast<T>(level);
  };
  const T infinity = std::numeric_limits<T>::infinity();
  if (!reaches(infinity)) {  // T rounds canonical_scale to infinity as well
    return std::numeric_limits<double>::quiet_NaN();
  }
  // Bisects the bits of positive numbers, which have the order of the numbers.
  Bits below = 0;
  Bits reached;
  std::memcpy(&reached, &infinity, sizeof(reached));
  while (reached - below > 1) {
    const Bits middle = below + (reached - below) / 2;
    (reaches(area_of(middle)) ? reached : below) = middle;
  }
  return area_of(reached);
}

// Returns the bound in the type of the rois, float64 or not.
inline double level_bound(double level, double canonical_scale, double canonical_level, bool rois_are_double) {
  const auto bound = rois_are_double ? level_bound_as<double> : level_bound_as<float>;
  return bound(level, canonical_scale, canonical_level);
}

// Scales one coordinate of a region to a cell; returns false where it is not finite. A product that is NaN counts as
// not finite: 0 times a scale that T rounds to infinity.
template <typename T>
ROIPOOL_HOST_DEVICE bool scale_coordinate(T coordinate, T spatial_scale, int32_t* cell) {
  const T limit = T(536870912);  // 2^29: sums of two such numbers still fit an int
  const T scaled = coordinate * spatial_scale;
  if (!std::isfinite(coordinate) || std::isnan(scaled)) {
    return false;
  }
  const T clamped = scaled < -limit ? -limit : (scaled > limit ? limit : scaled);
  *cell = static_cast<int32_t>(std::round(clamped));  // half away from zero
  return true;
}

// Makes the axis between two corners of a region; returns false where a corner is not finite. An end before its start
// still covers one cell.
template <typename T>
ROIPOOL_HOST_DEVICE bool make_axis(T first, T last, T spatial_scale, int64_t num_cells, int64_t num_bins,
                                   Axis<T>* axis) {
  const int64_t limit = INT32_MAX;  // an axis is longer only where the other one is 0, so that no cell exists
  int32_t end = 0;
  if (!scale_coordinate(first, spatial_scale, &axis->start) || !scale_coordinate(last, spatial_scale, &end)) {
    return false;
  }
  const int32_t size = end - axis->start + 1;
  axis->bin_size = static_cast<T>(size < 1 ? 1 : size) / static_cast<T>(num_bins);
  axis->num_cells = static_cast<int32_t>(num_cells < limit ? num_cells : limit);
  return true;
}

}  // namespace roipool
