#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/regions.h"
#include "problem.h"

namespace roipool::cpu {

// Pools one channel of one region cell by cell from the map as it lies in memory: the plain form of what the inner
// loops do, for what is too little for them, or too large. argmax may be null.
template <bool kChannelsLast, typename scalar_t>
void pool_channel(const LevelProblem& problem, const Bins& bins, int64_t image, int64_t k, int64_t c, scalar_t* output,
                  int32_t* argmax) {
  const FeatureMaps& maps = problem.maps;
  const int64_t cell_stride = kChannelsLast ? maps.cell_stride : 1;
  const scalar_t* map = static_cast<const scalar_t*>(maps.input) + image * maps.image_stride + c * maps.channel_stride;
  int64_t to = k * problem.output_region_stride + c * problem.output_channel_stride;
  for (const CellRange row : bins.rows()) {
    for (const CellRange column : bins.columns()) {
      int64_t best_cell = -1;
      wide_t<scalar_t> best = 0;
      if (!row.empty() && !column.empty()) {
        best_cell = row.lo * maps.width + column.lo;
        best = map[best_cell * cell_stride];
        for (int64_t y = row.lo; y < row.hi; ++y) {
          const int64_t first = y * maps.width;
          const scalar_t* values = map + first * cell_stride;
          for (int64_t x = column.lo; x < column.hi; ++x) {
            const wide_t<scalar_t> value = values[x * cell_stride];
            if (value > best || value != value) {
              best = value;
              best_cell = first + x;
            }
          }
        }
      }
      output[to] = best_cell < 0 ? scalar_t(0) : map[best_cell * cell_stride];
      if (argmax != nullptr) {
        argmax[to] = static_cast<int32_t>(best_cell);
      }
      to += problem.output_bin_stride;
    }
  }
}

template <typename scalar_t>
void pool_channel(const LevelProblem& problem, const Bins& bins, int64_t image, int64_t k, int64_t c, scalar_t* output,
                  int32_t* argmax) {
  if (problem.channels_last) {
    pool_channel<true>(problem, bins, image, k, c, output, argmax);
  } else {
    pool_channel<false>(problem, bins, image, k, c, output, argmax);
  }
}

template <typename scalar_t>
void forward_cells(const LevelProblem& problem, scalar_t* output, int32_t* argmax) {
  const int64_t work = problem.num_bins() + count_visits(problem) / std::max<int64_t>(1, problem.num_regions());
  for_each_share(problem, output, argmax, problem.channels, work, [&] {
    return [&](const Bins& bins, int64_t image, int64_t k, int64_t c) {
      pool_channel(problem, bins, image, k, c, output, argmax);
    };
  });
}

}  // namespace roipool::cpu
