// Registers the CUDA kernels with the dispatcher. No other file of this folder knows torch.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include "cuda/kernels.h"
#include "ops/operators.h"

namespace roipool::cuda {
namespace {

cudaStream_t current_stream(const torch::stable::Device& device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Launches the kernels on the current stream of a device, which it makes the current device as long as it lives.
class Kernels {
 public:
  explicit Kernels(const torch::stable::Device& device)
      : device_(device), guard_(device.index()), stream_(current_stream(device)) {}

  void forward(const RoIPoolProblem& problem, void* output, int32_t* argmax) const {
    const Tensor scratch = make_scratch(problem);
    STD_CUDA_CHECK(cuda::forward(problem, output, argmax, scratch.mutable_data_ptr(), stream_));
  }

  void backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax) const {
    const Tensor scratch = make_scratch(problem);
    STD_CUDA_CHECK(cuda::backward(problem, grad_output, argmax, scratch.mutable_data_ptr(), stream_));
  }

  void gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output) const {
    STD_CUDA_CHECK(cuda::gather(problem, argmax, output, stream_));
  }

 private:
  // Returns memory of torch's own allocator, which hands it out again only after the kernels of this stream.
  Tensor make_scratch(const RoIPoolProblem& problem) const {
    return empty({scratch_bytes(problem), 1, 1, 1}, ScalarType::Byte, device_, MemoryFormat::Contiguous);
  }

  torch::stable::Device device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace
}  // namespace roipool::cuda

STABLE_TORCH_LIBRARY_IMPL(roipool, CUDA, m) { roipool::implement<roipool::cuda::Kernels>(m); }
