// Pools regions from channels_last maps: a thread has adjacent channels of a bin.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/aligned_vector.cuh"
#include "cuda/divider.cuh"
#include "cuda/launch.cuh"
#include "cuda/pool_cells.cuh"
#include "cuda/regions.h"
#include "cuda/tiling.cuh"
#include "problem.h"

namespace roipool::cuda {

// A multiprocessor has at least so many blocks at once. Left to itself, the compiler aims at more, and spills
// registers.
constexpr int kChannelsLastBlocks = 3;

// Pools channels_last maps: a position of the tiling is a vector of channels, a run a bin. argmax is written only where
// kArgmax.
//
//   output, argmax  [K, C, PH, PW], channels_last
template <bool kArgmax, int kVectorSize, typename scalar_t>
__global__ void __launch_bounds__(kThreads, kChannelsLastBlocks)
    forward_channels_last_kernel(const RoIPoolProblem problem, const Tiling tiling, const Divider pooled_width,
                                 const PlacedRegions placed, scalar_t* output, int32_t* argmax) {
  for_each_tile(tiling, [&](const Tile& tile) {
    const PlacedRegion region = placed[tile.region];
    const FeatureMaps& maps = problem.levels[region.level];
    const auto width = static_cast<int32_t>(maps.width);
    const CellRange* const rows = placed.rows(tile.region);
    const CellRange* const columns = placed.columns(tile.region);
    const scalar_t* const map =
        static_cast<const scalar_t*>(maps.input) + region.image * maps.image_stride + tile.position * kVectorSize;
    for (int64_t bin_index = tile.run; bin_index < tile.end_run; bin_index += tiling.runs_at_once) {
      const int64_t p = pooled_width.divide(bin_index);
      const CellRectangle bin{rows[p], columns[bin_index - p * problem.pooled_width]};
      const auto maxima = pool_cells<kVectorSize>(map, width, maps.cell_stride, bin);
      const int64_t to =
          region.k * problem.output_region_stride + bin_index * problem.output_bin_stride + tile.position * kVectorSize;
      store(maxima.values, output + to);
      if (kArgmax) {
        store(maxima.argmax, argmax + to);
      }
    }
  });
}

}  // namespace roipool::cuda
