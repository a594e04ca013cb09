// Defines the loops for x86-64 processors with AVX2.
#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi,bmi2")
#endif

#define ROIPOOL_VECTOR_BYTES 32
#define ROIPOOL_LOOPS kLoopsAvx2
#include "cpu/simd/target.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
