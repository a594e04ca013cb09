#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"

namespace roipool {
namespace {

template <typename Kind>
Contents pack(const typename Kind::lane_t* map, const Planes& planes, typename Kind::lane_t* block) {
  using lane_t = typename Kind::lane_t;
  constexpr int64_t kCount = kLanes<lane_t>;
  const int64_t pitch = InnerLoops<Kind>::padded(planes.channels);
  using V = Vector<lane_t, kCount>;
  decltype(is_special<Kind>(V{})) special{};
  decltype(is_negative_zero<Kind>(V{})) negative_zero{};

  if (planes.channel_stride == 1) {
    for (int64_t cell = 0; cell < planes.positions; ++cell) {
      const lane_t* from = map + cell * planes.position_stride;
      for (int64_t c = 0; c < pitch; c += kCount) {
        const V lanes = swap_order<Kind>(load_some<V>(from + c, planes.channels - c));
        special |= is_special<Kind>(lanes);
        negative_zero |= is_negative_zero<Kind>(lanes);
        store(lanes, block + cell * pitch + c);
      }
    }
  } else {
    for (int64_t c = 0; c < pitch; c += kCount) {
      for (int64_t cell = 0; cell < planes.positions; cell += kCount) {
        // The last square overlaps the one before it; on a map of fewer cells than lanes it is filled cell by cell.
        const int64_t first = planes.positions < kCount          ? 0
                              : cell + kCount > planes.positions ? planes.positions - kCount
                                                                 : cell;
        V rows[kCount];
        ROIPOOL_UNROLL
        for (int64_t i = 0; i < kCount; ++i) {
          const int64_t channel = c + i < planes.channels ? c + i : planes.channels - 1;  // the last fills the block up
          const lane_t* from = map + channel * planes.channel_stride + first;
          rows[i] = swap_order<Kind>(load_some<V>(from, planes.positions));
          special |= is_special<Kind>(rows[i]);
          negative_zero |= is_negative_zero<Kind>(rows[i]);
        }
        transpose(rows);
        ROIPOOL_UNROLL
        for (int64_t i = 0; i < kCount; ++i) {
          if (i < planes.positions) {
            store(rows[i], block + (first + i) * pitch + c);
          }
        }
      }
    }
  }
  Contents contents{true, true};
  for (int64_t i = 0; i < kCount; ++i) {
    contents.plain &= special[i] == 0;
    contents.orderless &= special[i] == 0 && negative_zero[i] == 0;
  }
  return contents;
}

template <typename Kind>
void raise(typename Kind::lane_t* block, int64_t channels, int64_t height, int64_t width, int64_t reach, int64_t first,
           int64_t last) {
  constexpr int64_t kCount = kLanes<typename Kind::lane_t>;
  using V = Vector<typename Kind::lane_t, kCount>;
  const int64_t pitch = InnerLoops<Kind>::padded(channels);
  const int64_t below = reach / 2 * width * pitch;
  for (int64_t y = 0; y + reach <= height; ++y) {  // downwards: what is read below is not yet raised
    typename Kind::lane_t* row = block + y * width * pitch;
    for (int64_t i = first * pitch; i < last * pitch; i += kCount) {
      const V upper = load<V>(row + i);
      const V lower = load<V>(row + below + i);
      store(lower > upper ? lower : upper, row + i);
    }
  }
}

}  // namespace
}  // namespace roipool
