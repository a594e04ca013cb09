// Scatters gradients to the cells that argmax names, in the order that fixes every bit.
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/backward.h"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "problem.h"

namespace roipool::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ int lane() { return static_cast<int>(threadIdx.x % kWarp); }

__device__ int warp() { return static_cast<int>(threadIdx.x / kWarp); }

__device__ unsigned lanes_below() { return (1u << lane()) - 1; }

// Points to what a block has in shared memory, as ScatterPlan describes it.
template <typename sum_t>
struct ScatterMemory {
  int64_t* starts;
  sum_t* sums;
  sum_t* grads;
  int32_t* cells;
  int32_t* counts;

  __device__ explicit ScatterMemory(const ScatterPlan& plan)
      : starts(reinterpret_cast<int64_t*>(shared_memory)),
        sums(reinterpret_cast<sum_t*>(starts + kThreads)),
        grads(sums + static_cast<int64_t>(plan.num_channels) * plan.num_cells),
        cells(reinterpret_cast<int32_t*>(grads + kBatchGradients)),
        counts(cells + kBatchGradients) {}
};

// Names the part of a level's grad_inputs that a block writes; the last channels and cells may be fewer than the
// plan's.
struct MapPart {
  int64_t image;
  int64_t first_channel;
  int num_channels;
  int32_t first_cell;
  int32_t num_cells;

  __device__ MapPart(const RoIPoolProblem& problem, const FeatureMaps& maps, const ScatterPlan& plan, int64_t block)
      : image(block / plan.num_parts / plan.num_groups),
        first_channel(block / plan.num_parts % plan.num_groups * plan.num_channels),
        first_cell(static_cast<int32_t>(block % plan.num_parts * plan.num_cells)) {
    const int64_t channels_left = problem.num_channels - first_channel;
    const auto cells_left = static_cast<int32_t>(maps.num_cells()) - first_cell;
    num_channels = channels_left < plan.num_channels ? static_cast<int>(channels_left) : plan.num_channels;
    num_cells = cells_left < plan.num_cells ? cells_left : plan.num_cells;
  }
};

// Lists the bins of one piece of the regions of an image and level among first_region .. first_region +
// plan.scanned_regions - 1, region by region in ascending order; returns how many bins there are. For a whole block.
//
//   starts  [kThreads], shared
//   counts  [kWarps], shared
__device__ uint32_t list_bins(const RoIPoolProblem& problem, const ScatterPlan& plan, int64_t level, int64_t image,
                              int64_t first_region, uint32_t piece, int64_t* starts, int32_t* counts) {
  const int64_t k = first_region + threadIdx.x;
  const bool is_listed = static_cast<int>(threadIdx.x) < plan.scanned_regions && k < problem.num_rois &&
                         problem.image_of_region(k) == image && problem.level_of_region(k) == level;
  const unsigned listed = __ballot_sync(kAllLanes, is_listed);
  if (lane() == 0) {
    counts[warp()] = __popc(listed);
  }
  __syncthreads();
  int num_before = __popc(listed & lanes_below());
  int num_regions = 0;
  for (int i = 0; i < kWarps; ++i) {
    num_before += i < warp() ? counts[i] : 0;
    num_regions += counts[i];
  }
  const int64_t first_bin = static_cast<int64_t>(piece) * plan.piece_bins;
  if (is_listed) {
    starts[num_before] = k * problem.output_region_stride + first_bin * problem.output_bin_stride;
  }
  __syncthreads();
  const int64_t bins_left = problem.num_bins() - first_bin;
  return num_regions * (bins_left < plan.piece_bins ? static_cast<uint32_t>(bins_left) : plan.piece_bins);
}

// Copies a batch of the listed bins' gradients for each channel, from number `first` of num_listed on. For a whole
// block.
//
//   grad_output, argmax  [K, C, PH, PW]
template <typename scalar_t>
__device__ void copy_batch(const RoIPoolProblem& problem, const ScatterPlan& plan, const MapPart& part,
                           const scalar_t* grad_output, const int32_t* argmax, uint32_t first, uint32_t num_listed,
                           const ScatterMemory<wide_t<scalar_t>>& memory) {
  for (int i = threadIdx.x; i < kBatchGradients; i += blockDim.x) {
    // Neighbouring threads read what is adjacent in memory.
    const int c = problem.channels_last ? i % plan.num_channels : i / plan.batch_bins;
    const int place = problem.channels_last ? i / plan.num_channels : i % plan.batch_bins;
    const uint32_t listed = first + place;
    int32_t cell = -1;
    wide_t<scalar_t> grad = 0;
    if (c < part.num_channels && listed < num_listed) {
      const int64_t from = memory.starts[listed / plan.piece_bins] +
                           (part.first_channel + c) * problem.output_channel_stride +
                           static_cast<int64_t>(listed % plan.piece_bins) * problem.output_bin_stride;
      cell = argmax[from];
      grad = static_cast<wide_t<scalar_t>>(grad_output[from]);
    }
    const bool is_here = cell >= part.first_cell && is_cell(cell - part.first_cell, part.num_cells);
    memory.cells[c * plan.batch_bins + place] = is_here ? cell - part.first_cell : -1;
    memory.grads[c * plan.batch_bins + place] = grad;
  }
}

// Computes sums[cells[i]] += grads[i] for i < num_grads, a multiple of kWarp * kStepsAhead, in ascending order; nothing
// for a cell of -1. For a whole warp, a lane to an i. Which lanes meet at a cell is found out for several steps ahead,
// as it need not wait for the sums of the step before.
template <typename sum_t>
__device__ void add_in_order(sum_t* sums, const int32_t* cells, const sum_t* grads, int num_grads) {
  for (int first = 0; first < num_grads; first += kWarp * kStepsAhead) {
    int32_t cell[kStepsAhead];
    sum_t grad[kStepsAhead];
    int turn[kStepsAhead];          // this lane's turn among the lanes that it meets
    unsigned waiting[kStepsAhead];  // the lanes that do not have the first turn
    for (int step = 0; step < kStepsAhead; ++step) {
      cell[step] = cells[first + step * kWarp + lane()];
      grad[step] = grads[first + step * kWarp + lane()];
    }
    for (int step = 0; step < kStepsAhead; ++step) {
      const unsigned peers = __match_any_sync(kAllLanes, cell[step]);
      turn[step] = cell[step] < 0 ? -1 : __popc(peers & lanes_below());
      waiting[step] = __ballot_sync(kAllLanes, turn[step] > 0);
    }
    for (int step = 0; step < kStepsAhead; ++step) {
      for (int now = 0;; ++now) {
        if (turn[step] == now) {
          sums[cell[step]] += grad[step];
        }
        __syncwarp();
        if (waiting[step] == 0 || !__any_sync(kAllLanes, turn[step] > now)) {
          break;
        }
      }
    }
  }
}

// Sums the gradients of the listed bins, batch by batch. For a whole block.
//
//   grad_output, argmax  [K, C, PH, PW]
template <typename scalar_t>
__device__ void add_listed(const RoIPoolProblem& problem, const ScatterPlan& plan, const MapPart& part,
                           const scalar_t* grad_output, const int32_t* argmax, uint32_t num_listed,
                           const ScatterMemory<wide_t<scalar_t>>& memory) {
  for (uint32_t first = 0; first < num_listed; first += plan.batch_bins) {
    copy_batch(problem, plan, part, grad_output, argmax, first, num_listed, memory);
    __syncthreads();
    if (warp() < part.num_channels) {
      add_in_order(memory.sums + static_cast<int64_t>(warp()) * plan.num_cells, memory.cells + warp() * plan.batch_bins,
                   memory.grads + warp() * plan.batch_bins, plan.batch_bins);
    }
    __syncthreads();
  }
}

// Writes the sums to their part of the grad_inputs. For a whole block.
template <typename scalar_t>
__device__ void write_sums(const RoIPoolProblem& problem, const FeatureMaps& maps, const ScatterPlan& plan,
                           const MapPart& part, const wide_t<scalar_t>* sums) {
  scalar_t* grad_input = static_cast<scalar_t*>(maps.grad_input) + part.image * maps.image_stride +
                         part.first_channel * maps.channel_stride + part.first_cell * maps.cell_stride;
  if (problem.channels_last) {
    for (int32_t i = threadIdx.x; i < plan.num_channels * part.num_cells; i += blockDim.x) {
      const int c = i % plan.num_channels;
      const int32_t cell = i / plan.num_channels;
      if (c < part.num_channels) {
        grad_input[cell * maps.cell_stride + c] = static_cast<scalar_t>(sums[c * plan.num_cells + cell]);
      }
    }
  } else {
    for (int c = 0; c < part.num_channels; ++c) {
      for (int32_t cell = threadIdx.x; cell < part.num_cells; cell += blockDim.x) {
        grad_input[c * maps.channel_stride + cell] = static_cast<scalar_t>(sums[c * plan.num_cells + cell]);
      }
    }
  }
}

// Sums the gradients of one level's bins, and writes every element of its grad_inputs.
//
//   grad_output, argmax  [K, C, PH, PW]
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const RoIPoolProblem problem, const int64_t level, const ScatterPlan plan,
                   const scalar_t* grad_output, const int32_t* argmax) {
  const FeatureMaps& maps = problem.levels[level];
  const ScatterMemory<wide_t<scalar_t>> memory(plan);
  const int64_t num_blocks = plan.num_blocks(problem);
  for (int64_t block = blockIdx.x; block < num_blocks; block += gridDim.x) {
    const MapPart part(problem, maps, plan, block);
    for (int32_t i = threadIdx.x; i < plan.num_channels * plan.num_cells; i += blockDim.x) {
      memory.sums[i] = 0;
    }
    for (int64_t first_region = 0; first_region < problem.num_rois; first_region += plan.scanned_regions) {
      for (uint32_t piece = 0; piece < plan.num_pieces; ++piece) {
        const uint32_t num_listed =
            list_bins(problem, plan, level, part.image, first_region, piece, memory.starts, memory.counts);
        add_listed(problem, plan, part, grad_output, argmax, num_listed, memory);
      }
    }
    // No thread has written to the sums since the last barrier: bins were listed, or nothing is launched.
    write_sums<scalar_t>(problem, maps, plan, part, memory.sums);
    __syncthreads();  // before the next turn clears the sums
  }
}

// Writes every element of the grad_inputs, level by level.
//
//   grad_output, argmax  [K, C, PH, PW]
template <typename scalar_t>
cudaError_t launch_backward(const RoIPoolProblem& problem, const scalar_t* grad_output, const int32_t* argmax,
                            cudaStream_t stream) {
  DeviceLimits device;
  cudaError_t error = get_device_limits(&device);
  for (int64_t level = 0; error == cudaSuccess && level < problem.num_levels; ++level) {
    const ScatterPlan plan = plan_scatter(problem, problem.levels[level], device);
    error = launch_with_shared_memory(device, scatter_kernel<scalar_t>, {plan.num_blocks(problem)}, kThreads,
                                      plan.shared_bytes, stream, problem, level, plan, grad_output, argmax);
  }
  return error;
}

}  // namespace

cudaError_t backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax,
                     cudaStream_t stream) {
  return with_dtype(problem.dtype, [&](auto zero) {
    return launch_backward(problem, static_cast<const decltype(zero)*>(grad_output), argmax, stream);
  });
}

}  // namespace roipool::cuda
