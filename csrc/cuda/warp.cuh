// Names the threads of a warp.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device_limits.h"

namespace roipool::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane() { return static_cast<int>(threadIdx.x % kWarp); }

__device__ inline int warp() { return static_cast<int>(threadIdx.x / kWarp); }

__device__ inline unsigned lanes_below() { return (1u << lane()) - 1; }

}  // namespace roipool::cuda
