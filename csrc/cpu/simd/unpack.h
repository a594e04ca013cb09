#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"

namespace roipool {
namespace {

// Transposes a square of a tile, `bins` x `channels` of it, to an output. kWhole: they are as many as a register has
// lanes, so that there is nothing to ask for each of them.
template <bool kWhole, typename lane_t, typename out_t, typename Convert>
ROIPOOL_INLINE void unpack_square(const lane_t* tile, int64_t bins, int64_t channels, int64_t channel_stride,
                                  out_t* output, const Convert& convert) {
  constexpr int64_t kCount = kLanes<lane_t>;
  constexpr int64_t kBlock = kBlockBytes / sizeof(lane_t);
  using V = Vector<lane_t, kCount>;
  V rows[kCount];
  ROIPOOL_UNROLL
  for (int64_t i = 0; i < kCount; ++i) {
    rows[i] = load<V>(tile + (kWhole ? i : min(i, bins - 1)) * kBlock);
  }
  transpose(rows);
  ROIPOOL_UNROLL
  for (int64_t i = 0; i < kCount; ++i) {
    if (kWhole || i < channels) {
      const auto converted = convert(rows[i]);
      __builtin_memcpy(output + i * channel_stride, &converted, kWhole ? sizeof converted : bins * sizeof(out_t));
    }
  }
}

// Copies the channels of a tile to an output, each vector of lanes by way of convert(lanes, bin), which makes a vector
// of as many out_t. bin is that of all lanes where the output is channels_last, else that of the first lane, the others
// having those that follow.
template <bool kChannelsLast, typename lane_t, typename out_t, typename Convert>
ROIPOOL_INLINE void unpack_tile(const lane_t* tile, const Planes& planes, out_t* output, const Convert& convert) {
  constexpr int64_t kCount = kLanes<lane_t>;
  constexpr int64_t kBlock = kBlockBytes / sizeof(lane_t);
  using V = Vector<lane_t, kCount>;
  if constexpr (kChannelsLast) {
    for (int64_t bin = 0; bin < planes.positions; ++bin) {
      for (int64_t c = 0; c < planes.channels; c += kCount) {
        const auto converted = convert(load<V>(tile + bin * kBlock + c), bin);
        out_t* to = output + bin * planes.position_stride + c;
        if (c + kCount <= planes.channels) {
          __builtin_memcpy(to, &converted, sizeof converted);
        } else {
          __builtin_memcpy(to, &converted, (planes.channels - c) * sizeof(out_t));
        }
      }
    }
  } else {
    const int64_t bins = min(kCount, planes.positions);
    for (int64_t c = 0; c < planes.channels; c += kCount) {
      const int64_t channels = min(kCount, planes.channels - c);
      for (int64_t bin = 0; bin < planes.positions; bin += kCount) {
        const int64_t first = min(bin, planes.positions - bins);  // the last square overlaps the one before it
        const lane_t* square = tile + first * kBlock + c;
        out_t* to = output + c * planes.channel_stride + first;
        const auto convert_here = [&](V lanes) __attribute__((always_inline)) { return convert(lanes, first); };
        if (bins == kCount && channels == kCount) {
          unpack_square<true>(square, bins, channels, planes.channel_stride, to, convert_here);
        } else {
          unpack_square<false>(square, bins, channels, planes.channel_stride, to, convert_here);
        }
      }
    }
  }
}

template <typename Kind>
void unpack_values(const typename Kind::lane_t* tile, const Planes& planes, typename Kind::lane_t* output) {
  const auto convert = [](auto lanes, int64_t) { return swap_order<Kind>(lanes); };
  if (planes.channel_stride == 1) {
    unpack_tile<true>(tile, planes, output, convert);
  } else {
    unpack_tile<false>(tile, planes, output, convert);
  }
}

// first_cells  [PH*PW], and as many more as a register has lanes: the cell that each bin counts from
template <typename Kind>
void unpack_cells(const typename Kind::cell_t* tile, const int32_t* first_cells, const Planes& planes,
                  int32_t* argmax) {
  using I = Vector<int32_t, kLanes<typename Kind::cell_t>>;
  if (planes.channel_stride == 1) {
    unpack_tile<true>(tile, planes, argmax, [first_cells](auto cells, int64_t bin) __attribute__((always_inline)) {
      return __builtin_convertvector(cells, I) + first_cells[bin];
    });
  } else {
    unpack_tile<false>(tile, planes, argmax, [first_cells](auto cells, int64_t bin) __attribute__((always_inline)) {
      return __builtin_convertvector(cells, I) + load<I>(first_cells + bin);
    });
  }
}

}  // namespace
}  // namespace roipool
