// Handles vectors of one register, and transposes squares of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "host_device.h"

// Vectors are passed by value only to functions that are inlined, so that no calling convention matters.
#pragma GCC diagnostic ignored "-Wpsabi"

// Unrolls a loop, which keeps arrays of vectors in registers. Clang knows it, too.
#define ROIPOOL_UNROLL _Pragma("GCC unroll 64")

namespace roipool::cpu::simd {
namespace {

constexpr int64_t kVectorBytes = ROIPOOL_VECTOR_BYTES;

template <typename T, int64_t kCount>
struct VectorOf {
  typedef T type __attribute__((vector_size(kCount * sizeof(T))));
};

template <typename T, int64_t kCount>
using Vector = typename VectorOf<T, kCount>::type;

// Counts the lanes of a register.
template <typename T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));

template <typename V, typename T>
ROIPOOL_ALWAYS_INLINE V load(const T* from) {
  V vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

// Loads `count` lanes, where that is less than a register has; the others are 0.
template <typename V, typename T>
ROIPOOL_ALWAYS_INLINE V load_some(const T* from, int64_t count) {
  V vector{};
  if (count >= static_cast<int64_t>(sizeof vector / sizeof(T))) {
    vector = load<V>(from);
  } else if (count > 0) {
    __builtin_memcpy(&vector, from, count * sizeof(T));
  }
  return vector;
}

template <typename V, typename T>
ROIPOOL_ALWAYS_INLINE void store(const V& vector, T* to) {
  __builtin_memcpy(to, &vector, sizeof vector);
}

// Returns whether any lane of a comparison's result is set.
template <typename Mask>
ROIPOOL_ALWAYS_INLINE bool any_lane(Mask mask) {
  bool any = false;
  ROIPOOL_UNROLL
  for (size_t i = 0; i < sizeof mask / sizeof mask[0]; ++i) {
    any |= mask[i] != 0;
  }
  return any;
}

ROIPOOL_ALWAYS_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
ROIPOOL_ALWAYS_INLINE int64_t max(int64_t a, int64_t b) { return a < b ? b : a; }

// Interleaves the lower or the upper halves of two vectors.
template <bool kUpperHalf, typename V, size_t... kLane>
ROIPOOL_ALWAYS_INLINE V zip(V a, V b, std::index_sequence<kLane...>) {
  constexpr size_t n = sizeof...(kLane);
  constexpr size_t first = kUpperHalf ? n / 2 : 0;
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (first + kLane / 2 + (kLane % 2) * n)...);
#else
  return __builtin_shuffle(a, b, decltype(a == b){(first + kLane / 2 + (kLane % 2) * n)...});
#endif
}

// Transposes N x N lanes, N those of a register, in log2(N) rounds that zip vector i with vector i + N/2.
template <int64_t kCount, typename V>
ROIPOOL_ALWAYS_INLINE void transpose(V (&rows)[kCount]) {
  constexpr auto kAllLanes = std::make_index_sequence<kCount>{};
  V zipped[kCount];
  ROIPOOL_UNROLL
  for (int64_t round = 1; round < kCount; round *= 2) {
    ROIPOOL_UNROLL
    for (int64_t i = 0; i < kCount / 2; ++i) {
      zipped[2 * i] = zip<false>(rows[i], rows[i + kCount / 2], kAllLanes);
      zipped[2 * i + 1] = zip<true>(rows[i], rows[i + kCount / 2], kAllLanes);
    }
    ROIPOOL_UNROLL
    for (int64_t i = 0; i < kCount; ++i) {
      rows[i] = zipped[i];
    }
  }
}

// Transposes a square in memory, of which only the first num_rows rows are read.
template <typename T>
ROIPOOL_ALWAYS_INLINE void transpose_square(const T* from, int64_t from_stride, T* to, int64_t to_stride,
                                            int64_t num_rows) {
  constexpr int64_t kCount = kLanes<T>;
  using V = Vector<T, kCount>;
  V rows[kCount];
  ROIPOOL_UNROLL
  for (int64_t i = 0; i < kCount; ++i) {
    rows[i] = load<V>(from + min(i, num_rows - 1) * from_stride);
  }
  transpose(rows);
  ROIPOOL_UNROLL
  for (int64_t i = 0; i < kCount; ++i) {
    store(rows[i], to + i * to_stride);
  }
}

}  // namespace
}  // namespace roipool::cpu::simd
