// One region -> its level, its bins on one axis. The only place that interprets coordinates; host and device.
//
// T is double where the rois are float64, else float. Every operation is a single IEEE operation in T: the library is
// built without fast-math and without contraction to fused multiply-add, so CPU and CUDA get the same integers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__CUDACC__)
#define ROIPOOL_HOST_DEVICE __host__ __device__
#else
#define ROIPOOL_HOST_DEVICE
#endif

namespace roipool {

// Cells lo .. hi-1 of a map's row or column.
struct Window {
  int32_t lo;
  int32_t hi;

  ROIPOOL_HOST_DEVICE bool empty() const { return hi <= lo; }
};

// A region on one axis, in feature cells.
template <typename T>
struct Axis {
  int32_t start;
  int32_t extent;  // cells that the map has on this axis
  T bin;           // cells per bin, a fraction in general

  ROIPOOL_HOST_DEVICE Window window(int64_t p) const {
    return {clamp(static_cast<int32_t>(std::floor(static_cast<T>(p) * bin)) + start),
            clamp(static_cast<int32_t>(std::ceil(static_cast<T>(p + 1) * bin)) + start)};
  }

 private:
  ROIPOOL_HOST_DEVICE int32_t clamp(int32_t cell) const { return cell < 0 ? 0 : (cell > extent ? extent : cell); }
};

// The image that a region belongs to, or -1 where its batch index is no image's: out of range or not finite.
template <typename T>
ROIPOOL_HOST_DEVICE inline int64_t image_of(const T* roi, int64_t num_images) {
  const T index = roi[0];
  // Written so that NaN fails; 2^62 keeps the conversion defined. (-1, 0) truncates to image 0.
  if (!(index > T(-1) && index < T(4611686018427387904.0))) {
    return -1;
  }
  const int64_t image = static_cast<int64_t>(index);
  return image < num_images ? image : -1;
}

// The level of a feature pyramid that a region is pooled from: the number of bounds, ascending, that the square root of
// its area in image pixels reaches. An area that is not greater than 0, as of most malformed regions, reaches none.
template <typename T>
ROIPOOL_HOST_DEVICE inline int64_t level_of(const T* roi, const double* bounds, int64_t num_levels) {
  if (num_levels == 1) {
    return 0;
  }
  const T size = std::sqrt((roi[3] - roi[1]) * (roi[4] - roi[2]));
  int64_t level = 0;
  while (level < num_levels - 1 && size >= static_cast<T>(bounds[level])) {
    ++level;
  }
  return level;
}

// The bound between the levels below and from `level` on, which Lin et al. (Feature Pyramid Networks, 2017, equation 1)
// give by floor(canonical_level + log2(size / canonical_scale)): the least number of T that the equation puts there,
// computed step by step as torchvision does, in T and with its 1e-6, so that both choose the same level for any region.
template <typename T>
inline double level_bound(double level, double canonical_scale, double canonical_level) {
  using Bits = std::conditional_t<sizeof(T) == sizeof(uint64_t), uint64_t, uint32_t>;
  const auto size_of = [](Bits bits) {
    T size;
    std::memcpy(&size, &bits, sizeof(size));
    return size;
  };
  const auto reaches = [&](T size) {
    const T ratio = size / static_cast<T>(canonical_scale);
    return static_cast<T>(canonical_level) + std::log2(ratio) + static_cast<T>(1e-6) >= static_cast<T>(level);
  };
  const T infinity = std::numeric_limits<T>::infinity();
  if (!reaches(infinity)) {  // where T rounds canonical_scale to infinity, too
    return std::numeric_limits<double>::quiet_NaN();
  }
  Bits below = 0;  // as the bits of positive numbers, which have the order of the numbers
  Bits reached;
  std::memcpy(&reached, &infinity, sizeof(reached));
  while (reached - below > 1) {
    const Bits middle = below + (reached - below) / 2;
    (reaches(size_of(middle)) ? reached : below) = middle;
  }
  return size_of(reached);
}

// One end of a region in cells; false where it is not finite. A product that is NaN is no coordinate either: 0 times a
// scale that T rounds to infinity.
template <typename T>
ROIPOOL_HOST_DEVICE inline bool scale_coordinate(T coordinate, T spatial_scale, int32_t* cell) {
  const T limit = T(536870912);  // 2^29: sums of two such numbers still fit an int
  const T scaled = coordinate * spatial_scale;
  if (!std::isfinite(coordinate) || std::isnan(scaled)) {
    return false;
  }
  const T clamped = scaled < -limit ? -limit : (scaled > limit ? limit : scaled);
  *cell = static_cast<int32_t>(std::round(clamped));  // half away from zero
  return true;
}

// The axis between two corners; false where a corner is not finite. An end before its start still covers one cell.
template <typename T>
ROIPOOL_HOST_DEVICE inline bool make_axis(T first, T last, T spatial_scale, int64_t extent, int64_t num_bins,
                                          Axis<T>* axis) {
  const int64_t most = INT32_MAX;  // an axis may be longer only where the other is 0, that is where no cell exists
  int32_t end = 0;
  if (!scale_coordinate(first, spatial_scale, &axis->start) || !scale_coordinate(last, spatial_scale, &end)) {
    return false;
  }
  const int32_t size = end - axis->start + 1;
  axis->bin = static_cast<T>(size < 1 ? 1 : size) / static_cast<T>(num_bins);
  axis->extent = static_cast<int32_t>(extent < most ? extent : most);
  return true;
}

}  // namespace roipool
