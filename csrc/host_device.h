// Declares functions in headers: for the host and CUDA devices alike, and for several instruction sets.
#pragma once

#if !defined(__GNUC__)
#error "roipool needs the vector extensions of GCC and Clang: build it with one of them."
#endif

// Inlines a function wherever it is called, so that no object file leaves a copy behind. The files of cpu/simd/ are
// compiled for other processors than the rest of the library, and the linker might take their copy for all callers.
#define ROIPOOL_ALWAYS_INLINE inline __attribute__((always_inline))

// Declares a function that runs on the host and on CUDA devices alike. Where it calls a function that it is given, nvcc
// need not check that this runs on both.
#if defined(__CUDACC__)
#define ROIPOOL_HOST_DEVICE __host__ __device__ inline
#define ROIPOOL_NO_HOST_DEVICE_CHECK _Pragma("nv_exec_check_disable")
#else
#define ROIPOOL_HOST_DEVICE ROIPOOL_ALWAYS_INLINE
#define ROIPOOL_NO_HOST_DEVICE_CHECK
#endif
