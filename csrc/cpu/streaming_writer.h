// Writes results that are too large for the caches past them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "cpu/forward.h"
#include "cpu/simd/loops.h"

namespace roipool::cpu {

// Copies whole lines of cache past the caches, so that the lines that are written need not be read first. Other threads
// see it after a fence.
inline void stream(const char* from, int64_t num_bytes, char* to) {
#if defined(__x86_64__)
  for (int64_t i = 0; i < num_bytes; i += static_cast<int64_t>(sizeof(__m128i))) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
  }
#else
  std::memcpy(to, from, num_bytes);
#endif
}

inline void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Unpacks pooled groups to a result. Those of large channels_last results are put together in the first-level cache,
// and leave it by a run for each bin, past the caches: such runs are too short, and too far apart, for the processor to
// fetch the next ones in time. Others are unpacked to where they belong.
class StreamingWriter {
 public:
  explicit StreamingWriter(int64_t result_bytes) : streams_(streams_past_caches(result_bytes)) {}
  ~StreamingWriter() { fence(); }

  // Writes a pooled group to `output`, whose layout is `matrix`. unpack(layout, destination) unpacks it, to there or to
  // a buffer.
  template <typename T, typename Unpack>
  void write(const simd::StridedMatrix& matrix, T* output, const Unpack& unpack) {
    const bool channels_last = matrix.channel_stride == 1;
    const int64_t run_bytes = matrix.num_channels * static_cast<int64_t>(sizeof(T));
    const bool whole_lines = run_bytes % kLineBytes == 0 && reinterpret_cast<uintptr_t>(output) % kLineBytes == 0 &&
                             matrix.position_stride * static_cast<int64_t>(sizeof(T)) % kLineBytes == 0;
    if (!streams_ || !channels_last || !whole_lines || run_bytes * matrix.num_positions > kBufferBytes) {
      unpack(matrix, output);
      return;
    }
    simd::StridedMatrix buffered = matrix;
    buffered.position_stride = matrix.num_channels;
    unpack(buffered, reinterpret_cast<T*>(buffer_));
    for (int64_t i = 0; i < matrix.num_positions; ++i) {
      stream(buffer_ + i * run_bytes, run_bytes, reinterpret_cast<char*>(output + i * matrix.position_stride));
    }
  }

 private:
  static constexpr int64_t kBufferBytes = 16 << 10;
  static constexpr int64_t kLineBytes = 64;  // of cache: a part of one takes longer to write past it than through it

  const bool streams_;
  alignas(64) char buffer_[kBufferBytes];
};

}  // namespace roipool::cpu
