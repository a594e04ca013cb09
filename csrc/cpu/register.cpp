// The CPU kernels: forward, backward, gather.
//
// A pooled cell costs next to nothing, so everything here is about memory: channels lie side by side in the inner loops
// (inner_loops.h), each element of a result is written once, and what is read again and again (a block of channels of
// one image) is small enough to stay in the cache of the core that reads it.
#include "cpu/backward.h"
#include "cpu/forward.h"
#include "cpu/gather.h"
#include "ops/operators.h"

namespace roipool {
namespace {

struct CpuKernels {
  explicit CpuKernels(const torch::stable::Device&) {}

  template <typename scalar_t>
  void forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) const {
    roipool::forward(problem, output, argmax);
  }

  template <typename scalar_t>
  void backward(const RoIPoolProblem& problem, const scalar_t* grad_output, const int32_t* argmax) const {
    roipool::backward(problem, grad_output, argmax);
  }

  template <typename scalar_t>
  void gather(const RoIPoolProblem& problem, const int32_t* argmax, scalar_t* output) const {
    roipool::gather(problem, argmax, output);
  }
};

}  // namespace
}  // namespace roipool

STABLE_TORCH_LIBRARY_IMPL(roipool, CPU, m) { roipool::implement<roipool::CpuKernels>(m); }
