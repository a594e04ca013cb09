#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace roipool::cuda {

// Adjacent elements that a thread reads or writes at once.
template <typename T, int kSize>
struct alignas(sizeof(T) * kSize < 16 ? sizeof(T) * kSize : 16) Pack {
  T values[kSize];
};

template <typename T, int kSize>
__device__ Pack<T, kSize> load(const T* from) {
  return *reinterpret_cast<const Pack<T, kSize>*>(from);
}

// By the intrinsic, since the compiler takes a store of a struct apart.
template <typename T, int kSize>
__device__ void store(const Pack<T, kSize>& pack, T* to) {
  if constexpr (kSize == 1) {
    *to = pack.values[0];
  } else {
    using Word = std::conditional_t<sizeof(pack) % 16 == 0, uint4, uint2>;
    static_assert(sizeof(pack) % sizeof(Word) == 0);
    Word words[sizeof(pack) / sizeof(Word)];
    memcpy(words, &pack, sizeof(pack));
    for (size_t i = 0; i < sizeof(pack) / sizeof(Word); ++i) {
      __stwb(reinterpret_cast<Word*>(to) + i, words[i]);
    }
  }
}

}  // namespace roipool::cuda
