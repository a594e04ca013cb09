// What a function is declared with that runs on the host and on CUDA devices alike.
#pragma once

#if defined(__CUDACC__)
#define ROIPOOL_HOST_DEVICE __host__ __device__ inline
#define ROIPOOL_NO_HOST_DEVICE_CHECK _Pragma("nv_exec_check_disable")
#else
// Inlines the function wherever it is called, so that no file leaves a copy behind. The files of cpu/simd/ are compiled
// for other processors than the rest of the library, and the linker might take their copy for all callers.
#define ROIPOOL_HOST_DEVICE inline __attribute__((always_inline))
#define ROIPOOL_NO_HOST_DEVICE_CHECK
#endif
