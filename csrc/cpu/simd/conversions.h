#pragma once

#include <cstdint>

#include "cpu/simd/vectors.h"

namespace roipool {
namespace {

union FloatBits {
  float value;
  uint32_t bits;
};

struct Float16Conversion {
  // The exponent is moved by an addition; what was subnormal, by having float arithmetic normalise it.
  static ROIPOOL_INLINE float widen(int16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
    const uint32_t normal = magnitude + (magnitude >= 0x0f800000 ? 0x70000000 : 0x38000000);  // infinity, NaN; others
    FloatBits subnormal;
    subnormal.bits = magnitude + 0x38800000;
    subnormal.value -= 0x1p-14f;
    FloatBits result;
    result.bits = sign | (magnitude < 0x00800000 ? subnormal.bits : normal);
    return result.value;
  }

  static ROIPOOL_INLINE int16_t narrow(float value) {
    FloatBits input;
    input.value = value;
    const uint32_t sign = input.bits & 0x80000000;
    const uint32_t magnitude = input.bits ^ sign;
    const uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    FloatBits subnormal;  // an addition that leaves the rounded number in the last bits
    subnormal.bits = magnitude;
    subnormal.value += 0.5f;
    const uint32_t large = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    const uint32_t finite = magnitude < 0x38800000 ? subnormal.bits - 0x3f000000 : normal;
    return static_cast<int16_t>((sign >> 16) | (magnitude >= 0x47800000 ? large : finite));
  }
};

struct BFloat16Conversion {
  static ROIPOOL_INLINE float widen(int16_t bfloat) {
    FloatBits result;
    result.bits = static_cast<uint32_t>(static_cast<uint16_t>(bfloat)) << 16;
    return result.value;
  }

  static ROIPOOL_INLINE int16_t narrow(float value) {
    FloatBits input;
    input.value = value;
    const uint32_t rounded = (input.bits + 0x7fff + ((input.bits >> 16) & 1)) >> 16;
    return static_cast<int16_t>(value != value ? 0x7fc0 : rounded);
  }
};

template <typename Conversion>
void widen(const int16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = Conversion::widen(from[i]);
  }
}

template <typename Conversion>
void narrow(const float* from, int64_t count, int16_t* to) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = Conversion::narrow(from[i]);
  }
}

}  // namespace
}  // namespace roipool
