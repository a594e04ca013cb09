// Pools on CUDA devices, in the way that forward.h chooses.
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "cuda/forward.h"
#include "cuda/forward_channels_last.cuh"
#include "cuda/forward_columns.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/regions.cuh"
#include "problem.h"

namespace roipool::cuda {
namespace {

template <bool kArgmax, typename scalar_t>
cudaError_t launch_columns(const RoIPoolProblem& problem, const PlacedRegions& placed, scalar_t* output,
                           int32_t* argmax, cudaStream_t stream) {
  DeviceLimits device;
  const cudaError_t error = get_device_limits(&device);
  if (error != cudaSuccess) {
    return error;
  }
  const ColumnsPlan plan =
      plan_columns(problem, kArgmax, device, number_from_environment("ROIPOOL_CUDA_SHARE_REGIONS", 0));
  const auto launch_groups_of = [&](auto num_channels) {
    constexpr int kChannels = decltype(num_channels)::value;
    constexpr int64_t kSharedBytes = kWarps * sizeof(ColumnMaxima<kArgmax, kChannels, scalar_t>);
    return launch(forward_columns_kernel<kArgmax, kChannels, scalar_t>, {plan.num_shares, plan.num_groups}, kThreads,
                  kSharedBytes, stream, problem, plan, placed, output, argmax);
  };
  constexpr int kVectorChannels = kVectorBytes / sizeof(wide_t<scalar_t>);
  if constexpr (!kArgmax) {
    if (plan.group_channels > kVectorChannels) {
      return launch_groups_of(std::integral_constant<int, 2 * kVectorChannels>());
    }
  }
  return launch_groups_of(std::integral_constant<int, kVectorChannels>());
}

template <bool kArgmax, int kVectorSize, typename scalar_t>
cudaError_t launch_channels_last(const RoIPoolProblem& problem, const PlacedRegions& placed, scalar_t* output,
                                 int32_t* argmax, cudaStream_t stream) {
  const Blocks blocks{problem.num_rois, divide_up(problem.output_region_stride / kVectorSize, kThreads)};
  return launch(forward_channels_last_kernel<kArgmax, kVectorSize, scalar_t>, blocks, kThreads, 0, stream, problem,
                Divider(problem.num_channels / kVectorSize), Divider(problem.pooled_width), placed, output, argmax);
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

template <bool kArgmax, typename scalar_t>
cudaError_t launch_forward(const RoIPoolProblem& problem, const PlacedRegions& placed, scalar_t* output,
                           int32_t* argmax, cudaStream_t stream) {
  switch (choose_way(problem, is_aligned(problem, output))) {
    case ForwardWay::kColumns:
      return launch_columns<kArgmax>(problem, placed, output, argmax, stream);
    case ForwardWay::kChannelsLast:
      return launch_channels_last<kArgmax, 1>(problem, placed, output, argmax, stream);
    default:
      return launch_channels_last<kArgmax, kVectorBytes / sizeof(scalar_t)>(problem, placed, output, argmax, stream);
  }
}

}  // namespace

cudaError_t forward(const RoIPoolProblem& problem, void* output, int32_t* argmax, void* scratch, cudaStream_t stream) {
  const PlacedRegions placed(problem, scratch);
  const cudaError_t error = place_regions(problem, placed, stream);
  if (error != cudaSuccess) {
    return error;
  }
  return with_dtype(problem.dtype, [&](auto zero) {
    auto* const typed_output = static_cast<decltype(zero)*>(output);
    return argmax != nullptr ? launch_forward<true>(problem, placed, typed_output, argmax, stream)
                             : launch_forward<false>(problem, placed, typed_output, argmax, stream);
  });
}

}  // namespace roipool::cuda
