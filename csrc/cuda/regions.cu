// Finds the level, the image and the cells of regions, in one small kernel before the forward and the backward.
#include <cuda_runtime.h>

#include <cstdint>

#include "arithmetic.h"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/regions.cuh"
#include "cuda/warp.cuh"
#include "geometry.h"
#include "problem.h"

namespace roipool::cuda {
namespace {

constexpr int kMinBlocks = 2;  // of a multiprocessor; the compiler spills registers where nothing is said of blocks
static_assert(kSegmentRegions % kWarp == 0);

// Is what a block has in shared memory.
struct PlacingMemory {
  int64_t keys[kWarps][kWarp];    // of other regions, as each warp looks at them
  int64_t before[kWarps][kWarp];  // regions that each warp found to come before the one of a lane
};

// Returns what regions are sorted by: level, then image.
__device__ int64_t key_of_region(const RoIPoolProblem& problem, int64_t k) {
  const int64_t image = problem.image_of_region(k);
  return problem.level_of_region(k) * problem.num_images + (image < 0 ? 0 : image);
}

// Counts regions of the segment that come before region k. This warp looks at every kWarps-th group of kWarp.
__device__ int64_t count_before(const RoIPoolProblem& problem, int64_t segment, int64_t k, PlacingMemory& memory) {
  const int64_t key = k < problem.num_rois ? key_of_region(problem, k) : 0;
  int64_t* const keys = memory.keys[warp()];
  int64_t before = 0;
  for (int64_t i = warp() * kWarp; i < kSegmentRegions && segment + i < problem.num_rois; i += kThreads) {
    const int64_t first = segment + i;
    const int64_t other = first + lane();
    keys[lane()] = other < problem.num_rois ? key_of_region(problem, other) : INT64_MAX;
    __syncwarp();
    for (int j = 0; j < kWarp; ++j) {
      before += keys[j] < key || (keys[j] == key && first + j < k);
    }
    __syncwarp();  // before the keys of other regions replace these
  }
  return before;
}

// Writes a region's share of cells that belongs to this warp: every kWarps-th row and column of bins.
template <typename T>
__device__ void write_ranges(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi, CellRange* rows,
                             CellRange* columns) {
  Axis<T> x;
  Axis<T> y;
  const bool has_cells = place_region(problem, maps, roi, &x, &y) >= 0;
  for (int64_t p = warp(); p < problem.pooled_height; p += kWarps) {
    rows[p] = has_cells ? y.bin_cells(p) : CellRange{};
  }
  for (int64_t q = warp(); q < problem.pooled_width; q += kWarps) {
    columns[q] = has_cells ? x.bin_cells(q) : CellRange{};
  }
}

// Places kWarp regions with each block, one to a lane, which the warps share.
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    place_regions_kernel(const RoIPoolProblem problem, const PlacedRegions placed) {
  PlacingMemory& memory = *reinterpret_cast<PlacingMemory*>(shared_memory);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kWarp; first < problem.num_rois;
       first += static_cast<int64_t>(gridDim.x) * kWarp) {
    const int64_t k = first + lane();
    const int64_t segment = first / kSegmentRegions * kSegmentRegions;
    memory.before[warp()][lane()] = count_before(problem, segment, k, memory);
    __syncthreads();
    int64_t position = segment;
    for (int w = 0; w < kWarps; ++w) {
      position += memory.before[w][lane()];
    }
    if (k < problem.num_rois) {
      const int64_t image = problem.image_of_region(k);
      const int64_t level = problem.level_of_region(k);
      if (warp() == 0) {
        placed[position] = {k, image < 0 ? 0 : image, level};
      }
      problem.with_roi(k, [&](const auto* roi) {
        write_ranges(problem, problem.levels[level], roi, placed.rows(position), placed.columns(position));
      });
    }
    __syncthreads();  // before the counts of other regions replace these
  }
}

}  // namespace

int64_t scratch_bytes(const RoIPoolProblem& problem) { return PlacedRegions::scratch_bytes(problem); }

cudaError_t place_regions(const RoIPoolProblem& problem, const PlacedRegions& placed, cudaStream_t stream) {
  return launch(place_regions_kernel, {divide_up(problem.num_rois, kWarp)}, kThreads, sizeof(PlacingMemory), stream,
                problem, placed);
}

}  // namespace roipool::cuda
