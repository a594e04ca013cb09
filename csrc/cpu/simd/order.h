// Compares lanes: NaNs, zeros of both signs, half precision as integers.
#pragma once

#include <cstdint>

#include "cpu/simd/loops.h"
#include "cpu/simd/vectors.h"

namespace roipool::cpu::simd {
namespace {

template <typename LaneType>
constexpr bool kIsHalfPrecision = sizeof(typename LaneType::lane_t) == 2;

// Turns values as they are in memory into lanes in their order, and back. A half-precision number is a sign and a
// magnitude, and becomes two's complement: -0.0 becomes -1, next below 0.0; NaNs lie beyond the infinities.
template <typename LaneType, typename V>
ROIPOOL_ALWAYS_INLINE V swap_order(V lanes) {
  if constexpr (kIsHalfPrecision<LaneType>) {
    return lanes ^ ((lanes >> 15) & 0x7fff);
  } else {
    return lanes;
  }
}

// Finds the lanes that are NaN.
template <typename LaneType, typename V>
ROIPOOL_ALWAYS_INLINE auto is_nan(V lanes) {
  if constexpr (kIsHalfPrecision<LaneType>) {
    constexpr int16_t kMinusInfinity = ~LaneType::kInfinity;
    return (lanes > LaneType::kInfinity) | (lanes < kMinusInfinity);
  } else {
    return lanes != lanes;
  }
}

// Finds the lanes that are -0.0, which equals a number of other bits.
template <typename LaneType, typename V>
ROIPOOL_ALWAYS_INLINE auto is_negative_zero(V lanes) {
  if constexpr (kIsHalfPrecision<LaneType>) {
    return lanes == -1;
  } else {
    using offset_t = typename LaneType::offset_t;
    Vector<offset_t, kLanes<typename LaneType::lane_t>> bits;
    __builtin_memcpy(&bits, &lanes, sizeof bits);
    constexpr auto kSignBit = static_cast<offset_t>(uint64_t{1} << (8 * sizeof(offset_t) - 1));
    return bits == kSignBit;
  }
}

// Returns whether `value > best` alone says which lane replaces another.
template <typename LaneType>
ROIPOOL_ALWAYS_INLINE bool greater_decides(SpecialValues special_values) {
  return kIsHalfPrecision<LaneType> ? !special_values.any() : !special_values.has_nan;
}

// Ranks lanes that may be replaced, so that a lane whose value is greater than a rank replaces the lane of that rank.
// Floats rank as they are. Of half precision, a negative zero ranks as the other zero, and a NaN above all.
template <typename LaneType, bool kGreaterDecides, typename V>
ROIPOOL_ALWAYS_INLINE V rank_of(V best) {
  if constexpr (kIsHalfPrecision<LaneType> && !kGreaterDecides) {
    return is_nan<LaneType>(best) ? (best & 0) + 0x7fff : best - (best == -1);
  } else {
    return best;
  }
}

// Says which lanes of `value` replace those that have such ranks: the rule of roipool::replaces() in problem.h, for
// vectors. The test `tests/kernels/rule_test.cpp` holds both together.
template <typename LaneType, bool kGreaterDecides, typename V>
ROIPOOL_ALWAYS_INLINE auto replaces(V value, V rank) {
  if constexpr (kGreaterDecides) {
    return value > rank;
  } else {
    return (value > rank) | is_nan<LaneType>(value);
  }
}

// Accumulates which special values are among lanes.
template <typename LaneType>
class SpecialValueFinder {
  using V = Vector<typename LaneType::lane_t, kLanes<typename LaneType::lane_t>>;

 public:
  ROIPOOL_ALWAYS_INLINE SpecialValueFinder() : nan_{}, negative_zero_{} {}

  ROIPOOL_ALWAYS_INLINE void look_at(V lanes) {
    nan_ |= is_nan<LaneType>(lanes);
    negative_zero_ |= is_negative_zero<LaneType>(lanes);
  }

  ROIPOOL_ALWAYS_INLINE SpecialValues found() const { return {any_lane(nan_), any_lane(negative_zero_)}; }

 private:
  decltype(is_nan<LaneType>(V{})) nan_;
  decltype(is_negative_zero<LaneType>(V{})) negative_zero_;
};

}  // namespace
}  // namespace roipool::cpu::simd
