// Sums the gradients of the cells that argmax names, in the order that fixes every bit.
//
// grad_inputs are cut into slices of adjacent cells. A warp owns a slice in one channel: it sums the gradients of these
// cells in shared memory and writes each once, and waits for no other warp. It lists runs of bins: of each region of
// its image and level, in order, the rows of bins that meet the slice. Then it adds what its channel has there, 32 bins
// a step, one to each lane.
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/backward.h"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/regions.cuh"
#include "cuda/warp.cuh"
#include "problem.h"

namespace roipool::cuda {
namespace {

constexpr int kMaxWarps = 8;    // of a block
constexpr int kMinBlocks = 2;   // of a multiprocessor, for which a thread has 128 registers
constexpr int kStepsAhead = 4;  // steps whose gradients are loaded while as many are added

// Names the cells of a map that a warp sums, and the rows that they lie in.
struct Slice {
  int64_t image;
  int64_t level;
  int32_t first_cell;
  int32_t num_cells;
  CellRange rows;

  __device__ Slice(const RoIPoolProblem& problem, const BackwardPlan& plan, int64_t image, int64_t index)
      : image(image), level(problem.num_levels - 1) {
    while (index >= plan.levels[level].end) {
      --level;
    }
    const FeatureMaps& maps = problem.levels[level];
    const LevelSlices& slices = plan.levels[level];
    const auto width = static_cast<int32_t>(maps.width);
    first_cell = static_cast<int32_t>(index - slices.begin) * slices.num_cells;
    const int32_t cells_left = static_cast<int32_t>(maps.num_cells()) - first_cell;
    num_cells = cells_left < slices.num_cells ? cells_left : slices.num_cells;
    rows = {first_cell / width, (first_cell + num_cells - 1) / width + 1};
  }
};

// Returns the first of the numbers 0 .. end-1 for which a condition holds that holds for all after it; else `end`.
template <typename Condition>
__device__ int64_t find_first(int64_t end, const Condition& holds) {
  int64_t begin = 0;
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (holds(middle)) {
      end = middle;
    } else {
      begin = middle + 1;
    }
  }
  return begin;
}

// Lists the bins that meet a slice, in order. For a whole warp.
class BinLister {
 public:
  // runs  [kMaxRuns], shared
  __device__ BinLister(const RoIPoolProblem& problem, const PlacedRegions& placed, const Slice& slice, int64_t c,
                       BinRun* runs)
      : problem_(problem),
        placed_(placed),
        slice_(slice),
        channel_offset_(c * problem.output_channel_stride),
        runs_(runs) {}

  // Returns whether there are regions to look at. Each segment has some of the plane's regions next to one another.
  __device__ bool has_next() {
    for (; next_ >= end_ && segment_ < problem_.num_rois; segment_ += kSegmentRegions) {
      const int64_t left = problem_.num_rois - segment_;
      const int64_t size = left < kSegmentRegions ? left : kSegmentRegions;
      const auto first_from = [&](int64_t image) {
        return segment_ + find_first(size, [&](int64_t i) {
                 const PlacedRegion& region = placed_[segment_ + i];
                 return region.level > slice_.level || (region.level == slice_.level && region.image >= image);
               });
      };
      next_ = first_from(slice_.image);
      end_ = first_from(slice_.image + 1);
    }
    return next_ < end_;
  }

  // Writes runs of bins of the next regions; returns how many bins they have.
  __device__ uint32_t list() {
    const uint32_t num_bins = problem_.num_bins() <= kMaxRunBins ? list_regions() : list_rows();
    __syncwarp();
    return num_bins;
  }

 private:
  // Writes a run for each region, as long as there is room. A lane looks at a region.
  __device__ uint32_t list_regions() {
    int num_runs = 0;
    uint32_t num_bins = 0;
    for (; num_runs + kWarp <= kMaxRuns && has_next(); next_ += kWarp) {
      int64_t first_row = 0;
      const int64_t num_rows = next_ + lane() < end_ ? find_rows(next_ + lane(), &first_row) : 0;
      const auto own_bins = static_cast<uint32_t>(num_rows * problem_.pooled_width);
      uint32_t end = own_bins;  // after those of the lanes below
      for (int distance = 1; distance < kWarp; distance *= 2) {
        const uint32_t below = __shfl_up_sync(kAllLanes, end, distance);
        end += lane() >= distance ? below : 0;
      }
      end += num_bins;
      num_bins = __shfl_sync(kAllLanes, end, kWarp - 1);
      const unsigned listed = __ballot_sync(kAllLanes, own_bins > 0);
      if (own_bins > 0) {
        write_run(num_runs + __popc(listed & lanes_below()), next_ + lane(), first_row, end - own_bins, end);
      }
      num_runs += __popc(listed);
    }
    return num_bins;
  }

  // Writes one run of some rows of bins of one region: for regions of very many bins.
  __device__ uint32_t list_rows() {
    int64_t first_row = 0;
    const int64_t end_row = find_rows(next_, &first_row) + first_row;
    first_row = row_ > first_row ? row_ : first_row;
    const int64_t rows_left = first_row < end_row ? end_row - first_row : 0;
    const int64_t max_rows = problem_.pooled_width < kMaxRunBins ? kMaxRunBins / problem_.pooled_width : 1;
    const int64_t num_rows = rows_left < max_rows ? rows_left : max_rows;
    const auto num_bins = static_cast<uint32_t>(num_rows * problem_.pooled_width);
    if (lane() == 0) {
      write_run(0, next_, first_row, 0, num_bins);
    }
    const bool is_done = num_rows == rows_left;
    row_ = is_done ? 0 : first_row + num_rows;
    next_ += is_done ? 1 : 0;
    return num_bins;
  }

  // Finds the rows of region i's bins that meet the slice; returns how many there are.
  __device__ int64_t find_rows(int64_t i, int64_t* first_row) const {
    const CellRange* const rows = placed_.rows(i);
    *first_row = find_first(problem_.pooled_height, [&](int64_t p) { return rows[p].hi > slice_.rows.lo; });
    const int64_t end_row = find_first(problem_.pooled_height, [&](int64_t p) { return rows[p].lo >= slice_.rows.hi; });
    return end_row > *first_row ? end_row - *first_row : 0;
  }

  // Writes a run that begins with the first bin of a row of region i, which has number `begin`.
  __device__ void write_run(int run, int64_t i, int64_t row, uint32_t begin, uint32_t end) {
    const int64_t first_bin = row * problem_.pooled_width - begin;
    runs_[run] = {
        end, placed_[i].k * problem_.output_region_stride + channel_offset_ + first_bin * problem_.output_bin_stride};
  }

  const RoIPoolProblem& problem_;
  const PlacedRegions& placed_;
  const Slice& slice_;
  const int64_t channel_offset_;  // of the warp's channel in grad_output and argmax
  BinRun* const runs_;
  int64_t segment_ = 0;  // the next one
  int64_t next_ = 0;     // region
  int64_t end_ = 0;      // of the plane's regions in the segment before
  int64_t row_ = 0;      // of bins of the next region, where it has very many
};

// Adds the gradients of listed bins to the sums of a slice, in order. For a whole warp.
template <typename scalar_t>
class BinAdder {
 public:
  using sum_t = wide_t<scalar_t>;

  //   runs   [kMaxRuns], shared
  //   given  [2][kMaxGivenGrads][kWarp], shared
  //   sums   [slice.num_cells + kWarp], shared: behind those of cells, one of each lane that is of no use
  __device__ BinAdder(const Slice& slice, const BinRun* runs, sum_t* given, sum_t* sums, const scalar_t* grad_output,
                      const int32_t* argmax, int64_t bin_stride)
      : first_cell_(slice.first_cell),
        num_cells_(static_cast<uint32_t>(slice.num_cells)),
        runs_(runs),
        given_(given),
        sums_(sums),
        grad_output_(grad_output),
        argmax_(argmax),
        bin_stride_(bin_stride) {}

  __device__ void add(uint32_t num_bins) {
    run_ = runs_;
    own_run_ = *run_;
    Steps next = load(0, num_bins);
    for (uint32_t first = 0; first < num_bins; first += kStepsAhead * kWarp) {
      const Steps steps = next;
      next = load(first + kStepsAhead * kWarp, num_bins);
      unsigned peers[kStepsAhead];  // lanes at the same cell, which need not wait for the sums of the step before
      ROIPOOL_UNROLL_BY(kStepsAhead)
      for (int step = 0; step < kStepsAhead; ++step) {
        peers[step] = __match_any_sync(kAllLanes, steps.cells[step]);
      }
      ROIPOOL_UNROLL_BY(kStepsAhead)
      for (int step = 0; step < kStepsAhead; ++step) {
        add_step(steps.cells[step], static_cast<sum_t>(steps.grads[step]), peers[step], step % 2);
      }
    }
    __syncwarp();  // before sums are read by other lanes, and before other runs replace these
  }

 private:
  // Holds what a lane adds in some steps.
  struct Steps {
    int32_t cells[kStepsAhead];  // of the slice, or beyond: the sum that is of no use
    scalar_t grads[kStepsAhead];
  };

  // Loads a lane's bins from number `first` on.
  __device__ Steps load(uint32_t first, uint32_t num_bins) {
    Steps steps;
    ROIPOOL_UNROLL_BY(kStepsAhead)
    for (int step = 0; step < kStepsAhead; ++step) {
      const uint32_t bin = first + step * kWarp + lane();
      int32_t cell = -1;
      steps.grads[step] = scalar_t(0);
      if (bin < num_bins) {
        while (bin >= own_run_.end) {
          own_run_ = *++run_;
        }
        const int64_t from = own_run_.from + bin * bin_stride_;
        cell = argmax_[from];
        steps.grads[step] = grad_output_[from];
      }
      const auto cell_of_slice = static_cast<uint32_t>(cell - first_cell_);  // of a negative cell, more than num_cells_
      const bool is_here = cell_of_slice < num_cells_;
      steps.cells[step] = static_cast<int32_t>(is_here ? cell_of_slice : num_cells_ + lane());
    }
    return steps;
  }

  // Adds a gradient of each lane. The last of the lanes at a cell adds for all of them, in ascending order: the others
  // give it their gradients, kMaxGivenGrads at a time. Sums are read after the barrier, so that those of the step
  // before are there; given gradients go to one buffer in even steps and to another one in odd ones, so that none is
  // replaced before it is read.
  __device__ void add_step(int32_t cell, sum_t grad, unsigned peers, int parity) const {
    sum_t* const given = given_ + parity * kMaxGivenGrads * kWarp;
    const int adder = kWarp - 1 - __clz(static_cast<int>(peers));
    const bool is_adder = adder == lane();
    int rank = __popc(peers & lanes_below());  // among the lanes whose turn is not over
    give(given, is_adder, adder, rank, grad);
    __syncwarp();
    sum_t sum = sums_[cell];
    take(given, rank, &sum);
    while (__any_sync(kAllLanes, rank > kMaxGivenGrads)) {
      rank -= kMaxGivenGrads;
      __syncwarp();  // before other gradients replace these
      give(given, is_adder, adder, rank, grad);
      __syncwarp();
      take(given, rank, &sum);
    }
    if (is_adder) {
      sums_[cell] = sum + grad;
    }
  }

  __device__ static void give(sum_t* given, bool is_adder, int adder, int rank, sum_t grad) {
    if (!is_adder && static_cast<unsigned>(rank) < kMaxGivenGrads) {
      given[rank * kWarp + adder] = grad;
    }
  }

  // Adds the gradients that an adder is given. What other lanes make of their sums is of no use.
  __device__ static void take(const sum_t* given, int rank, sum_t* sum) {
    ROIPOOL_UNROLL_BY(kMaxGivenGrads)
    for (int i = 0; i < kMaxGivenGrads; ++i) {
      const sum_t grad = given[i * kWarp + lane()];
      *sum += i < rank ? grad : -sum_t(0);  // the zero that changes no sum
    }
  }

  const int32_t first_cell_;
  const uint32_t num_cells_;
  const BinRun* const runs_;
  sum_t* const given_;
  sum_t* const sums_;
  const scalar_t* const grad_output_;
  const int32_t* const argmax_;
  const int64_t bin_stride_;
  const BinRun* run_ = nullptr;  // of the bin that this lane loaded last
  BinRun own_run_{};             // *run_
};

// Sums the cells of a slice in one channel, and writes them. For a whole warp.
//
//   grad_output, argmax  [K, C, PH, PW]
template <typename scalar_t>
__device__ void sum_slice(const RoIPoolProblem& problem, const PlacedRegions& placed, const Slice& slice, int64_t c,
                          unsigned char* memory, const scalar_t* grad_output, const int32_t* argmax) {
  using sum_t = wide_t<scalar_t>;
  auto* const runs = reinterpret_cast<BinRun*>(memory);
  auto* const given = reinterpret_cast<sum_t*>(runs + kMaxRuns);
  sum_t* const sums = given + 2 * kMaxGivenGrads * kWarp;
  for (int32_t i = lane(); i < slice.num_cells; i += kWarp) {
    sums[i] = 0;
  }
  BinLister lister(problem, placed, slice, c, runs);
  BinAdder<scalar_t> adder(slice, runs, given, sums, grad_output, argmax, problem.output_bin_stride);
  __syncwarp();
  while (lister.has_next()) {
    adder.add(lister.list());
  }
  const FeatureMaps& maps = problem.levels[slice.level];
  scalar_t* const grad_input = static_cast<scalar_t*>(maps.grad_input) + slice.image * maps.image_stride +
                               c * maps.channel_stride + slice.first_cell * maps.cell_stride;
  for (int32_t i = lane(); i < slice.num_cells; i += kWarp) {
    grad_input[i * maps.cell_stride] = static_cast<scalar_t>(sums[i]);  // the lane that clears the sum again
  }
}

// Writes every element of the grad_inputs of all levels.
//
//   grad_output, argmax  [K, C, PH, PW]
template <typename scalar_t>
__global__ void __launch_bounds__(kMaxWarps* kWarp, kMinBlocks)
    backward_kernel(const RoIPoolProblem problem, const BackwardPlan plan, const PlacedRegions placed,
                    const scalar_t* grad_output, const int32_t* argmax) {
  unsigned char* const memory = shared_memory + warp() * plan.warp_bytes;
  for (int64_t image = blockIdx.z; image < problem.num_images; image += gridDim.z) {
    for (int64_t index = blockIdx.y; index < plan.num_slices; index += gridDim.y) {
      const Slice slice(problem, plan, image, index);
      for (int64_t group = blockIdx.x; group < plan.num_groups; group += gridDim.x) {
        const int64_t c = group * plan.num_warps + warp();
        if (c < problem.num_channels) {
          sum_slice(problem, placed, slice, c, memory, grad_output, argmax);
        }
      }
    }
  }
}

}  // namespace

int64_t scratch_bytes(const RoIPoolProblem& problem) { return PlacedRegions::scratch_bytes(problem); }

cudaError_t backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax, void* scratch,
                     cudaStream_t stream) {
  const PlacedRegions placed(problem, scratch);
  DeviceLimits device;
  for (const cudaError_t error : {place_regions(problem, placed, stream), get_device_limits(&device)}) {
    if (error != cudaSuccess) {
      return error;
    }
  }
  const BackwardPlan plan = plan_backward(problem, device, limit_from_environment("ROIPOOL_CUDA_SLICE_CELLS"));
  return with_dtype(problem.dtype, [&](auto zero) {
    using scalar_t = decltype(zero);
    return launch_with_shared_memory(device, backward_kernel<scalar_t>,
                                     {plan.num_groups, plan.num_slices, problem.num_images}, plan.num_warps * kWarp,
                                     plan.num_warps * plan.warp_bytes, stream, problem, plan, placed,
                                     static_cast<const scalar_t*>(grad_output), argmax);
  });
}

}  // namespace roipool::cuda
