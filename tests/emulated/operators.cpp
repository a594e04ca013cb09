// Binds kernels in another process to torch.ops.roipool_emulated.* for CPU tensors. The schemas and the process come
// from Python (build.py).
#include "ops/operators.h"

#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <cstring>

#include "messages.h"

namespace roipool::emulated {
namespace {

int to_kernels = -1;
int from_kernels = -1;

void call_kernel(Kernel kernel, const RoIPoolProblem& problem, const PooledTensors& pooled) {
  Request request{kernel, {}, problem, pooled};
  if (const char* way = std::getenv("ROIPOOL_CPU_FORWARD")) {
    std::strncpy(request.forward_way, way, sizeof(request.forward_way) - 1);
  }
  write_all(to_kernels, &request, sizeof(request));
  visit_what_is_read(request, [](const void* data, int64_t num_bytes) { write_all(to_kernels, data, num_bytes); });
  visit_what_is_written(request, [](void* data, int64_t num_bytes) { read_all(from_kernels, data, num_bytes); });
}

struct EmulatedKernels {
  explicit EmulatedKernels(const torch::stable::Device&) {}

  void forward(const RoIPoolProblem& problem, void* output, int32_t* argmax) const {
    call_kernel(Kernel::kForward, problem, {output, argmax});
  }

  void backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax) const {
    call_kernel(Kernel::kBackward, problem, {const_cast<void*>(grad_output), const_cast<int32_t*>(argmax)});
  }

  void gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output) const {
    call_kernel(Kernel::kGather, problem, {output, const_cast<int32_t*>(argmax)});
  }
};

// Connects the operators with the kernels by two open files. Returns how large a request is here.
int64_t connect(int64_t writable_file, int64_t readable_file) {
  to_kernels = static_cast<int>(writable_file);
  from_kernels = static_cast<int>(readable_file);
  return sizeof(Request);
}

}  // namespace
}  // namespace roipool::emulated

STABLE_TORCH_LIBRARY_IMPL(roipool_emulated, CPU, m) { roipool::implement<roipool::emulated::EmulatedKernels>(m); }

STABLE_TORCH_LIBRARY_IMPL(roipool_emulated, CompositeExplicitAutograd, m) {
  m.impl("connect", TORCH_BOX(&roipool::emulated::connect));
}
