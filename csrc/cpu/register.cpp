// Registers the CPU kernels with the dispatcher, and gives them torch's threads. The only file of this folder that
// knows torch.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "ops/operators.h"

namespace roipool::cpu {

namespace {

// Tells ThreadSanitizer what torch's threads put in order: it does not see into torch's OpenMP, which was built without
// it.
#if defined(__SANITIZE_THREAD__)
void acquire(void* at) { __tsan_acquire(at); }
void release(void* at) { __tsan_release(at); }
#else
void acquire(void*) {}
void release(void*) {}
#endif

// Is the function that torch calls in its threads.
struct TorchLoop {
  LoopFunction body;
  const void* context;
  mutable char fork = 0;
  mutable char join = 0;

  void operator()(int64_t begin, int64_t end) const {
    acquire(&fork);
    body(context, begin, end);
    release(&join);
  }
};

}  // namespace

int64_t num_threads() { return torch::stable::get_num_threads(); }

void run_loop(int64_t size, int64_t grain, LoopFunction body, const void* context) {
  const TorchLoop loop{body, context};
  release(&loop.fork);
  torch::stable::parallel_for(0, size, grain, loop);
  acquire(&loop.join);
}

namespace {

struct Kernels {
  explicit Kernels(const torch::stable::Device&) {}

  void forward(const RoIPoolProblem& problem, void* output, int32_t* argmax) const {
    cpu::forward(problem, output, argmax);
  }

  void backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax) const {
    cpu::backward(problem, grad_output, argmax);
  }

  void gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output) const {
    cpu::gather(problem, argmax, output);
  }
};

}  // namespace
}  // namespace roipool::cpu

STABLE_TORCH_LIBRARY_IMPL(roipool, CPU, m) { roipool::implement<roipool::cpu::Kernels>(m); }
