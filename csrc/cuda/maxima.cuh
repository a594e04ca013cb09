// Holds what a forward finds for a bin.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/aligned_vector.cuh"

namespace roipool::cuda {

// Holds the maxima of a bin in adjacent channels, and the cells that they lie in; those of an empty bin at first.
template <typename scalar_t, int kVectorSize>
struct Maxima {
  AlignedVector<scalar_t, kVectorSize> values{};
  AlignedVector<int32_t, kVectorSize> argmax;

  __device__ Maxima() {
    for (int i = 0; i < kVectorSize; ++i) {
      argmax.values[i] = -1;
    }
  }
};

}  // namespace roipool::cuda
