#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "cpu/simd/loops.h"

namespace roipool::cpu {

// Copies past the caches, so that the lines that are written need not be read first. Other threads see it after a
// fence.
inline void stream(const char* from, int64_t size, char* to) {
#if defined(__x86_64__)
  constexpr int64_t kVector = sizeof(__m128i);
  int64_t i = std::min<int64_t>(size, -reinterpret_cast<uintptr_t>(to) % kVector);
  std::memcpy(to, from, i);
  for (; i + kVector <= size; i += kVector) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
  }
  std::memcpy(to + i, from + i, size - i);
#else
  std::memcpy(to, from, size);
#endif
}

inline void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// A tile is unpacked in short rows here and there, which is put together in the first-level cache while it is little
// enough for it. From there it leaves
//
//   contiguous     in one piece, as the channels of a region lie side by side
//   channels_last  by a run for each bin, past the caches where the result is too large for them: such runs are too
//                  short, and too far apart, for the processor to fetch the next ones in time
class Staging {
 public:
  explicit Staging(int64_t result_bytes) : streams_(result_bytes >= kStreamedBytes) {}
  ~Staging() { fence(); }

  // unpack(planes, target) unpacks a tile to a target of these planes.
  template <typename T, typename Unpack>
  void write(const Planes& planes, T* output, const Unpack& unpack) {
    const bool channels_last = planes.channel_stride == 1;
    const int64_t size = planes.channels * planes.positions * sizeof(T);
    if (size > static_cast<int64_t>(sizeof buffer_) || (channels_last && !streams_)) {
      unpack(planes, output);
      return;
    }
    Planes staged = planes;
    staged.position_stride = channels_last ? planes.channels : 1;
    unpack(staged, reinterpret_cast<T*>(buffer_));
    if (!channels_last) {
      std::memcpy(output, buffer_, size);
      return;
    }
    const int64_t run = planes.channels * sizeof(T);
    for (int64_t i = 0; i < planes.positions; ++i) {
      stream(buffer_ + i * run, run, reinterpret_cast<char*>(output + i * planes.position_stride));
    }
  }

 private:
  static constexpr int64_t kStreamedBytes = 4 << 20;

  const bool streams_;
  alignas(64) char buffer_[16384];
};

}  // namespace roipool::cpu
