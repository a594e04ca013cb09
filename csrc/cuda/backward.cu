#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "problem.h"

namespace roipool::cuda {
namespace {

constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kStagedSlots = 2048;  // bins of the channels of a block that are in shared memory at a time
constexpr int kStepsAhead = 4;
static_assert(kStagedSlots / kWarps % (kWarp * kStepsAhead) == 0);

// A block owns some channels and cells of one image: it sums their gradients in shared memory, one warp to a channel,
// and writes each once. Shared memory:
//
//   int64_t  regions[kThreads]                 regions of the image, in ascending order
//   sum_t    sums[channels][num_cells]
//   sum_t    grads[channels][slots]            staged: gradients of bins, region by region and bin by bin,
//   int32_t  cells[channels][slots]            and the cells that they go to, or -1
//   int32_t  counts[kWarps]
struct ScatterPlan {
  int channels;        // of a block: a power of two, at most kWarps
  int slots;           // staged at a time, for each channel
  int32_t num_cells;   // of a block
  int64_t num_groups;  // of channels, in an image
  int64_t num_parts;   // of a plane

  template <typename sum_t>
  int64_t shared_bytes() const {
    return kThreads * sizeof(int64_t) + channels * (num_cells * sizeof(sum_t)) +
           kStagedSlots * (sizeof(sum_t) + sizeof(int32_t)) + kWarps * sizeof(int32_t);
  }
};

// The channels of a block should be many enough to fill a sector of memory where they are adjacent, but few enough that
// there are blocks for all multiprocessors. A plane that is too large for shared memory is split.
template <typename sum_t>
ScatterPlan plan_scatter(const RoIPoolProblem& problem, const FeatureMaps& maps, const Device& device) {
  const int64_t num_cells = maps.num_cells();
  const int64_t room =
      (device.shared_bytes - ScatterPlan{}.shared_bytes<sum_t>()) / static_cast<int64_t>(sizeof(sum_t));
  const auto too_many = [&](int channels) {
    const int64_t num_blocks = problem.num_images * divide_up(problem.channels, channels);
    return channels * num_cells > room || (!problem.channels_last && num_blocks < 2 * device.num_multiprocessors);
  };
  ScatterPlan plan{};
  plan.channels = kWarps;
  while (plan.channels > 1 && too_many(plan.channels)) {
    plan.channels /= 2;
  }
  plan.slots = static_cast<int>(kStagedSlots / plan.channels);
  plan.num_groups = divide_up(problem.channels, plan.channels);
  const int64_t fewest_parts = divide_up(num_cells, std::max<int64_t>(1, room / plan.channels));
  plan.num_cells = static_cast<int32_t>(divide_up(num_cells, std::max<int64_t>(1, fewest_parts)));
  plan.num_parts = divide_up(num_cells, std::max<int64_t>(1, plan.num_cells));
  return plan;
}

__device__ int lane() { return static_cast<int>(threadIdx.x % kWarp); }

__device__ unsigned lanes_below() { return (1u << lane()) - 1; }

// The regions of an image and level among first .. first + kThreads - 1, in ascending order; returns how many. For a
// whole block.
//
//   regions  [kThreads], shared
//   counts   [kWarps], shared
__device__ int list_regions(const RoIPoolProblem& problem, int64_t level, int64_t image, int64_t first,
                            int64_t* regions, int32_t* counts) {
  const int64_t k = first + threadIdx.x;
  const bool is_listed =
      k < problem.num_rois && problem.image_of_region(k) == image && problem.level_of_region(k) == level;
  const unsigned listed = __ballot_sync(kAllLanes, is_listed);
  const int warp = static_cast<int>(threadIdx.x / kWarp);
  if (lane() == 0) {
    counts[warp] = __popc(listed);
  }
  __syncthreads();
  int before = __popc(listed & lanes_below());
  int all = 0;
  for (int i = 0; i < kWarps; ++i) {
    before += i < warp ? counts[i] : 0;
    all += counts[i];
  }
  if (is_listed) {
    regions[before] = k;
  }
  __syncthreads();
  return all;
}

// sums[cells[i]] += grads[i] for i < count, a multiple of kWarp * kStepsAhead, in ascending order; nothing for a cell
// of -1. For a whole warp, a lane to an i. Which lanes meet at a cell is found out for several steps ahead, as it need
// not wait for the sums of the step before.
template <typename sum_t>
__device__ void add_in_order(sum_t* sums, const int32_t* cells, const sum_t* grads, int count) {
  for (int first = 0; first < count; first += kWarp * kStepsAhead) {
    int32_t cell[kStepsAhead];
    sum_t grad[kStepsAhead];
    int turn[kStepsAhead];          // of this lane among those that it meets
    unsigned waiting[kStepsAhead];  // lanes that do not have the first turn
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

// grad_output, argmax: [K, C, PH, PW]; the maps are grad_inputs, every element of which is written, those of one level
// at a time. index_t counts the bins of kThreads regions.
template <typename index_t, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    scatter(const RoIPoolProblem problem, const int64_t level, const ScatterPlan plan, const scalar_t* grad_output,
            const int32_t* argmax) {
  using sum_t = wide_t<scalar_t>;
  const FeatureMaps& maps = problem.levels[level];
  auto* regions = reinterpret_cast<int64_t*>(shared_memory);
  auto* sums = reinterpret_cast<sum_t*>(regions + kThreads);
  auto* grads = sums + static_cast<int64_t>(plan.channels) * plan.num_cells;
  auto* cells = reinterpret_cast<int32_t*>(grads + kStagedSlots);
  auto* counts = cells + kStagedSlots;
  const auto num_bins = static_cast<index_t>(problem.num_bins());
  const int warp = static_cast<int>(threadIdx.x / kWarp);

  const int64_t num_blocks = problem.num_images * plan.num_groups * plan.num_parts;
  for (int64_t block = blockIdx.x; block < num_blocks; block += gridDim.x) {
    const int64_t part = block % plan.num_parts;
    const int64_t first_channel = block / plan.num_parts % plan.num_groups * plan.channels;
    const int64_t image = block / plan.num_parts / plan.num_groups;
    const auto first_cell = static_cast<int32_t>(part * plan.num_cells);
    const auto cells_left = static_cast<int32_t>(maps.num_cells()) - first_cell;
    const int32_t num_cells = cells_left < plan.num_cells ? cells_left : plan.num_cells;
    const int64_t channels_left = problem.channels - first_channel;
    const int channels = channels_left < plan.channels ? static_cast<int>(channels_left) : plan.channels;

    for (int32_t i = threadIdx.x; i < plan.channels * plan.num_cells; i += blockDim.x) {
      sums[i] = 0;
    }
    for (int64_t first_region = 0; first_region < problem.num_rois; first_region += kThreads) {
      const index_t num_slots = list_regions(problem, level, image, first_region, regions, counts) * num_bins;
      for (index_t first_slot = 0; first_slot < num_slots; first_slot += plan.slots) {
        for (int i = threadIdx.x; i < kStagedSlots; i += blockDim.x) {
          // Neighbouring threads read what is adjacent in memory.
          const int c = problem.channels_last ? i % plan.channels : i / plan.slots;
          const int s = problem.channels_last ? i / plan.channels : i % plan.slots;
          const index_t slot = first_slot + s;
          int32_t cell = -1;
          sum_t grad = 0;
          if (c < channels && slot < num_slots) {
            const int64_t from = regions[slot / num_bins] * problem.output_region_stride +
                                 (first_channel + c) * problem.output_channel_stride +
                                 static_cast<int64_t>(slot % num_bins) * problem.output_bin_stride;
            cell = argmax[from];
            grad = static_cast<sum_t>(grad_output[from]);
          }
          const bool is_here = cell >= first_cell && cell - first_cell < num_cells;
          cells[c * plan.slots + s] = is_here ? cell - first_cell : -1;
          grads[c * plan.slots + s] = grad;
        }
        __syncthreads();
        if (warp < channels) {
          add_in_order(sums + static_cast<int64_t>(warp) * plan.num_cells, cells + warp * plan.slots,
                       grads + warp * plan.slots, plan.slots);
        }
        __syncthreads();
      }
    }

    // Nothing was written to the sums since the last barrier: at least one region was listed, or this is not launched.
    scalar_t* grad_input = static_cast<scalar_t*>(maps.grad_input) + image * maps.image_stride +
                           first_channel * maps.channel_stride + first_cell * maps.cell_stride;
    if (problem.channels_last) {
      for (int32_t i = threadIdx.x; i < plan.channels * num_cells; i += blockDim.x) {
        const int c = i % plan.channels;
        const int32_t cell = i / plan.channels;
        if (c < channels) {
          grad_input[cell * maps.cell_stride + c] = static_cast<scalar_t>(sums[c * plan.num_cells + cell]);
        }
      }
    } else {
      for (int c = 0; c < channels; ++c) {
        for (int32_t cell = threadIdx.x; cell < num_cells; cell += blockDim.x) {
          grad_input[c * maps.channel_stride + cell] = static_cast<scalar_t>(sums[c * plan.num_cells + cell]);
        }
      }
    }
    __syncthreads();  // before the next turn clears the sums
  }
}

// grad_output, argmax: [K, C, PH, PW]; the maps are grad_inputs, every element of which is written
template <typename scalar_t>
cudaError_t launch_backward(const RoIPoolProblem& problem, const scalar_t* grad_output, const int32_t* argmax,
                            cudaStream_t stream) {
  Device device;
  cudaError_t error = get_device(&device);
  const bool few_bins = problem.num_bins() <= (UINT32_MAX - kStagedSlots) / kThreads;
  const auto kernel = few_bins ? scatter<uint32_t, scalar_t> : scatter<uint64_t, scalar_t>;
  for (int64_t level = 0; error == cudaSuccess && level < problem.num_levels; ++level) {
    const auto plan = plan_scatter<wide_t<scalar_t>>(problem, problem.levels[level], device);
    error = launch_with_shared_memory(device, kernel, {problem.num_images * plan.num_groups * plan.num_parts}, kThreads,
                                      plan.template shared_bytes<wide_t<scalar_t>>(), stream, problem, level, plan,
                                      grad_output, argmax);
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
