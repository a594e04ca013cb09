#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/vectors.h"

namespace roipool {
namespace {

// The bits of a half-precision number <-> an integer in the same order: a sign and a magnitude <-> two's complement.
// Its own inverse. -0.0 becomes -1, next below 0.0; NaNs lie beyond the infinities.
template <typename V>
ROIPOOL_INLINE V order_of_bits(V bits) {
  return bits ^ ((bits >> 15) & 0x7fff);
}

// What is in memory <-> what is compared.
template <typename Kind, typename V>
ROIPOOL_INLINE V swap_order(V lanes) {
  if constexpr (sizeof(typename Kind::lane_t) == 2) {
    return order_of_bits(lanes);
  } else {
    return lanes;
  }
}

template <typename Kind, typename V>
ROIPOOL_INLINE auto is_nan(V lanes) {
  if constexpr (sizeof(typename Kind::lane_t) == 2) {
    constexpr int16_t kMinusInfinity = ~Kind::kInfinity;
    return (lanes > Kind::kInfinity) | (lanes < kMinusInfinity);
  } else {
    return lanes != lanes;
  }
}

// The lanes that comparing alone does not settle, see InnerLoops::pack.
template <typename Kind, typename V>
ROIPOOL_INLINE auto is_special(V lanes) {
  if constexpr (sizeof(typename Kind::lane_t) == 2) {
    return is_nan<Kind>(lanes) | (lanes == -1);
  } else {
    return lanes != lanes;
  }
}

// The lanes that compare equal to others of different bits.
template <typename Kind, typename V>
ROIPOOL_INLINE auto is_negative_zero(V lanes) {
  if constexpr (sizeof(typename Kind::lane_t) == 2) {
    return lanes == -1;
  } else {
    using cell_t = typename Kind::cell_t;
    Vector<cell_t, kLanes<typename Kind::lane_t>> bits;
    __builtin_memcpy(&bits, &lanes, sizeof bits);
    constexpr auto kSignBit = static_cast<cell_t>(uint64_t{1} << (8 * sizeof(cell_t) - 1));
    return bits == kSignBit;
  }
}

// Whether a value replaces the best so far: it is greater, or NaN.
template <typename Kind, bool kPlain, typename V>
ROIPOOL_INLINE auto replaces(V value, V best) {
  if constexpr (kPlain) {
    return value > best;
  } else if constexpr (sizeof(typename Kind::lane_t) == 2) {
    // A best that is a negative zero ranks as the other zero, and one that is NaN above all.
    const V best_rank = is_nan<Kind>(best) ? (best & 0) + 0x7fff : best - (best == -1);
    return (value > best_rank) | is_nan<Kind>(value);
  } else {
    return (value > best) | (value != value);
  }
}

}  // namespace
}  // namespace roipool
