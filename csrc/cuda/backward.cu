// Sums the gradients of the cells that argmax names, in the order that fixes every bit.
//
// grad_inputs are cut into tiles of cells. A warp owns a tile in one channel, or in kWarp adjacent ones: it sums the
// gradients of these cells in shared memory and writes each once, and waits for no other warp. It lists runs of bins:
// of each region of its image and level, in order, the bins that meet the tile. Then it adds what its channels have
// there.
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "cuda/backward.h"
#include "cuda/backward_bins.cuh"
#include "cuda/backward_channels.cuh"
#include "cuda/backward_tiles.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/regions.cuh"
#include "cuda/warp.cuh"
#include "problem.h"

namespace roipool::cuda {
namespace {

constexpr int kMinBlocks = 8;  // of a multiprocessor, for which a thread has 128 registers

// Sums the cells of a tile in the channels of a warp, and writes them. For a whole warp.
template <typename Adder, typename scalar_t>
__device__ void sum_tile(const RoIPoolProblem& problem, const PlacedRegions& placed, const MapTile& tile,
                         int64_t first_channel, unsigned char* memory, const scalar_t* grad_output,
                         const int32_t* argmax) {
  Adder adder(problem, tile, first_channel, memory, grad_output, argmax);
  BinLister lister(problem, placed, tile, adder.runs());
  while (lister.find_next()) {
    adder.add(lister.list());
  }
  adder.write();
}

// Writes every element of the grad_inputs of all levels.
//
//   grad_output, argmax  [K, C, PH, PW]
template <bool kLanesAreChannels, typename scalar_t>
__global__ void __launch_bounds__(kMaxBlockWarps* kWarp, kMinBlocks)
    backward_kernel(const RoIPoolProblem problem, const BackwardPlan plan, const PlacedRegions placed,
                    const scalar_t* grad_output, const int32_t* argmax) {
  unsigned char* const memory = shared_memory + warp() * plan.warp_bytes;
  for (int64_t image = blockIdx.z; image < problem.num_images; image += gridDim.z) {
    for (int64_t index = blockIdx.y; index < plan.num_tiles; index += gridDim.y) {
      const MapTile tile(problem, plan, image, index);
      for (int64_t group = blockIdx.x; group < plan.num_groups; group += gridDim.x) {
        const int64_t first_channel = (group * plan.num_warps + warp()) * plan.warp_channels;
        if (first_channel < problem.num_channels) {
          using Adder = std::conditional_t<kLanesAreChannels, ChannelAdder<scalar_t>, BinAdder<scalar_t>>;
          sum_tile<Adder>(problem, placed, tile, first_channel, memory, grad_output, argmax);
        }
      }
    }
  }
}

}  // namespace

cudaError_t backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax, void* scratch,
                     cudaStream_t stream) {
  const PlacedRegions placed(problem, scratch);
  DeviceLimits device;
  for (const cudaError_t error : {place_regions(problem, placed, stream), get_device_limits(&device)}) {
    if (error != cudaSuccess) {
      return error;
    }
  }
  const BackwardPlan plan =
      plan_backward(problem, device, number_from_environment("ROIPOOL_CUDA_TILE_CELLS", INT64_MAX));
  return with_dtype(problem.dtype, [&](auto zero) {
    using scalar_t = decltype(zero);
    const auto kernel = plan.warp_channels > 1 ? backward_kernel<true, scalar_t> : backward_kernel<false, scalar_t>;
    return launch_with_shared_memory(device, kernel, {plan.num_groups, plan.num_tiles, problem.num_images},
                                     static_cast<int>(plan.num_warps) * kWarp, plan.num_warps * plan.warp_bytes, stream,
                                     problem, plan, placed, static_cast<const scalar_t*>(grad_output), argmax);
  });
}

}  // namespace roipool::cuda
