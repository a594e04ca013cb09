#pragma once

#include "cpu/simd/capability.h"
#include "dtypes.h"

namespace roipool::cpu {

// The inner loops of a dtype, and the lanes that stand for its bits there.
inline const InnerLoops<Float32Lanes>& inner_loops_of(float) { return cpu_capability().loops->float32; }

inline const InnerLoops<Float64Lanes>& inner_loops_of(double) { return cpu_capability().loops->float64; }

inline const InnerLoops<Float16Lanes>& inner_loops_of(Float16) { return cpu_capability().loops->float16; }

inline const InnerLoops<BFloat16Lanes>& inner_loops_of(BFloat16) { return cpu_capability().loops->bfloat16; }

inline const Conversions& conversions_of(Float16) { return cpu_capability().loops->float16_conversions; }

inline const Conversions& conversions_of(BFloat16) { return cpu_capability().loops->bfloat16_conversions; }

inline const RowLoops<Float32Lanes>& row_loops_of(float) { return cpu_capability().loops->float32_rows; }

inline const RowLoops<Float64Lanes>& row_loops_of(double) { return cpu_capability().loops->float64_rows; }

}  // namespace roipool::cpu
