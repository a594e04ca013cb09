// Sums the gradients of the cells that argmax names, in the order that fixes every bit.
//
// grad_inputs are cut into tiles of cells. A warp owns a tile in one channel: it sums the gradients of these cells in
// shared memory and writes each once, and waits for no other warp. It lists runs of bins: of each region of its image
// and level, in order, the bins that meet the tile. Then it adds what its channel has there, 32 bins a step, one to
// each lane.
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

// Names the cells of a map that a warp sums.
struct MapTile {
  int64_t image;
  int64_t level;
  CellRectangle cells;
  int32_t map_width;
  RowFinder rows;

  __device__ MapTile(const RoIPoolProblem& problem, const BackwardPlan& plan, int64_t image, int64_t index)
      : image(image), level(problem.num_levels - 1) {
    while (index >= plan.levels[level].end) {
      --level;
    }
    const FeatureMaps& maps = problem.levels[level];
    const LevelTiles& tiles = plan.levels[level];
    const auto in_level = static_cast<int32_t>(index - tiles.begin);
    const int32_t down = in_level / tiles.num_across;
    map_width = static_cast<int32_t>(maps.width);
    cells.rows = range_of(down, tiles.height, static_cast<int32_t>(maps.height));
    cells.columns = range_of(in_level - down * tiles.num_across, tiles.width, map_width);
    rows = tiles.rows;
  }

  __device__ int32_t num_cells() const {
    return (cells.rows.hi - cells.rows.lo) * (cells.columns.hi - cells.columns.lo);
  }

  // Returns the number of a cell of the map among those of the tile, row by row, or -1. A negative number is no cell.
  __device__ int32_t find(int32_t cell) const {
    const uint32_t y = rows.row_of(static_cast<uint32_t>(cell));
    const uint32_t row = y - cells.rows.lo;
    const uint32_t column = static_cast<uint32_t>(cell) - y * map_width - cells.columns.lo;
    const uint32_t width = cells.columns.hi - cells.columns.lo;
    const bool is_here = row < static_cast<uint32_t>(cells.rows.hi - cells.rows.lo) && column < width;
    return is_here ? static_cast<int32_t>(row * width + column) : -1;
  }

 private:
  __device__ static CellRange range_of(int32_t index, int32_t size, int32_t end) {
    const int32_t lo = index * size;
    return {lo, end - lo < size ? end : lo + size};
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

// Lists the bins that meet a tile, in order. For a whole warp.
class BinLister {
 public:
  // runs  [kMaxRuns], shared
  __device__ BinLister(const RoIPoolProblem& problem, const PlacedRegions& placed, const MapTile& tile, int64_t c,
                       BinRun* runs)
      : problem_(problem),
        placed_(placed),
        tile_(tile),
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
                 return region.level > tile_.level || (region.level == tile_.level && region.image >= image);
               });
      };
      next_ = first_from(tile_.image);
      end_ = first_from(tile_.image + 1);
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
  // Names some bins of a region.
  struct Bins {
    int64_t first_row;
    int64_t end_row;
    int64_t first_column;
    int64_t num_columns;
  };

  // Writes a run for each region, as long as there is room. A lane looks at a region.
  __device__ uint32_t list_regions() {
    int num_runs = 0;
    uint32_t num_bins = 0;
    for (; num_runs + kWarp <= kMaxRuns && has_next(); next_ += kWarp) {
      const int64_t i = next_ + lane();
      const Bins bins = i < end_ ? find_bins(i) : Bins{};
      const auto own_bins = static_cast<uint32_t>((bins.end_row - bins.first_row) * bins.num_columns);
      uint32_t end = own_bins;  // after those of the lanes below
      for (int distance = 1; distance < kWarp; distance *= 2) {
        const uint32_t below = __shfl_up_sync(kAllLanes, end, distance);
        end += lane() >= distance ? below : 0;
      }
      end += num_bins;
      num_bins = __shfl_sync(kAllLanes, end, kWarp - 1);
      const unsigned listed = __ballot_sync(kAllLanes, own_bins > 0);
      if (own_bins > 0) {
        write_run(num_runs + __popc(listed & lanes_below()), i, bins, end - own_bins, end);
      }
      num_runs += __popc(listed);
    }
    return num_bins;
  }

  // Writes one run of one region: for regions of very many bins.
  __device__ uint32_t list_rows() {
    Bins bins = find_bins(next_);
    bins.first_row = row_ > bins.first_row ? row_ : bins.first_row;
    const bool may_have_rows = bins.num_columns > 0 && bins.num_columns < kMaxRunBins;
    const int64_t max_rows = may_have_rows ? kMaxRunBins / bins.num_columns : 1;
    const bool is_last = bins.end_row - bins.first_row <= max_rows;
    bins.end_row = is_last ? bins.end_row : bins.first_row + max_rows;
    const auto num_bins = static_cast<uint32_t>((bins.end_row - bins.first_row) * bins.num_columns);
    if (lane() == 0) {
      write_run(0, next_, bins, 0, num_bins);
    }
    row_ = is_last ? 0 : bins.end_row;
    next_ += is_last ? 1 : 0;
    return num_bins;
  }

  // Finds the bins of region i that meet the tile.
  __device__ Bins find_bins(int64_t i) const {
    const CellRange* const rows = placed_.rows(i);
    const CellRange* const columns = placed_.columns(i);
    const CellRange p = meeting(rows, problem_.pooled_height, tile_.cells.rows);
    const CellRange q = meeting(columns, problem_.pooled_width, tile_.cells.columns);
    return p.empty() || q.empty() ? Bins{} : Bins{p.lo, p.hi, q.lo, q.hi - q.lo};
  }

  // Returns which of some ranges, which ascend, meet another one.
  __device__ static CellRange meeting(const CellRange* ranges, int64_t num_ranges, const CellRange& cells) {
    return {static_cast<int32_t>(find_first(num_ranges, [&](int64_t i) { return ranges[i].hi > cells.lo; })),
            static_cast<int32_t>(find_first(num_ranges, [&](int64_t i) { return ranges[i].lo >= cells.hi; }))};
  }

  __device__ void write_run(int run, int64_t i, const Bins& bins, uint32_t begin, uint32_t end) {
    const bool is_row = bins.end_row - bins.first_row == 1;
    const int64_t first_bin = bins.first_row * problem_.pooled_width + bins.first_column;
    runs_[run] = {
        begin, end, is_row ? 0.0f : 1.0f / static_cast<float>(bins.num_columns),
        static_cast<uint32_t>(problem_.pooled_width - bins.num_columns),
        placed_[i].k * problem_.output_region_stride + channel_offset_ + first_bin * problem_.output_bin_stride};
  }

  const RoIPoolProblem& problem_;
  const PlacedRegions& placed_;
  const MapTile& tile_;
  const int64_t channel_offset_;  // of the warp's channel in grad_output and argmax
  BinRun* const runs_;
  int64_t segment_ = 0;  // the next one
  int64_t next_ = 0;     // region
  int64_t end_ = 0;      // of the plane's regions in the segment before
  int64_t row_ = 0;      // of bins of the next region, where it has very many
};

// Adds the gradients of listed bins to the sums of a tile, in order. For a whole warp.
template <typename scalar_t>
class BinAdder {
 public:
  using sum_t = wide_t<scalar_t>;

  //   runs   [kMaxRuns], shared
  //   given  [2][kMaxGivenGrads][kWarp], shared
  //   sums   [tile.num_cells() + kWarp], shared: behind those of cells, one of each lane that is of no use
  __device__ BinAdder(const MapTile& tile, const BinRun* runs, sum_t* given, sum_t* sums, const scalar_t* grad_output,
                      const int32_t* argmax, int64_t bin_stride)
      : tile_(tile),
        num_cells_(tile.num_cells()),
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
    int32_t cells[kStepsAhead];  // of the tile, or beyond: the sum that is of no use
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
        const uint32_t of_run = bin - own_run_.begin;
        const auto row = static_cast<uint32_t>((static_cast<float>(of_run) + 0.5f) * own_run_.rows_per_bin);
        const int64_t from = own_run_.from + (of_run + static_cast<int64_t>(row) * own_run_.skip) * bin_stride_;
        cell = argmax_[from];
        steps.grads[step] = grad_output_[from];
      }
      cell = tile_.find(cell);
      steps.cells[step] = cell >= 0 ? cell : num_cells_ + lane();
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

  const MapTile tile_;
  const int32_t num_cells_;
  const BinRun* const runs_;
  sum_t* const given_;
  sum_t* const sums_;
  const scalar_t* const grad_output_;
  const int32_t* const argmax_;
  const int64_t bin_stride_;
  const BinRun* run_ = nullptr;  // of the bin that this lane loaded last
  BinRun own_run_{};             // *run_
};

// Sums the cells of a tile in one channel, and writes them. For a whole warp.
//
//   grad_output, argmax  [K, C, PH, PW]
template <typename scalar_t>
__device__ void sum_tile(const RoIPoolProblem& problem, const PlacedRegions& placed, const MapTile& tile, int64_t c,
                         unsigned char* memory, const scalar_t* grad_output, const int32_t* argmax) {
  using sum_t = wide_t<scalar_t>;
  auto* const runs = reinterpret_cast<BinRun*>(memory);
  auto* const given = reinterpret_cast<sum_t*>(runs + kMaxRuns);
  sum_t* const sums = given + 2 * kMaxGivenGrads * kWarp;
  const int32_t num_cells = tile.num_cells();
  for (int32_t i = lane(); i < num_cells; i += kWarp) {
    sums[i] = 0;
  }
  BinLister lister(problem, placed, tile, c, runs);
  BinAdder<scalar_t> adder(tile, runs, given, sums, grad_output, argmax, problem.output_bin_stride);
  __syncwarp();
  while (lister.has_next()) {
    adder.add(lister.list());
  }
  const FeatureMaps& maps = problem.levels[tile.level];
  scalar_t* const grad_input =
      static_cast<scalar_t*>(maps.grad_input) + tile.image * maps.image_stride + c * maps.channel_stride;
  const int32_t width = tile.cells.columns.hi - tile.cells.columns.lo;
  for (int32_t first = 0; first < num_cells; first += width) {
    const int32_t y = tile.cells.rows.lo + first / width;
    const int64_t to = static_cast<int64_t>(y) * maps.width + tile.cells.columns.lo;
    for (int32_t i = lane(); i < width; i += kWarp) {
      grad_input[(to + i) * maps.cell_stride] = static_cast<scalar_t>(sums[first + i]);
    }
  }
  __syncwarp();  // before the next turn clears the sums
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
    for (int64_t index = blockIdx.y; index < plan.num_tiles; index += gridDim.y) {
      const MapTile tile(problem, plan, image, index);
      for (int64_t group = blockIdx.x; group < plan.num_groups; group += gridDim.x) {
        const int64_t c = group * plan.num_warps + warp();
        if (c < problem.num_channels) {
          sum_tile(problem, placed, tile, c, memory, grad_output, argmax);
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
  const BackwardPlan plan = plan_backward(problem, device, limit_from_environment("ROIPOOL_CUDA_TILE_CELLS"));
  return with_dtype(problem.dtype, [&](auto zero) {
    using scalar_t = decltype(zero);
    return launch_with_shared_memory(device, backward_kernel<scalar_t>,
                                     {plan.num_groups, plan.num_tiles, problem.num_images}, plan.num_warps * kWarp,
                                     plan.num_warps * plan.warp_bytes, stream, problem, plan, placed,
                                     static_cast<const scalar_t*>(grad_output), argmax);
  });
}

}  // namespace roipool::cuda
