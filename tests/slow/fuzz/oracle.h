// What roipool computes, the slow and obvious way: for a fuzzer, to which roipool.reference is far too slow. Written
// from docs/semantics.md alone; nothing of csrc/ is in it. test_oracle.py holds it to roipool.reference.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace oracle {

// The feature maps of one level, as doubles, which hold every number of every dtype. Shape [N, C, height, width].
struct Level {
  const double* values;
  int64_t height;
  int64_t width;
  double spatial_scale;
};

struct Problem {
  std::vector<Level> levels;
  int64_t num_images;
  int64_t channels;
  int64_t num_rois;
  int64_t pooled_height;
  int64_t pooled_width;
  double canonical_scale;
  int64_t canonical_level;
};

// Says which level a region belongs to, and which image: -1 where all of its bins are empty.
struct Region {
  int64_t level;
  int64_t image;
};

// Rounds in T, which is double where the rois are, else float.
template <typename T>
int64_t half_away_from_zero(T value) {
  const T whole = std::trunc(value);
  return static_cast<int64_t>(whole) + (value - whole >= T(0.5) ? 1 : value - whole <= T(-0.5) ? -1 : 0);
}

template <typename T>
T clamp_scaled(T scaled) {
  const T limit = std::ldexp(T(1), 29);
  return scaled > limit ? limit : scaled < -limit ? -limit : scaled;
}

// Returns the cells lo .. hi-1 of each bin on one axis.
template <typename T>
std::vector<std::pair<int64_t, int64_t>> bin_cells(T low, T high, T scale, int64_t num_cells, int64_t num_bins) {
  const int64_t start = half_away_from_zero(clamp_scaled(low * scale));
  const int64_t end = half_away_from_zero(clamp_scaled(high * scale));
  const int64_t size = end - start + 1 > 1 ? end - start + 1 : 1;
  const T bin_size = static_cast<T>(size) / static_cast<T>(num_bins);
  const auto inside = [num_cells](int64_t cell) { return cell < 0 ? 0 : cell > num_cells ? num_cells : cell; };
  std::vector<std::pair<int64_t, int64_t>> result;
  for (int64_t p = 0; p < num_bins; ++p) {
    result.emplace_back(inside(static_cast<int64_t>(std::floor(static_cast<T>(p) * bin_size)) + start),
                        inside(static_cast<int64_t>(std::ceil(static_cast<T>(p + 1) * bin_size)) + start));
  }
  return result;
}

template <typename T>
Region region_of(const Problem& problem, const T* roi) {
  Region region{0, -1};
  const T area = (roi[3] - roi[1]) * (roi[4] - roi[2]);
  const int64_t most = static_cast<int64_t>(problem.levels.size()) - 1;
  const T level = std::floor(static_cast<T>(problem.canonical_level) +
                             std::log2(std::sqrt(area) / static_cast<T>(problem.canonical_scale)) + T(1e-6));
  const T first_level = static_cast<T>(std::nearbyint(-std::log2(problem.levels[0].spatial_scale)));
  const T relative = level - first_level;
  region.level = !(relative > 0) ? 0 : relative >= static_cast<T>(most) ? most : static_cast<int64_t>(relative);

  const T scale = static_cast<T>(problem.levels[region.level].spatial_scale);
  const T image = std::trunc(roi[0]);
  bool valid = std::isfinite(image) && image >= 0 && image < static_cast<T>(problem.num_images);
  for (int i = 1; i < 5; ++i) {
    valid = valid && std::isfinite(roi[i]) && !std::isnan(roi[i] * scale);
  }
  region.image = valid ? static_cast<int64_t>(image) : -1;
  return region;
}

// Returns argmax [K, C, PH, PW], from rois [K, 5].
template <typename T>
std::vector<int32_t> argmax(const Problem& problem, const T* rois) {
  std::vector<int32_t> result;
  for (int64_t k = 0; k < problem.num_rois; ++k) {
    const T* roi = rois + 5 * k;
    const Region region = region_of(problem, roi);
    const Level& level = problem.levels[region.level];
    if (region.image < 0) {
      result.insert(result.end(), problem.channels * problem.pooled_height * problem.pooled_width, -1);
      continue;
    }
    const T scale = static_cast<T>(level.spatial_scale);
    const auto rows = bin_cells(roi[2], roi[4], scale, level.height, problem.pooled_height);
    const auto columns = bin_cells(roi[1], roi[3], scale, level.width, problem.pooled_width);
    for (int64_t c = 0; c < problem.channels; ++c) {
      const double* plane = level.values + (region.image * problem.channels + c) * level.height * level.width;
      for (const auto& [top, bottom] : rows) {
        for (const auto& [left, right] : columns) {
          int64_t best = -1;
          for (int64_t y = top; y < bottom; ++y) {
            for (int64_t x = left; x < right; ++x) {
              const int64_t cell = y * level.width + x;
              if (best < 0 || plane[cell] > plane[best] || std::isnan(plane[cell])) {
                best = cell;
              }
            }
          }
          result.push_back(static_cast<int32_t>(best));
        }
      }
    }
  }
  return result;
}

// Calls visit(level, cell of the maps, element of the output) for each element that has a cell, in ascending order of
// region, channel, row and column of bins. An argmax that is no cell counts as none.
template <typename T, typename Visit>
void for_each_cell(const Problem& problem, const T* rois, const int32_t* argmax, const Visit& visit) {
  const int64_t per_region = problem.channels * problem.pooled_height * problem.pooled_width;
  for (int64_t k = 0; k < problem.num_rois; ++k) {
    const T* roi = rois + 5 * k;
    const T image = std::trunc(roi[0]);  // the coordinates are not looked at again: argmax has them
    if (!(std::isfinite(image) && image >= 0 && image < static_cast<T>(problem.num_images))) {
      continue;
    }
    const int64_t level = region_of(problem, roi).level;
    const int64_t num_cells = problem.levels[level].height * problem.levels[level].width;
    for (int64_t i = 0; i < per_region; ++i) {
      const int64_t channel = i / (problem.pooled_height * problem.pooled_width);
      const int64_t plane = static_cast<int64_t>(image) * problem.channels + channel;
      const int64_t cell = argmax[k * per_region + i];
      if (cell >= 0 && cell < num_cells) {
        visit(level, plane * num_cells + cell, k * per_region + i);
      }
    }
  }
}

// Returns the sums of gradients [N, C, height, width] of each level, added up in sum_t.
template <typename T, typename sum_t>
std::vector<std::vector<sum_t>> backward(const Problem& problem, const T* rois, const double* grad_output,
                                         const int32_t* argmax) {
  std::vector<std::vector<sum_t>> sums;
  for (const Level& level : problem.levels) {
    sums.emplace_back(problem.num_images * problem.channels * level.height * level.width, sum_t(0));
  }
  for_each_cell(problem, rois, argmax, [&](int64_t level, int64_t cell, int64_t element) {
    sums[level][cell] += static_cast<sum_t>(grad_output[element]);
  });
  return sums;
}

}  // namespace oracle
