// Defines the loops for x86-64 processors with AVX-512.
#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2")
#endif

#define ROIPOOL_VECTOR_BYTES 64
#define ROIPOOL_LOOPS kLoopsAvx512
#include "cpu/simd/target.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
