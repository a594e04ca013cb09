// Writes results that are too large for the caches past them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "cpu/forward.h"
#include "cpu/scratch.h"
#include "cpu/simd/loops.h"

namespace roipool::cpu {

constexpr int64_t kLineBytes = 64;  // of cache

// Copies past the caches what fills whole lines, so that these need not be read first. Other threads see it after a
// fence.
inline void stream(const char* from, int64_t num_bytes, char* to) {
#if defined(__x86_64__)
  const int64_t head = std::min<int64_t>(num_bytes, -reinterpret_cast<uintptr_t>(to) % kLineBytes);
  const int64_t tail = head + (num_bytes - head) / kLineBytes * kLineBytes;
  std::memcpy(to, from, head);
  for (int64_t i = head; i < tail; i += static_cast<int64_t>(sizeof(__m128i))) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
  }
  std::memcpy(to + tail, from + tail, num_bytes - tail);
#else
  std::memcpy(to, from, num_bytes);
#endif
}

inline void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Unpacks pooled groups to a result. Those of a large result are put together in a cache, and leave it in runs of whole
// lines past the caches: a group's channels, where a bin's lie side by side, or a whole group. The processor does not
// fetch in time the lines that are about to be written, as one group lies far from the next.
class StreamingWriter {
 public:
  explicit StreamingWriter(int64_t result_bytes)
      : streams_(streams_past_caches(result_bytes)), buffer_(streams_ ? kBufferBytes : 0) {}
  ~StreamingWriter() { fence(); }

  // Writes a pooled group to `output`, whose layout is `matrix`. unpack(layout, destination) unpacks it, to there or to
  // a buffer.
  template <typename T, typename Unpack>
  void write(const simd::StridedMatrix& matrix, T* output, const Unpack& unpack) {
    constexpr auto kElementBytes = static_cast<int64_t>(sizeof(T));
    const int64_t group_bytes = matrix.num_channels * matrix.num_positions * kElementBytes;
    if (!streams_ || group_bytes > kBufferBytes) {
      unpack(matrix, output);
    } else if (matrix.channel_stride > 1) {
      unpack(matrix, reinterpret_cast<T*>(buffer_.get()));
      stream(buffer_.get(), group_bytes, reinterpret_cast<char*>(output));
    } else if (fills_lines(matrix.num_channels * kElementBytes) &&
               fills_lines(matrix.position_stride * kElementBytes)) {
      simd::StridedMatrix buffered = matrix;
      buffered.position_stride = matrix.num_channels;
      unpack(buffered, reinterpret_cast<T*>(buffer_.get()));
      const int64_t run_bytes = matrix.num_channels * kElementBytes;
      for (int64_t i = 0; i < matrix.num_positions; ++i) {
        stream(buffer_.get() + i * run_bytes, run_bytes, reinterpret_cast<char*>(output + i * matrix.position_stride));
      }
    } else {
      unpack(matrix, output);
    }
  }

 private:
  static constexpr int64_t kBufferBytes = 64 << 10;

  static bool fills_lines(int64_t num_bytes) { return num_bytes % kLineBytes == 0; }

  const bool streams_;
  const Scratch<char> buffer_;
};

}  // namespace roipool::cpu
