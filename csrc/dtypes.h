// The dtypes of features as C++ types that know no torch: their bits, and the types that they are compared and summed
// in.
//
// A new dtype is added here; in cpu/simd/loops.h, cpu/simd/target.h and cpu/dtype_loops.h, which have its loops; in
// ops/tensors.h and ops/checks.h; and in roipool/_ops/checks.py and roipool/reference.py.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "host_device.h"

namespace roipool {

enum class DType { kFloat16, kBFloat16, kFloat32, kFloat64 };

template <typename To, typename From>
ROIPOOL_HOST_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// Holds a float16 by its bits. On a CUDA device, one instruction converts it.
struct Float16 {
  uint16_t bits;

  Float16() = default;
  explicit ROIPOOL_HOST_DEVICE Float16(float value) : bits(narrow(value)) {}
  ROIPOOL_HOST_DEVICE operator float() const { return widen(bits); }

  // Moves the exponent by an addition; normalises a subnormal number by a subtraction of floats. Masks choose what
  // depends on the number, because GCC vectorises loops with branches for AVX-512 alone.
  static ROIPOOL_HOST_DEVICE float widen(uint16_t bits) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(bits));
#else
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
    const uint32_t subnormal = mask(magnitude < 0x00800000);
    const float moved = bit_cast<float>(magnitude + 0x38000000 + (subnormal & 0x00800000));
    const float number = moved - bit_cast<float>(subnormal & 0x38800000);
    const uint32_t not_finite = mask(magnitude >= 0x0f800000) & 0x7f800000;
    return bit_cast<float>(sign | bit_cast<uint32_t>(number) | not_finite);
#endif
  }

  // Rounds to nearest, ties to even. The bits of a subnormal result are the last ones of a sum of floats.
  static ROIPOOL_HOST_DEVICE uint16_t narrow(float value) {
#if defined(__CUDA_ARCH__)
    return __half_as_ushort(__float2half_rn(value));
#else
    const uint32_t bits = bit_cast<uint32_t>(value);
    const uint32_t sign = bits & 0x80000000;
    const uint32_t magnitude = bits ^ sign;
    const uint32_t clamped = magnitude < 0x47800000 ? magnitude : 0x47800000;  // from there on, infinity
    const uint32_t subnormal = mask(clamped < 0x38800000);
    const uint32_t sum = bit_cast<uint32_t>(bit_cast<float>(clamped) + bit_cast<float>(subnormal & 0x3f000000));
    const uint32_t normal = (sum - 0x38000000 + 0xfff + ((sum >> 13) & 1)) >> 13;
    const uint32_t number = (subnormal & (sum - 0x3f000000)) | (~subnormal & normal);
    const uint32_t nan = mask(magnitude > 0x7f800000) & 0x0200;
    return static_cast<uint16_t>((sign >> 16) | number | nan);
#endif
  }

 private:
  static ROIPOOL_HOST_DEVICE uint32_t mask(bool is_set) { return 0 - static_cast<uint32_t>(is_set); }
};

// Holds a bfloat16 by its bits, which are the upper half of those of a float.
struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  explicit ROIPOOL_HOST_DEVICE BFloat16(float value) : bits(narrow(value)) {}
  ROIPOOL_HOST_DEVICE operator float() const { return widen(bits); }

  static ROIPOOL_HOST_DEVICE float widen(uint16_t bits) { return bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

  // Rounds to nearest, ties to even.
  static ROIPOOL_HOST_DEVICE uint16_t narrow(float value) {
#if defined(__CUDA_ARCH__)
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
#else
    const uint32_t bits = bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return static_cast<uint16_t>(value != value ? 0x7fc0 : rounded);
#endif
  }
};

// The type that numbers of a dtype are compared and summed in.
template <typename scalar_t>
using wide_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

// Calls function(scalar_t{}) with the C++ type of a dtype.
template <typename Function>
auto with_dtype(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kFloat16:
      return function(Float16{});
    case DType::kBFloat16:
      return function(BFloat16{});
    case DType::kFloat32:
      return function(float{});
    default:
      return function(double{});
  }
}

}  // namespace roipool
