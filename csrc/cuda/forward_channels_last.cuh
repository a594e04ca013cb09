// Pools regions from channels_last maps: a thread has adjacent channels of a bin.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/aligned_vector.cuh"
#include "cuda/divider.cuh"
#include "cuda/launch.cuh"
#include "cuda/pool_cells.cuh"
#include "cuda/regions.h"
#include "problem.h"

namespace roipool::cuda {

// A multiprocessor has at least so many blocks at once. Left to itself, the compiler aims at more, and spills
// registers.
constexpr int kChannelsLastBlocks = 3;

// Pools channels_last maps. A block has vectors of one region, side by side: those of a bin, then those of the next.
// argmax is written only where kArgmax.
//
//   output, argmax  [K, C, PH, PW], channels_last
template <bool kArgmax, int kVectorSize, typename scalar_t>
__global__ void __launch_bounds__(kThreads, kChannelsLastBlocks)
    forward_channels_last_kernel(const RoIPoolProblem problem, const Divider vectors_per_bin,
                                 const Divider pooled_width, const PlacedRegions placed, scalar_t* output,
                                 int32_t* argmax) {
  const int64_t num_vectors = problem.output_region_stride / kVectorSize;
  for (int64_t i = blockIdx.x; i < problem.num_rois; i += gridDim.x) {
    const PlacedRegion region = placed[i];
    const FeatureMaps& maps = problem.levels[region.level];
    const scalar_t* const map = static_cast<const scalar_t*>(maps.input) + region.image * maps.image_stride;
    for (int64_t vector = blockIdx.y * kThreads + threadIdx.x; vector < num_vectors; vector += gridDim.y * kThreads) {
      const int64_t bin_index = vectors_per_bin.divide(vector);
      const int64_t p = pooled_width.divide(bin_index);
      const CellRectangle bin{placed.rows(i)[p], placed.columns(i)[bin_index - p * problem.pooled_width]};
      const int64_t c = vector * kVectorSize - bin_index * problem.num_channels;
      const auto maxima = pool_cells<kVectorSize>(map + c, static_cast<int32_t>(maps.width), maps.cell_stride, bin);
      const int64_t to = region.k * problem.output_region_stride + vector * kVectorSize;
      store(maxima.values, output + to);
      if (kArgmax) {
        store(maxima.argmax, argmax + to);
      }
    }
  }
}

}  // namespace roipool::cuda
