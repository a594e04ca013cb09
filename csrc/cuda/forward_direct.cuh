#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/aligned_vector.cuh"
#include "cuda/launch.cuh"
#include "cuda/regions.cuh"
#include "cuda/tiling.cuh"
#include "problem.h"

namespace roipool::cuda {

// At once on a multiprocessor, at least. Left to itself, the compiler aims at more, and spills registers.
constexpr int kForwardBlocks = 3;

// The maxima of a bin in kSize adjacent channels, and the cells that they lie in.
template <typename scalar_t, int kSize>
struct Maxima {
  Pack<scalar_t, kSize> values{};
  Pack<int32_t, kSize> cells;

  __device__ Maxima() {
    for (int i = 0; i < kSize; ++i) {
      cells.values[i] = -1;
    }
  }
};

// map: the first of the channels, in the image of the region
template <int kSize, typename scalar_t>
__device__ Maxima<scalar_t, kSize> pool_bin(const FeatureMaps& maps, const scalar_t* map, int64_t cell_stride,
                                            const Bin& bin) {
  Maxima<scalar_t, kSize> maxima;
  if (bin.empty()) {
    return maxima;
  }
  const auto width = static_cast<int32_t>(maps.width);
  const int32_t first = bin.row.lo * width + bin.column.lo;
  maxima.values = load<scalar_t, kSize>(map + first * cell_stride);
  wide_t<scalar_t> best[kSize];
  for (int i = 0; i < kSize; ++i) {
    best[i] = maxima.values.values[i];
    maxima.cells.values[i] = first;
  }
  for (int32_t y = bin.row.lo; y < bin.row.hi; ++y) {
    int32_t cell = y * width + bin.column.lo;
    const scalar_t* from = map + cell * cell_stride;
    for (const int32_t end = y * width + bin.column.hi; cell < end; ++cell, from += cell_stride) {
      const Pack<scalar_t, kSize> pack = load<scalar_t, kSize>(from);
      for (int i = 0; i < kSize; ++i) {
        const wide_t<scalar_t> value = pack.values[i];
        if (value > best[i] || value != value) {
          best[i] = value;
          maxima.values.values[i] = pack.values[i];  // the bits of a NaN would not survive the way there and back
          maxima.cells.values[i] = cell;
        }
      }
    }
  }
  return maxima;
}

// output, argmax: [K, C, PH, PW], contiguous; argmax only where kArgmax. A position is a bin, a run a channel.
template <bool kPyramid, bool kArgmax, typename scalar_t>
__global__ void __launch_bounds__(kThreads, kForwardBlocks)
    pool_contiguous(const RoIPoolProblem problem, const Tiling tiling, const Divider pooled_width, scalar_t* output,
                    int32_t* argmax) {
  for_each_tile(tiling, [&](const Tile& tile) {
    if (tile.run >= tile.end_run) {
      return;
    }
    const FeatureMaps& maps = maps_of_region<kPyramid>(problem, tile.k);
    const Bin bin = locate_bin(problem, maps, pooled_width, tile.k, tile.position);
    const int64_t image = bin.empty() ? 0 : problem.image_of_region(tile.k);
    const scalar_t* map = static_cast<const scalar_t*>(maps.input) + image * maps.image_stride;
    for (int64_t c = tile.run; c < tile.end_run; c += tiling.runs_at_once) {
      const auto maxima = pool_bin<1>(maps, map + c * maps.channel_stride, 1, bin);
      const int64_t to = tile.k * problem.output_region_stride + c * problem.output_channel_stride + tile.position;
      output[to] = maxima.values.values[0];
      if (kArgmax) {
        argmax[to] = maxima.cells.values[0];
      }
    }
  });
}

// output, argmax: [K, C, PH, PW], channels_last; argmax only where kArgmax. A position is kSize channels, a run a bin.
template <bool kPyramid, bool kArgmax, int kSize, typename scalar_t>
__global__ void __launch_bounds__(kThreads, kForwardBlocks)
    pool_channels_last(const RoIPoolProblem problem, const Tiling tiling, const Divider pooled_width, scalar_t* output,
                       int32_t* argmax) {
  Bin* bins = reinterpret_cast<Bin*>(shared_memory);  // [runs_per_block]
  for_each_tile(tiling, [&](const Tile& tile) {
    const FeatureMaps& maps = maps_of_region<kPyramid>(problem, tile.k);
    for (int64_t bin = tile.first_run + threadIdx.x; bin < tile.end_run; bin += blockDim.x) {
      bins[bin - tile.first_run] = locate_bin(problem, maps, pooled_width, tile.k, bin);
    }
    __syncthreads();
    const int64_t image = problem.image_of_region(tile.k);
    const scalar_t* map =
        static_cast<const scalar_t*>(maps.input) + (image < 0 ? 0 : image) * maps.image_stride + tile.position * kSize;
    for (int64_t bin = tile.run; bin < tile.end_run; bin += tiling.runs_at_once) {
      const auto maxima = pool_bin<kSize>(maps, map, maps.cell_stride, bins[bin - tile.first_run]);
      const int64_t to =
          tile.k * problem.output_region_stride + bin * problem.output_bin_stride + tile.position * kSize;
      store(maxima.values, output + to);
      if (kArgmax) {
        store(maxima.cells, argmax + to);
      }
    }
    __syncthreads();  // before the bins of the next tile replace these
  });
}

}  // namespace roipool::cuda
