// Pools regions from maps that are read where they lie.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/aligned_vector.cuh"
#include "cuda/divider.cuh"
#include "cuda/launch.cuh"
#include "cuda/maxima.cuh"
#include "cuda/regions.cuh"
#include "cuda/tiling.cuh"
#include "problem.h"

namespace roipool::cuda {

// A multiprocessor has at least so many blocks at once. Left to itself, the compiler aims at more, and spills
// registers.
constexpr int kDirectForwardBlocks = 3;

// Pools the cells of a bin. `map` points to the first of the vector's channels, in the image of the region.
template <int kVectorSize, typename scalar_t>
__device__ Maxima<scalar_t, kVectorSize> pool_cells(const FeatureMaps& maps, const scalar_t* map, int64_t cell_stride,
                                                    const CellRectangle& bin) {
  Maxima<scalar_t, kVectorSize> maxima;
  if (bin.empty()) {
    return maxima;
  }
  const auto width = static_cast<int32_t>(maps.width);
  const int32_t first = bin.rows.lo * width + bin.columns.lo;
  maxima.values = load<scalar_t, kVectorSize>(map + first * cell_stride);
  wide_t<scalar_t> best[kVectorSize];
  for (int i = 0; i < kVectorSize; ++i) {
    best[i] = maxima.values.values[i];
    maxima.argmax.values[i] = first;
  }
  for (int32_t y = bin.rows.lo; y < bin.rows.hi; ++y) {
    int32_t cell = y * width + bin.columns.lo;
    const scalar_t* from = map + cell * cell_stride;
    for (const int32_t end = y * width + bin.columns.hi; cell < end; ++cell, from += cell_stride) {
      const auto vector = load<scalar_t, kVectorSize>(from);
      for (int i = 0; i < kVectorSize; ++i) {
        const wide_t<scalar_t> value = vector.values[i];
        if (replaces(value, best[i])) {
          best[i] = value;
          maxima.values.values[i] = vector.values[i];  // the bits of a NaN would not survive the way there and back
          maxima.argmax.values[i] = cell;
        }
      }
    }
  }
  return maxima;
}

// Pools contiguous maps: a position of the tiling is a bin, a run a channel. argmax is written only where kArgmax.
//
//   output, argmax  [K, C, PH, PW], contiguous
template <bool kPyramid, bool kArgmax, typename scalar_t>
__global__ void __launch_bounds__(kThreads, kDirectForwardBlocks)
    forward_contiguous_kernel(const RoIPoolProblem problem, const Tiling tiling, const Divider pooled_width,
                              scalar_t* output, int32_t* argmax) {
  for_each_tile(tiling, [&](const Tile& tile) {
    if (tile.run >= tile.end_run) {
      return;
    }
    const FeatureMaps& maps = maps_of_region<kPyramid>(problem, tile.k);
    const CellRectangle bin = place_bin(problem, maps, pooled_width, tile.k, tile.position);
    const int64_t image = bin.empty() ? 0 : problem.image_of_region(tile.k);
    const scalar_t* map = static_cast<const scalar_t*>(maps.input) + image * maps.image_stride;
    for (int64_t c = tile.run; c < tile.end_run; c += tiling.runs_at_once) {
      const auto maxima = pool_cells<1>(maps, map + c * maps.channel_stride, 1, bin);
      const int64_t to = tile.k * problem.output_region_stride + c * problem.output_channel_stride + tile.position;
      output[to] = maxima.values.values[0];
      if (kArgmax) {
        argmax[to] = maxima.argmax.values[0];
      }
    }
  });
}

// Pools channels_last maps: a position of the tiling is a vector of channels, a run a bin. argmax is written only where
// kArgmax.
//
//   output, argmax  [K, C, PH, PW], channels_last
template <bool kPyramid, bool kArgmax, int kVectorSize, typename scalar_t>
__global__ void __launch_bounds__(kThreads, kDirectForwardBlocks)
    forward_channels_last_kernel(const RoIPoolProblem problem, const Tiling tiling, const Divider pooled_width,
                                 scalar_t* output, int32_t* argmax) {
  CellRectangle* bins = reinterpret_cast<CellRectangle*>(shared_memory);  // [runs_per_block]
  for_each_tile(tiling, [&](const Tile& tile) {
    const FeatureMaps& maps = maps_of_region<kPyramid>(problem, tile.k);
    for (int64_t bin_index = tile.first_run + threadIdx.x; bin_index < tile.end_run; bin_index += blockDim.x) {
      bins[bin_index - tile.first_run] = place_bin(problem, maps, pooled_width, tile.k, bin_index);
    }
    __syncthreads();
    const int64_t image = problem.image_of_region(tile.k);
    const scalar_t* map = static_cast<const scalar_t*>(maps.input) + (image < 0 ? 0 : image) * maps.image_stride +
                          tile.position * kVectorSize;
    for (int64_t bin_index = tile.run; bin_index < tile.end_run; bin_index += tiling.runs_at_once) {
      const auto maxima = pool_cells<kVectorSize>(maps, map, maps.cell_stride, bins[bin_index - tile.first_run]);
      const int64_t to =
          tile.k * problem.output_region_stride + bin_index * problem.output_bin_stride + tile.position * kVectorSize;
      store(maxima.values, output + to);
      if (kArgmax) {
        store(maxima.argmax, argmax + to);
      }
    }
    __syncthreads();  // before the bins of the next tile replace these
  });
}

}  // namespace roipool::cuda
