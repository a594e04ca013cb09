// Launches kernels.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "cuda/device_limits.h"

#ifdef __CUDACC__
#define ROIPOOL_PRAGMA(text) _Pragma(#text)
#define ROIPOOL_UNROLL_BY(count) ROIPOOL_PRAGMA(unroll count)
#else
#define ROIPOOL_UNROLL_BY(count)
#endif

namespace roipool::cuda {

// Is the shared memory that a launch asks for; each kernel divides it up.
alignas(16) extern __shared__ unsigned char shared_memory[];

// Asks the current device for its limits.
inline cudaError_t get_device_limits(DeviceLimits* device) {
  int index = 0;
  for (const cudaError_t error :
       {cudaGetDevice(&index),
        cudaDeviceGetAttribute(&device->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index),
        cudaDeviceGetAttribute(&device->num_multiprocessors, cudaDevAttrMultiProcessorCount, index)}) {
    if (error != cudaSuccess) {
      return error;
    }
  }
  return cudaSuccess;
}

// Returns a number above 0 from the environment, else another one. Looks in each call, so that one process can compare.
inline int64_t number_from_environment(const char* name, int64_t otherwise) {
  const char* const value = std::getenv(name);
  const int64_t number = value == nullptr ? 0 : std::atoll(value);
  return number > 0 ? number : otherwise;
}

// Counts blocks in each dimension. Kernels take several turns where there are more than a grid holds.
struct Blocks {
  int64_t x;
  int64_t y = 1;
  int64_t z = 1;
};

// Launches kernel<<<blocks, num_threads, shared_bytes, stream>>>(arguments...); does nothing for no blocks.
template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), Blocks blocks, int num_threads, int64_t shared_bytes,
                   cudaStream_t stream, std::common_type_t<Parameters>... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) {
    return cudaSuccess;
  }
  cudaLaunchConfig_t config{};
  config.gridDim.x = static_cast<unsigned>(std::min<int64_t>(blocks.x, INT32_MAX));
  config.gridDim.y = static_cast<unsigned>(std::min<int64_t>(blocks.y, UINT16_MAX));
  config.gridDim.z = static_cast<unsigned>(std::min<int64_t>(blocks.z, UINT16_MAX));
  config.blockDim.x = static_cast<unsigned>(num_threads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Launches a kernel that may ask for more than 48 KiB of shared memory. The kernel is allowed the most that the device
// has, whatever this launch needs: the attribute is the kernel's, and other threads set it, too. Of the memory that a
// multiprocessor shares with its cache, the kernel prefers all.
template <typename... Parameters>
cudaError_t launch_with_shared_memory(const DeviceLimits& device, void (*kernel)(Parameters...), Blocks blocks,
                                      int num_threads, int64_t shared_bytes, cudaStream_t stream,
                                      std::common_type_t<Parameters>... arguments) {
  for (const cudaError_t error :
       {cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_bytes),
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared)}) {
    if (error != cudaSuccess) {
      return error;
    }
  }
  return launch(kernel, blocks, num_threads, shared_bytes, stream, arguments...);
}

}  // namespace roipool::cuda
