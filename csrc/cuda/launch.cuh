#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#define ROIPOOL_PRAGMA(text) _Pragma(#text)
#define ROIPOOL_UNROLL(count) ROIPOOL_PRAGMA(unroll count)
#else
#define ROIPOOL_UNROLL(count)
#endif

namespace roipool::cuda {

// What a launch asks for beside its registers; each kernel divides it up.
alignas(16) extern __shared__ unsigned char shared_memory[];

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // of a block, where nothing else is said
constexpr int kMostThreads = 1024;
constexpr unsigned kAllLanes = 0xffffffffu;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What the plans of launches go by.
struct Device {
  int shared_bytes = 0;  // that a block may have
  int num_multiprocessors = 0;
};

inline cudaError_t get_device(Device* device) {
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

// Blocks in each dimension. Kernels take several turns where there are more than a grid holds.
struct Blocks {
  int64_t x;
  int64_t y = 1;
  int64_t z = 1;
};

// kernel<<<blocks, num_threads, shared_bytes, stream>>>(arguments...), as a function; does nothing for no blocks.
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

// The same for a kernel that may ask for more than 48 KiB of shared memory. It is allowed the most that the device has,
// whatever this launch needs: the attribute is the kernel's, and other threads set it, too.
template <typename... Parameters>
cudaError_t launch_with_shared_memory(const Device& device, void (*kernel)(Parameters...), Blocks blocks,
                                      int num_threads, int64_t shared_bytes, cudaStream_t stream,
                                      std::common_type_t<Parameters>... arguments) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_bytes);
  return error != cudaSuccess ? error : launch(kernel, blocks, num_threads, shared_bytes, stream, arguments...);
}

// a / divisor for 0 <= a < 2^52. The compiler's own division of 64-bit numbers is a function that costs a stack frame.
class Divider {
 public:
  explicit Divider(int64_t divisor) : divisor_(divisor), inverse_(1.0 / static_cast<double>(divisor)) {}

  __device__ int64_t divide(int64_t a) const {
    const auto nearly = static_cast<int64_t>(static_cast<double>(a) * inverse_);  // within 1 of the quotient
    const int64_t rest = a - nearly * divisor_;
    return nearly + (rest >= divisor_ ? 1 : 0) - (rest < 0 ? 1 : 0);
  }

 private:
  int64_t divisor_;
  double inverse_;
};

// The same for 0 <= a < 2^20, in fewer instructions.
class SmallDivider {
 public:
  __device__ explicit SmallDivider(int64_t divisor) : inverse_(1.0f / static_cast<float>(divisor)) {}

  __device__ int32_t divide(int32_t a) const { return static_cast<int32_t>((static_cast<float>(a) + 0.5f) * inverse_); }

 private:
  float inverse_;
};

}  // namespace roipool::cuda
