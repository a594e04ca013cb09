// Picks the values that argmax names.
#include <cuda_runtime.h>

#include <cstdint>

#include "arithmetic.h"
#include "cuda/divider.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "problem.h"

namespace roipool::cuda {
namespace {

// Reads the maps at argmax. A block has elements of one region, side by side. Adjacent elements share a channel
// where contiguous, a bin where channels_last.
//
//   argmax, output  [K, C, PH, PW]
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const RoIPoolProblem problem, const Divider row_length, const int32_t* argmax, scalar_t* output) {
  for (int64_t k = blockIdx.x; k < problem.num_rois; k += gridDim.x) {
    const FeatureMaps& maps = problem.levels[problem.level_of_region(k)];
    const int64_t image = problem.image_of_region(k);
    const scalar_t* map = static_cast<const scalar_t*>(maps.input) + (image < 0 ? 0 : image) * maps.image_stride;
    for (int64_t i = blockIdx.y * kThreads + threadIdx.x; i < problem.output_region_stride; i += gridDim.y * kThreads) {
      const int64_t quotient = row_length.divide(i);
      const int64_t c = problem.channels_last ? i - quotient * problem.num_channels : quotient;
      const int64_t at = k * problem.output_region_stride + i;
      const bool has_cell = image >= 0 && is_cell(argmax[at], maps.num_cells());
      output[at] = has_cell ? map[c * maps.channel_stride + argmax[at] * maps.cell_stride] : scalar_t(0);
    }
  }
}

}  // namespace

cudaError_t gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output, cudaStream_t stream) {
  const Divider row_length(problem.channels_last ? problem.num_channels : problem.num_bins());
  const Blocks blocks{problem.num_rois, divide_up(problem.output_region_stride, kThreads)};
  return with_dtype(problem.dtype, [&](auto zero) {
    using scalar_t = decltype(zero);
    return launch(gather_kernel<scalar_t>, blocks, kThreads, 0, stream, problem, row_length, argmax,
                  static_cast<scalar_t*>(output));
  });
}

}  // namespace roipool::cuda
