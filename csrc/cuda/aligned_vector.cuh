// Reads and writes adjacent elements at once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/device_limits.h"

namespace roipool::cuda {

template <typename T, int kVectorSize>
struct alignas(sizeof(T) * kVectorSize < kVectorBytes ? sizeof(T) * kVectorSize : kVectorBytes) AlignedVector {
  T values[kVectorSize];
};

template <typename T, int kVectorSize>
__device__ AlignedVector<T, kVectorSize> load(const T* from) {
  return *reinterpret_cast<const AlignedVector<T, kVectorSize>*>(from);
}

// Stores by the intrinsic, since the compiler takes a store of a struct apart.
template <typename T, int kVectorSize>
__device__ void store(const AlignedVector<T, kVectorSize>& vector, T* to) {
  if constexpr (kVectorSize == 1) {
    *to = vector.values[0];
  } else {
    using Word = std::conditional_t<sizeof(vector) % 16 == 0, uint4, uint2>;
    static_assert(sizeof(vector) % sizeof(Word) == 0);
    Word words[sizeof(vector) / sizeof(Word)];
    memcpy(words, &vector, sizeof(vector));
    for (size_t i = 0; i < sizeof(vector) / sizeof(Word); ++i) {
      __stwb(reinterpret_cast<Word*>(to) + i, words[i]);
    }
  }
}

}  // namespace roipool::cuda
