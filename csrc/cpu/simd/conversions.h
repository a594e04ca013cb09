// Converts half precision to float and back.
#pragma once

#include <cstdint>

#include "cpu/simd/vectors.h"
#include "dtypes.h"

namespace roipool::cpu::simd {
namespace {

template <typename Half>
void widen(const uint16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = Half::widen(from[i]);
  }
}

template <typename Half>
void narrow(const float* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = Half::narrow(from[i]);
  }
}

}  // namespace
}  // namespace roipool::cpu::simd
