// Shares out the elements of a result among blocks and threads.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"
#include "cuda/device_limits.h"
#include "cuda/launch.cuh"

namespace roipool::cuda {

// Describes how blocks share out a region's result, which is num_runs runs of run_length adjacent vectors (of one
// element, or of several adjacent channels):
//
//   contiguous     a run for each channel, with its bins
//   channels_last  a run for each bin, with its channels
//
// A block takes num_positions adjacent vectors of runs_per_block runs. Each of its threads keeps to one position, and
// goes runs_at_once runs down with each step:
//
//                   position 0                          run_length
//     run           +---------------+-----------------+
//       0           | block 0       | block 1         |    threads: num_positions * runs_at_once
//       .           |               |                 |    steps:   runs_per_block / runs_at_once
//     runs_per_block+---------------+-----------------+
//       .           | block 2       | block 3         |
//     num_runs      +---------------+-----------------+
//
// Neighbouring blocks of the grid have different regions, so that the blocks at work share a few channels, or bins.
struct Tiling {
  int64_t num_regions;
  int64_t num_runs;
  int64_t run_length;
  int64_t runs_per_block;
  int64_t num_positions;
  int64_t runs_at_once;

  Tiling(int64_t num_regions, int64_t num_runs, int64_t run_length)
      : num_regions(num_regions), num_runs(num_runs), run_length(run_length) {
    constexpr int64_t kSteps = 8;  // a thread's preparations for its position pay off over some runs
    const int64_t blocks_across = std::max<int64_t>(1, divide_up(run_length, kThreads));
    num_positions = std::max<int64_t>(1, divide_up(run_length, blocks_across));
    runs_at_once = std::clamp<int64_t>(num_runs, 1, kThreads / num_positions);
    runs_per_block = std::clamp<int64_t>(num_runs, 1, kSteps * runs_at_once);
  }

  Blocks blocks() const {
    return {num_regions, divide_up(num_runs, runs_per_block), divide_up(run_length, num_positions)};
  }
  int num_threads() const { return static_cast<int>(num_positions * runs_at_once); }
};

// Describes the part of a result that a block works on, as one of its threads sees it.
struct Tile {
  int64_t region;
  int64_t end_run;   // of the block
  int64_t run;       // the first run of this thread; end_run where it has none
  int64_t position;  // of this thread in each of its runs, in vectors
};

// Calls function(tile) for the tiles of a block, one after the other.
template <typename Function>
__device__ void for_each_tile(const Tiling& tiling, const Function& function) {
  const unsigned first_position = threadIdx.x % static_cast<unsigned>(tiling.num_positions);
  const unsigned first_run = threadIdx.x / static_cast<unsigned>(tiling.num_positions);
  Tile tile;
  for (int64_t z = blockIdx.z * tiling.num_positions; z < tiling.run_length; z += gridDim.z * tiling.num_positions) {
    for (int64_t y = blockIdx.y * tiling.runs_per_block; y < tiling.num_runs; y += gridDim.y * tiling.runs_per_block) {
      for (int64_t x = blockIdx.x; x < tiling.num_regions; x += gridDim.x) {
        tile.region = x;
        tile.end_run = y + tiling.runs_per_block < tiling.num_runs ? y + tiling.runs_per_block : tiling.num_runs;
        tile.position = z + first_position;
        tile.run = tile.position < tiling.run_length ? y + first_run : tile.end_run;
        function(tile);
      }
    }
  }
}

}  // namespace roipool::cuda
