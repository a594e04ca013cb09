#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"

namespace roipool::cuda {

// How blocks share the elements of a region's result. It is num_runs runs of run_length adjacent packs:
//
//   contiguous     a run for each channel, of its bins
//   channels_last  a run for each bin, of its channels
//
// A block takes `positions` adjacent packs of runs_per_block runs. Each of its threads keeps to one position, and works
// on runs_at_once runs further down with each step:
//
//                   position 0                          run_length
//     run           +---------------+-----------------+
//       0           | block 0       | block 1         |    threads: positions * runs_at_once
//       .           |               |                 |    steps:   runs_per_block / runs_at_once
//     runs_per_block+---------------+-----------------+
//       .           | block 2       | block 3         |
//     num_runs      +---------------+-----------------+
//
// Neighbouring blocks of the grid have different regions, so that those at work share a few channels, or bins.
struct Tiling {
  int64_t num_regions;
  int64_t num_runs;
  int64_t run_length;
  int64_t runs_per_block;
  int64_t positions;
  int64_t runs_at_once;

  Tiling(int64_t num_regions, int64_t num_runs, int64_t run_length)
      : num_regions(num_regions), num_runs(num_runs), run_length(run_length) {
    constexpr int64_t kSteps = 8;  // what a thread prepares for its position pays off over some runs
    const int64_t blocks_across = std::max<int64_t>(1, divide_up(run_length, kThreads));
    positions = std::max<int64_t>(1, divide_up(run_length, blocks_across));
    runs_at_once = std::clamp<int64_t>(num_runs, 1, kThreads / positions);
    runs_per_block = std::clamp<int64_t>(num_runs, 1, kSteps * runs_at_once);
  }

  Blocks blocks() const { return {num_regions, divide_up(num_runs, runs_per_block), divide_up(run_length, positions)}; }
  int num_threads() const { return static_cast<int>(positions * runs_at_once); }
};

// The part of a result that a block works on, as one of its threads sees it.
struct Tile {
  int64_t k;          // the region
  int64_t first_run;  // of the block
  int64_t end_run;    // of the block
  int64_t run;        // the first of this thread; end_run where it has none
  int64_t position;   // of this thread, in packs
};

// Calls function(tile) for the tiles of a block, one after the other.
template <typename Function>
__device__ void for_each_tile(const Tiling& tiling, const Function& function) {
  const unsigned first_position = threadIdx.x % static_cast<unsigned>(tiling.positions);
  const unsigned first_run = threadIdx.x / static_cast<unsigned>(tiling.positions);
  Tile tile;
  for (int64_t z = blockIdx.z * tiling.positions; z < tiling.run_length; z += gridDim.z * tiling.positions) {
    for (int64_t y = blockIdx.y * tiling.runs_per_block; y < tiling.num_runs; y += gridDim.y * tiling.runs_per_block) {
      for (int64_t x = blockIdx.x; x < tiling.num_regions; x += gridDim.x) {
        tile.k = x;
        tile.first_run = y;
        tile.end_run = y + tiling.runs_per_block < tiling.num_runs ? y + tiling.runs_per_block : tiling.num_runs;
        tile.position = z + first_position;
        tile.run = tile.position < tiling.run_length ? y + first_run : tile.end_run;
        function(tile);
      }
    }
  }
}

}  // namespace roipool::cuda
