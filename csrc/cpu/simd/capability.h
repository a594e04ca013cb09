// Chooses the target whose loops run: once, for the processor that the library was loaded on.
#pragma once

#include "cpu/simd/loops.h"

namespace roipool::cpu::simd {

struct CpuCapability {
  const char* name;  // default, avx2 or avx512
  const TargetLoops* loops;
};

// Returns the best that the processor has, or what ROIPOOL_CPU_CAPABILITY asks for. Throws std::runtime_error where
// that is no capability, or none of this processor.
const CpuCapability& cpu_capability();

}  // namespace roipool::cpu::simd
