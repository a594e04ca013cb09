// Pools a bin cell by cell, by the rule itself.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "cuda/aligned_vector.cuh"
#include "geometry.h"
#include "problem.h"

namespace roipool::cuda {

// Holds the maxima of a bin in adjacent channels, and the cells that they lie in.
template <typename scalar_t, int kVectorSize>
struct Maxima {
  AlignedVector<scalar_t, kVectorSize> values;
  AlignedVector<int32_t, kVectorSize> argmax;
};

// Pools the cells of a bin. `map` points to the first of the vector's channels, in the image of the region.
template <int kVectorSize, typename scalar_t>
__device__ Maxima<scalar_t, kVectorSize> pool_cells(const scalar_t* map, int32_t width, int64_t cell_stride,
                                                    const CellRectangle& bin) {
  Maxima<scalar_t, kVectorSize> maxima;
  const bool is_empty = bin.empty();
  wide_t<scalar_t> best[kVectorSize];
  for (int i = 0; i < kVectorSize; ++i) {
    best[i] = is_empty ? 0 : -INFINITY;
    maxima.argmax.values[i] = is_empty ? -1 : bin.rows.lo * width + bin.columns.lo;
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
          maxima.argmax.values[i] = cell;
        }
      }
    }
  }
  for (int i = 0; i < kVectorSize; ++i) {
    maxima.values.values[i] = static_cast<scalar_t>(best[i]);
    if (best[i] != best[i]) {  // the bits of a NaN do not survive the way to wide_t and back
      maxima.values.values[i] = map[maxima.argmax.values[i] * cell_stride + i];
    }
  }
  return maxima;
}

}  // namespace roipool::cuda
