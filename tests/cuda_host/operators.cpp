// Binds the CUDA kernels, executed on the host, to torch.ops.roipool_cuda_host.* for CPU tensors. The schemas come from
// Python (build.py).
#include "ops/operators.h"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "cuda/kernels.h"
#include "cuda_runtime.h"

namespace roipool {
namespace {

void check_launch(cudaError_t error) { ROIPOOL_CHECK(error == cudaSuccess, "the launch was refused"); }

struct CudaHostKernels {
  explicit CudaHostKernels(const torch::stable::Device&) {}

  void forward(const RoIPoolProblem& problem, void* output, int32_t* argmax) const {
    std::vector<char> scratch(cuda::scratch_bytes(problem));
    check_launch(cuda::forward(problem, output, argmax, scratch.data(), nullptr));
  }

  void backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax) const {
    std::vector<char> scratch(cuda::scratch_bytes(problem));
    check_launch(cuda::backward(problem, grad_output, argmax, scratch.data(), nullptr));
  }

  void gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output) const {
    check_launch(cuda::gather(problem, argmax, output, nullptr));
  }
};

}  // namespace

// Changes the device that kernels find. With small limits, small tensors reach code that is for huge ones.
void set_device(int64_t shared_bytes_per_block, int64_t num_multiprocessors, int64_t most_blocks) {
  cuda_host::device.shared_bytes_per_block = static_cast<int>(shared_bytes_per_block);
  cuda_host::device.num_multiprocessors = static_cast<int>(num_multiprocessors);
  cuda_host::device.most_blocks = static_cast<unsigned>(most_blocks);
}

}  // namespace roipool

STABLE_TORCH_LIBRARY_IMPL(roipool_cuda_host, CPU, m) { roipool::implement<roipool::CudaHostKernels>(m); }

STABLE_TORCH_LIBRARY_IMPL(roipool_cuda_host, CompositeExplicitAutograd, m) {
  m.impl("set_device", TORCH_BOX(&roipool::set_device));
}
