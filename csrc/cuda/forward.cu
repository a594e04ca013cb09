#include <cuda_runtime.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cuda/forward_direct.cuh"
#include "cuda/forward_shared.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/tiling.cuh"
#include "problem.h"

namespace roipool::cuda {
namespace {

template <bool kArgmax, int kSize, typename scalar_t>
cudaError_t launch_pool_channels_last(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax,
                                      cudaStream_t stream) {
  const Tiling tiling(problem.num_rois, problem.num_bins(), problem.channels / kSize);
  const auto kernel = problem.num_levels > 1 ? pool_channels_last<true, kArgmax, kSize, scalar_t>
                                             : pool_channels_last<false, kArgmax, kSize, scalar_t>;
  return launch(kernel, tiling.blocks(), tiling.num_threads(), tiling.runs_per_block * sizeof(Bin), stream, problem,
                tiling, Divider(problem.pooled_width), output, argmax);
}

// ROIPOOL_CUDA_FORWARD=direct leaves out the kernels that pool from shared memory: for comparisons.
inline bool may_stage() {
  static const char* const forward = std::getenv("ROIPOOL_CUDA_FORWARD");
  return forward == nullptr || std::strcmp(forward, "direct") != 0;
}

template <bool kArgmax, typename scalar_t>
cudaError_t launch_forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax, cudaStream_t stream) {
  constexpr int kSize = 16 / sizeof(scalar_t);
  bool aligned = reinterpret_cast<uintptr_t>(output) % 16 == 0;  // which slices of larger tensors may not be
  for (int64_t level = 0; level < problem.num_levels; ++level) {
    aligned = aligned && reinterpret_cast<uintptr_t>(problem.levels[level].input) % 16 == 0;
  }
  const bool by_packs = aligned && problem.channels % kSize == 0;  // of adjacent channels
  if (may_stage() && (!problem.channels_last || by_packs)) {
    Device device;
    const cudaError_t error = get_device(&device);
    if (error != cudaSuccess) {
      return error;
    }
    StagedPlan plan;
    if (plan_staged<kSize, scalar_t>(problem, device, &plan)) {
      return launch_with_shared_memory(device, pool_staged<kArgmax, kSize, scalar_t>, {plan.num_blocks(problem)},
                                       plan.num_threads, plan.shared_bytes, stream, problem, plan, output, argmax);
    }
  }
  if (!problem.channels_last) {
    const Tiling tiling(problem.num_rois, problem.channels, problem.num_bins());
    const auto kernel =
        problem.num_levels > 1 ? pool_contiguous<true, kArgmax, scalar_t> : pool_contiguous<false, kArgmax, scalar_t>;
    return launch(kernel, tiling.blocks(), tiling.num_threads(), 0, stream, problem, tiling,
                  Divider(problem.pooled_width), output, argmax);
  }
  return by_packs ? launch_pool_channels_last<kArgmax, kSize>(problem, output, argmax, stream)
                  : launch_pool_channels_last<kArgmax, 1>(problem, output, argmax, stream);
}

// output, argmax: [K, C, PH, PW]; argmax may be null
template <typename scalar_t>
cudaError_t launch_forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax, cudaStream_t stream) {
  return argmax != nullptr ? launch_forward<true>(problem, output, argmax, stream)
                           : launch_forward<false>(problem, output, argmax, stream);
}

}  // namespace

cudaError_t forward(const RoIPoolProblem& problem, void* output, int32_t* argmax, cudaStream_t stream) {
  return with_dtype(problem.dtype, [&](auto zero) {
    return launch_forward(problem, static_cast<decltype(zero)*>(output), argmax, stream);
  });
}

}  // namespace roipool::cuda
