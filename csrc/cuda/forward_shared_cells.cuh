// Keeps the cells of a channel group in shared memory. The functions are for whole blocks: all threads call them.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "cuda/aligned_vector.cuh"
#include "cuda/launch.cuh"
#include "problem.h"

namespace roipool::cuda {

// Copies the planes of a channel group, side by side; channels beyond the last of the problem become 0. `map` points to
// the first channel of the group, which has num_channels.
//
// Returns whether this thread met a cell that only replaces() knows how to compare: a NaN or, where squares of cells
// may be merged, a negative zero. The order in which maxima of other cells are taken does not show in their values.
template <bool kArgmax, int kVectorSize, typename scalar_t>
__device__ bool copy_planes(const FeatureMaps& maps, bool is_channels_last, const scalar_t* map, int64_t num_channels,
                            AlignedVector<scalar_t, kVectorSize>* cells) {
  const auto num_cells = static_cast<int32_t>(maps.num_cells());
  bool needs_rule = false;
  ROIPOOL_UNROLL_BY(4)
  for (int32_t i = threadIdx.x; i < num_cells; i += blockDim.x) {
    AlignedVector<scalar_t, kVectorSize> cell{};
    if (is_channels_last) {
      cell = load<scalar_t, kVectorSize>(map + i * maps.cell_stride);
    } else {
      for (int c = 0; c < kVectorSize; ++c) {
        if (c < num_channels) {
          cell.values[c] = map[c * maps.channel_stride + i];
        }
      }
    }
    for (int c = 0; c < kVectorSize; ++c) {
      const wide_t<scalar_t> value = cell.values[c];
      needs_rule = needs_rule || value != value || (!kArgmax && value == 0 && std::signbit(value));
    }
    cells[i] = cell;
  }
  return needs_rule;
}

// Merges each four squares of cells to one of twice the side. A cell holds the maxima of the square whose first cell it
// is:
//
//     <- side ->
//     +--------+--------+
//     | i      | i+side |    afterwards, cell i holds the maxima of all four
//     |        |        |
//     +--------+--------+
//     | i+side*width    |
//     |        |        |
//     +--------+--------+
//
// Cells so far right or down that the four squares do not fit get what nobody asks for.
template <int kVectorSize, typename scalar_t>
__device__ void merge_squares(AlignedVector<scalar_t, kVectorSize>* cells, int32_t num_cells, int32_t width,
                              int32_t side) {
  for (int32_t first = 0; first < num_cells; first += blockDim.x) {
    const int32_t i = first + threadIdx.x;
    wide_t<scalar_t> best[kVectorSize];
    for (int c = 0; c < kVectorSize; ++c) {
      best[c] = -INFINITY;
    }
    for (const int32_t from : {i, i + side, i + side * width, i + side * width + side}) {
      const AlignedVector<scalar_t, kVectorSize> cell = cells[from < num_cells ? from : num_cells - 1];
      for (int c = 0; c < kVectorSize; ++c) {
        best[c] = std::fmax(best[c], static_cast<wide_t<scalar_t>>(cell.values[c]));
      }
    }
    __syncthreads();  // these cells are read by others; those before them no more
    if (i < num_cells) {
      AlignedVector<scalar_t, kVectorSize> merged;
      for (int c = 0; c < kVectorSize; ++c) {
        merged.values[c] = static_cast<scalar_t>(best[c]);
      }
      cells[i] = merged;
    }
  }
  __syncthreads();
}

}  // namespace roipool::cuda
