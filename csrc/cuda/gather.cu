// Picks the values that argmax names.
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/tiling.cuh"
#include "problem.h"

namespace roipool::cuda {
namespace {

// Reads the maps at argmax. Positions and runs of the tiling are bins and channels where contiguous, channels and bins
// where channels_last.
//
//   argmax, output  [K, C, PH, PW]
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const RoIPoolProblem problem, const Tiling tiling, const int32_t* argmax, scalar_t* output) {
  for_each_tile(tiling, [&](const Tile& tile) {
    const FeatureMaps& maps = problem.levels[problem.level_of_region(tile.region)];
    const int64_t num_cells = maps.num_cells();
    const int64_t image = problem.image_of_region(tile.region);
    const scalar_t* map = static_cast<const scalar_t*>(maps.input) + (image < 0 ? 0 : image) * maps.image_stride;
    for (int64_t run = tile.run; run < tile.end_run; run += tiling.runs_at_once) {
      const int64_t i = tile.region * problem.output_region_stride + run * tiling.run_length + tile.position;
      const int64_t c = problem.channels_last ? tile.position : run;
      const int32_t cell = argmax[i];
      const bool has_cell = image >= 0 && is_cell(cell, num_cells);
      output[i] = has_cell ? map[c * maps.channel_stride + cell * maps.cell_stride] : scalar_t(0);
    }
  });
}

template <typename scalar_t>
cudaError_t launch_gather(const RoIPoolProblem& problem, const int32_t* argmax, scalar_t* output, cudaStream_t stream) {
  const Tiling tiling = problem.channels_last ? Tiling(problem.num_rois, problem.num_bins(), problem.num_channels)
                                              : Tiling(problem.num_rois, problem.num_channels, problem.num_bins());
  return launch(gather_kernel<scalar_t>, tiling.blocks(), tiling.num_threads(), 0, stream, problem, tiling, argmax,
                output);
}

}  // namespace

cudaError_t gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output, cudaStream_t stream) {
  return with_dtype(problem.dtype, [&](auto zero) {
    return launch_gather(problem, argmax, static_cast<decltype(zero)*>(output), stream);
  });
}

}  // namespace roipool::cuda
