// The CUDA kernels: forward, backward, gather. The same functions, and the same bits, as cpu/roi_pool_kernel.cpp.
//
// Maps, outputs and argmax may have more than 2^31 elements: pointers advance in 64 bits. Cells of a plane, of which
// there are fewer, are counted in 32.
#include <cuda_runtime.h>
#ifdef __CUDACC__
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#endif

#include "cuda/backward.cuh"
#include "cuda/forward.cuh"
#include "cuda/gather.cuh"
#include "ops/operators.h"

namespace roipool {
namespace {

#ifdef __CUDACC__  // tests/cuda_host compiles all the rest for the CPU, and has operators of its own

cudaStream_t current_stream(const torch::stable::Device& device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// On the current stream of a device, which it makes the current one as long as it lives.
class CudaKernels {
 public:
  explicit CudaKernels(const torch::stable::Device& device) : guard_(device.index()), stream_(current_stream(device)) {}

  template <typename scalar_t>
  void forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) const {
    STD_CUDA_CHECK(launch_forward(problem, output, argmax, stream_));
  }

  template <typename scalar_t>
  void backward(const RoIPoolProblem& problem, const scalar_t* grad_output, const int32_t* argmax) const {
    STD_CUDA_CHECK(launch_backward(problem, grad_output, argmax, stream_));
  }

  template <typename scalar_t>
  void gather(const RoIPoolProblem& problem, const int32_t* argmax, scalar_t* output) const {
    STD_CUDA_CHECK(launch_gather(problem, argmax, output, stream_));
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

#endif

}  // namespace
}  // namespace roipool

#ifdef __CUDACC__
STABLE_TORCH_LIBRARY_IMPL(roipool, CUDA, m) { roipool::implement<roipool::CudaKernels>(m); }
#endif
