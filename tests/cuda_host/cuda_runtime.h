// Models CUDA on the host: enough of it to compile csrc/cuda/*.cu with a C++ compiler and run the kernels on the CPU.
// The compiler finds this header in place of the toolkit's.
//
// The blocks of a grid run one after the other. Each thread of a block is a fiber, which runs until it waits for
// others: at __syncthreads(), or in one of the functions of a warp. The threads that may run next are taken in an order
// that changes all the time, so that a kernel whose result depends on the order between two barriers gives results that
// change. Shared memory holds garbage when a block starts.
//
// The process ends with a message where threads can never go on: those of a warp wait in different functions, or some
// never reach a barrier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
};

struct alignas(8) uint2 {
  unsigned x;
  unsigned y;
};

struct alignas(16) uint4 {
  unsigned x;
  unsigned y;
  unsigned z;
  unsigned w;
};

// The indices of the thread that runs.
extern dim3 threadIdx;
extern dim3 blockIdx;
extern dim3 gridDim;

// ---- Barriers and functions of a warp, in which threads wait for one another.

void __syncthreads();
void __syncwarp();
unsigned __ballot_sync(unsigned mask, bool predicate);
bool __any_sync(unsigned mask, bool predicate);
unsigned __match_any_sync(unsigned mask, int value);

namespace cuda_host {

// Returns the value of another lane, given by its number.
int64_t shuffle(unsigned mask, int64_t value, unsigned from);

}  // namespace cuda_host

template <typename T>
T __shfl_sync(unsigned mask, T value, int from) {
  return static_cast<T>(cuda_host::shuffle(mask, value, static_cast<unsigned>(from)));
}

// Returns the value of the lane so far below, or this lane's own where there is none.
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int distance) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return __shfl_sync(mask, value, lane < distance ? lane : lane - distance);
}

template <typename T>
void __stwb(T* to, T value) {
  *to = value;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }

// ---- The runtime.

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaSharedCarveout { cudaSharedmemCarveoutMaxShared = 100 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

namespace cuda_host {

// Runs thread() for each thread of a grid. Returns an error where a device would refuse the launch.
cudaError_t run(const cudaLaunchConfig_t& config, size_t most_shared_bytes, const std::function<void()>& thread);

// Returns the shared memory that a kernel may ask for: 48 KiB, or more if cudaFuncSetAttribute allowed it.
size_t most_shared_bytes(const void* kernel);
cudaError_t allow_shared_bytes(const void* kernel, int bytes);

// Describes the device that kernels find. A launch may ask for 48 KiB of shared memory even if it says that it has
// less, as every real device has them.
struct Device {
  int shared_bytes_per_block = 232448;
  int num_multiprocessors = 4;
  unsigned most_blocks = 0x7fffffff;  // blocks of a grid that run, in each dimension; 0 refuses every launch
};
extern Device device;

}  // namespace cuda_host

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  return attribute == cudaFuncAttributeMaxDynamicSharedMemorySize
             ? cuda_host::allow_shared_bytes(reinterpret_cast<const void*>(kernel), value)
             : cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  return cuda_host::run(*config, cuda_host::most_shared_bytes(reinterpret_cast<const void*>(kernel)),
                        [&] { kernel(arguments...); });
}
