// Defines the loops for what the compiler targets without being asked: SSE2 on x86-64, NEON on aarch64.
#define ROIPOOL_VECTOR_BYTES 16
#define ROIPOOL_LOOPS kLoopsDefault
#include "cpu/simd/target.h"
