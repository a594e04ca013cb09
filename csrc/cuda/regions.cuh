// Places the regions of a call on the device.
#pragma once

#include <cuda_runtime.h>

#include "cuda/regions.h"
#include "problem.h"

namespace roipool::cuda {

// Finds the level, the image and the cells of all regions, and writes them to `placed` in their order.
cudaError_t place_regions(const RoIPoolProblem& problem, const PlacedRegions& placed, cudaStream_t stream);

}  // namespace roipool::cuda
