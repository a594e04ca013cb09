// Names the loops of each dtype, in the table that was chosen for this processor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/simd/capability.h"
#include "cpu/simd/loops.h"
#include "dtypes.h"

namespace roipool::cpu {

inline const simd::TargetLoops& target_loops() { return *simd::cpu_capability().loops; }

template <typename scalar_t>
struct DTypeLoops;

template <>
struct DTypeLoops<float> {
  using LaneType = simd::Float32Lanes;
  static const simd::GroupLoops<LaneType>& groups() { return target_loops().float32; }
  static const simd::CellLoops<LaneType>& cells() { return target_loops().float32_cells; }
  static const simd::RowLoops<LaneType>& rows() { return target_loops().float32_rows; }
};

template <>
struct DTypeLoops<double> {
  using LaneType = simd::Float64Lanes;
  static const simd::GroupLoops<LaneType>& groups() { return target_loops().float64; }
  static const simd::CellLoops<LaneType>& cells() { return target_loops().float64_cells; }
  static const simd::RowLoops<LaneType>& rows() { return target_loops().float64_rows; }
};

template <>
struct DTypeLoops<Float16> {
  using LaneType = simd::Float16Lanes;
  static const simd::GroupLoops<LaneType>& groups() { return target_loops().float16; }
  static const simd::CellLoops<LaneType>& cells() { return target_loops().float16_cells; }
  static const simd::Conversions& conversions() { return target_loops().float16_conversions; }
};

template <>
struct DTypeLoops<BFloat16> {
  using LaneType = simd::BFloat16Lanes;
  static const simd::GroupLoops<LaneType>& groups() { return target_loops().bfloat16; }
  static const simd::CellLoops<LaneType>& cells() { return target_loops().bfloat16_cells; }
  static const simd::Conversions& conversions() { return target_loops().bfloat16_conversions; }
};

// Widens half-precision numbers to floats.
template <typename Half>
void widen(const Half* from, int64_t count, float* to) {
  DTypeLoops<Half>::conversions().widen(reinterpret_cast<const uint16_t*>(from), count, to);
}

// Rounds sums to the dtype of their gradients.
template <typename scalar_t>
void narrow(const wide_t<scalar_t>* from, int64_t count, scalar_t* to) {
  if constexpr (std::is_same_v<scalar_t, wide_t<scalar_t>>) {
    std::copy_n(from, count, to);
  } else {
    DTypeLoops<scalar_t>::conversions().narrow(from, count, reinterpret_cast<uint16_t*>(to));
  }
}

}  // namespace roipool::cpu
