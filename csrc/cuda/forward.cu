// Pools on CUDA devices, in the way that forward.h chooses.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cuda/forward.h"
#include "cuda/forward_direct.cuh"
#include "cuda/forward_shared.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/tiling.cuh"
#include "problem.h"

namespace roipool::cuda {
namespace {

template <bool kArgmax, typename scalar_t>
cudaError_t launch_contiguous(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax, cudaStream_t stream) {
  const Tiling tiling(problem.num_rois, problem.num_channels, problem.num_bins());
  const auto kernel = problem.num_levels > 1 ? forward_contiguous_kernel<true, kArgmax, scalar_t>
                                             : forward_contiguous_kernel<false, kArgmax, scalar_t>;
  return launch(kernel, tiling.blocks(), tiling.num_threads(), 0, stream, problem, tiling,
                Divider(problem.pooled_width), output, argmax);
}

template <bool kArgmax, int kVectorSize, typename scalar_t>
cudaError_t launch_channels_last(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax,
                                 cudaStream_t stream) {
  const Tiling tiling(problem.num_rois, problem.num_bins(), problem.num_channels / kVectorSize);
  const auto kernel = problem.num_levels > 1 ? forward_channels_last_kernel<true, kArgmax, kVectorSize, scalar_t>
                                             : forward_channels_last_kernel<false, kArgmax, kVectorSize, scalar_t>;
  return launch(kernel, tiling.blocks(), tiling.num_threads(), tiling.runs_per_block * sizeof(CellRectangle), stream,
                problem, tiling, Divider(problem.pooled_width), output, argmax);
}

// Returns whether all maps and the output begin at multiples of kVectorBytes. A slice of a larger tensor may not.
bool is_aligned(const RoIPoolProblem& problem, const void* output) {
  const auto begins_aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0; };
  bool all_aligned = begins_aligned(output);
  for (int64_t level = 0; level < problem.num_levels; ++level) {
    all_aligned = all_aligned && begins_aligned(problem.levels[level].input);
  }
  return all_aligned;
}

// ROIPOOL_CUDA_FORWARD=direct has maps read where they lie, for comparisons.
bool may_use_shared_memory() {
  const char* const way = std::getenv("ROIPOOL_CUDA_FORWARD");
  return way == nullptr || std::strcmp(way, "direct") != 0;
}

template <bool kArgmax, typename scalar_t>
cudaError_t launch_forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax, cudaStream_t stream) {
  constexpr int kVectorSize = kVectorBytes / sizeof(scalar_t);
  const bool aligned = is_aligned(problem, output);
  const bool may_share = may_use_shared_memory() && pays_to_share(problem, aligned);
  DeviceLimits device;
  if (may_share) {
    const cudaError_t error = get_device_limits(&device);
    if (error != cudaSuccess) {
      return error;
    }
  }
  const ForwardPlan plan = plan_forward(problem, device, aligned, may_share);
  switch (plan.way) {
    case ForwardWay::kSharedMemory:
      return launch_with_shared_memory(device, forward_shared_kernel<kArgmax, kVectorSize, scalar_t>,
                                       {plan.shared.num_blocks(problem)}, plan.shared.num_threads,
                                       plan.shared.shared_bytes, stream, problem, plan.shared, output, argmax);
    case ForwardWay::kContiguous:
      return launch_contiguous<kArgmax>(problem, output, argmax, stream);
    case ForwardWay::kChannelsLast:
      return launch_channels_last<kArgmax, 1>(problem, output, argmax, stream);
    default:
      return launch_channels_last<kArgmax, kVectorSize>(problem, output, argmax, stream);
  }
}

}  // namespace

cudaError_t forward(const RoIPoolProblem& problem, void* output, int32_t* argmax, cudaStream_t stream) {
  return with_dtype(problem.dtype, [&](auto zero) {
    auto* const typed_output = static_cast<decltype(zero)*>(output);
    return argmax != nullptr ? launch_forward<true>(problem, typed_output, argmax, stream)
                             : launch_forward<false>(problem, typed_output, argmax, stream);
  });
}

}  // namespace roipool::cuda
