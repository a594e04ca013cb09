// Copies pooled groups [bins][kGroupChannels] to outputs.
#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"

namespace roipool::cpu::simd {
namespace {

// Counts the lanes of a bin in a pooled group.
template <typename lane_t>
constexpr int64_t kBinLanes = kGroupBytes / sizeof(lane_t);

// Stores the first `count` lanes of a vector. Stores all where so much of `writable` is left: what lies beyond is
// written later.
template <typename V, typename T>
ROIPOOL_ALWAYS_INLINE void store_some(const V& vector, T* to, int64_t count, int64_t writable) {
  if (writable >= static_cast<int64_t>(sizeof vector / sizeof(T))) {
    store(vector, to);
  } else {
    __builtin_memcpy(to, &vector, count * sizeof(T));
  }
}

// Transposes a square of a pooled group, num_bins x num_channels of it, to an output. kWhole says that both are the
// lanes of a register, so that nothing is asked for each of them; else `writable` elements may be written to.
template <bool kWhole, typename lane_t, typename out_t, typename Convert>
ROIPOOL_ALWAYS_INLINE void unpack_square(const lane_t* pooled, int64_t num_bins, int64_t num_channels,
                                         int64_t channel_stride, out_t* output, int64_t writable,
                                         const Convert& convert) {
  constexpr int64_t kCount = kLanes<lane_t>;
  using V = Vector<lane_t, kCount>;
  V rows[kCount];
  ROIPOOL_UNROLL
  for (int64_t i = 0; i < kCount; ++i) {
    rows[i] = load<V>(pooled + (kWhole ? i : min(i, num_bins - 1)) * kBinLanes<lane_t>);
  }
  transpose(rows);
  ROIPOOL_UNROLL
  for (int64_t i = 0; i < kCount; ++i) {
    if (kWhole) {
      store(convert(rows[i]), output + i * channel_stride);
    } else if (i < num_channels) {
      store_some(convert(rows[i]), output + i * channel_stride, num_bins, writable - i * channel_stride);
    }
  }
}

// Copies a pooled group to an output whose channels lie side by side. convert(lanes, bin_index) makes a vector of as
// many out_t.
template <typename lane_t, typename out_t, typename Convert>
ROIPOOL_ALWAYS_INLINE void unpack_channels_last(const lane_t* pooled, const StridedMatrix& matrix, out_t* output,
                                                const Convert& convert) {
  constexpr int64_t kCount = kLanes<lane_t>;
  using V = Vector<lane_t, kCount>;
  // The bins lie side by side where the output has no other channels.
  const bool adjacent_bins = matrix.position_stride == matrix.num_channels;
  for (int64_t bin_index = 0; bin_index < matrix.num_positions; ++bin_index) {
    const lane_t* from = pooled + bin_index * kBinLanes<lane_t>;
    out_t* to = output + bin_index * matrix.position_stride;
    const int64_t writable = (adjacent_bins ? matrix.num_positions - bin_index : 1) * matrix.num_channels;
    for (int64_t c = 0; c < matrix.num_channels; c += kCount) {
      // The last vector overlaps the one before it.
      const int64_t first = max(0, min(c, matrix.num_channels - kCount));
      store_some(convert(load<V>(from + first), bin_index), to + first, matrix.num_channels, writable - first);
    }
  }
}

// Copies a pooled group to an output whose bins lie side by side. convert(lanes, bin_index) makes a vector of as many
// out_t for the bins from bin_index on.
template <typename lane_t, typename out_t, typename Convert>
ROIPOOL_ALWAYS_INLINE void unpack_contiguous(const lane_t* pooled, const StridedMatrix& matrix, out_t* output,
                                             const Convert& convert) {
  constexpr int64_t kCount = kLanes<lane_t>;
  using V = Vector<lane_t, kCount>;
  const int64_t num_bins = min(kCount, matrix.num_positions);
  for (int64_t c = 0; c < matrix.num_channels; c += kCount) {
    const int64_t num_channels = min(kCount, matrix.num_channels - c);
    const int64_t writable = (matrix.num_channels - c) * matrix.channel_stride;
    for (int64_t bin_index = 0; bin_index < matrix.num_positions; bin_index += kCount) {
      // The last square overlaps the one before it.
      const int64_t first = min(bin_index, matrix.num_positions - num_bins);
      const lane_t* square = pooled + first * kBinLanes<lane_t> + c;
      out_t* to = output + c * matrix.channel_stride + first;
      const auto convert_here = [&](V lanes) __attribute__((always_inline)) { return convert(lanes, first); };
      if (num_bins == kCount && num_channels == kCount) {
        unpack_square<true>(square, num_bins, num_channels, matrix.channel_stride, to, 0, convert_here);
      } else {
        unpack_square<false>(square, num_bins, num_channels, matrix.channel_stride, to, writable - first, convert_here);
      }
    }
  }
}

template <typename LaneType>
void unpack_values(const typename LaneType::lane_t* values, const StridedMatrix& matrix,
                   typename LaneType::lane_t* output) {
  const auto convert = [](auto lanes, int64_t) __attribute__((always_inline)) { return swap_order<LaneType>(lanes); };
  if (matrix.channel_stride == 1) {
    unpack_channels_last(values, matrix, output, convert);
  } else {
    unpack_contiguous(values, matrix, output, convert);
  }
}

template <typename LaneType>
void unpack_argmax(const typename LaneType::offset_t* offsets, const int32_t* first_cells, const StridedMatrix& matrix,
                   int32_t* argmax) {
  using I = Vector<int32_t, kLanes<typename LaneType::offset_t>>;
  if (matrix.channel_stride == 1) {
    unpack_channels_last(offsets, matrix, argmax, [=](auto lanes, int64_t bin_index) __attribute__((always_inline)) {
      return __builtin_convertvector(lanes, I) + first_cells[bin_index];
    });
  } else {
    unpack_contiguous(offsets, matrix, argmax, [=](auto lanes, int64_t bin_index) __attribute__((always_inline)) {
      return __builtin_convertvector(lanes, I) + load<I>(first_cells + bin_index);
    });
  }
}

}  // namespace
}  // namespace roipool::cpu::simd
