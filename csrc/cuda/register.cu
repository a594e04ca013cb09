// The CUDA kernels: forward, backward, gather. The same functions, and the same bits, as cpu/roi_pool_kernel.cpp.
//
// Maps, outputs and argmax may have more than 2^31 elements: pointers advance in 64 bits. Cells of a plane, of which
// there are fewer, are counted in 32.
#include <cuda_runtime.h>
#ifdef __CUDACC__
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "ops/operators.h"
#include "problem.h"

#ifdef __CUDACC__
#define ROIPOOL_PRAGMA(text) _Pragma(#text)
#define ROIPOOL_UNROLL(count) ROIPOOL_PRAGMA(unroll count)
#else
#define ROIPOOL_UNROLL(count)
#endif

namespace roipool {

// What a launch asks for beside its registers; each kernel divides it up.
alignas(16) extern __shared__ unsigned char shared_memory[];

namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // of a block, where nothing else is said
constexpr int kMostThreads = 1024;
constexpr unsigned kAllLanes = 0xffffffffu;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What the plans of launches go by.
struct Device {
  int shared_bytes = 0;  // that a block may have
  int num_multiprocessors = 0;
};

cudaError_t get_device(Device* device) {
  int index = 0;
  for (const cudaError_t error :
       {cudaGetDevice(&index),
        cudaDeviceGetAttribute(&device->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index),
        cudaDeviceGetAttribute(&device->num_multiprocessors, cudaDevAttrMultiProcessorCount, index)}) {
    if (error != cudaSuccess) {
      return error;
    }
  }
  return cudaSuccess;
}

// Blocks in each dimension. Kernels take several turns where there are more than a grid holds.
struct Blocks {
  int64_t x;
  int64_t y = 1;
  int64_t z = 1;
};

// kernel<<<blocks, num_threads, shared_bytes, stream>>>(arguments...), as a function; does nothing for no blocks.
template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), Blocks blocks, int num_threads, int64_t shared_bytes,
                   cudaStream_t stream, std::common_type_t<Parameters>... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) {
    return cudaSuccess;
  }
  cudaLaunchConfig_t config{};
  config.gridDim.x = static_cast<unsigned>(std::min<int64_t>(blocks.x, INT32_MAX));
  config.gridDim.y = static_cast<unsigned>(std::min<int64_t>(blocks.y, UINT16_MAX));
  config.gridDim.z = static_cast<unsigned>(std::min<int64_t>(blocks.z, UINT16_MAX));
  config.blockDim.x = static_cast<unsigned>(num_threads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// The same for a kernel that may ask for more than 48 KiB of shared memory. It is allowed the most that the device has,
// whatever this launch needs: the attribute is the kernel's, and other threads set it, too.
template <typename... Parameters>
cudaError_t launch_with_shared_memory(const Device& device, void (*kernel)(Parameters...), Blocks blocks,
                                      int num_threads, int64_t shared_bytes, cudaStream_t stream,
                                      std::common_type_t<Parameters>... arguments) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_bytes);
  return error != cudaSuccess ? error : launch(kernel, blocks, num_threads, shared_bytes, stream, arguments...);
}

// Adjacent elements that a thread reads or writes at once.
template <typename T, int kSize>
struct alignas(sizeof(T) * kSize < 16 ? sizeof(T) * kSize : 16) Pack {
  T values[kSize];
};

template <typename T, int kSize>
__device__ Pack<T, kSize> load(const T* from) {
  return *reinterpret_cast<const Pack<T, kSize>*>(from);
}

// By the intrinsic, since the compiler takes a store of a struct apart.
template <typename T, int kSize>
__device__ void store(const Pack<T, kSize>& pack, T* to) {
  if constexpr (kSize == 1) {
    *to = pack.values[0];
  } else {
    using Word = std::conditional_t<sizeof(pack) % 16 == 0, uint4, uint2>;
    static_assert(sizeof(pack) % sizeof(Word) == 0);
    Word words[sizeof(pack) / sizeof(Word)];
    memcpy(words, &pack, sizeof(pack));
    for (size_t i = 0; i < sizeof(pack) / sizeof(Word); ++i) {
      __stwb(reinterpret_cast<Word*>(to) + i, words[i]);
    }
  }
}

// a / divisor for 0 <= a < 2^52. The compiler's own division of 64-bit numbers is a function that costs a stack frame.
class Divider {
 public:
  explicit Divider(int64_t divisor) : divisor_(divisor), inverse_(1.0 / static_cast<double>(divisor)) {}

  __device__ int64_t divide(int64_t a) const {
    const auto nearly = static_cast<int64_t>(static_cast<double>(a) * inverse_);  // within 1 of the quotient
    const int64_t rest = a - nearly * divisor_;
    return nearly + (rest >= divisor_ ? 1 : 0) - (rest < 0 ? 1 : 0);
  }

 private:
  int64_t divisor_;
  double inverse_;
};

// The same for 0 <= a < 2^20, in fewer instructions.
class SmallDivider {
 public:
  __device__ explicit SmallDivider(int64_t divisor) : inverse_(1.0f / static_cast<float>(divisor)) {}

  __device__ int32_t divide(int32_t a) const { return static_cast<int32_t>((static_cast<float>(a) + 0.5f) * inverse_); }

 private:
  float inverse_;
};

// ---- Regions.

// The maps that region k is pooled from. A kernel for a single level has kPyramid = false: what it reads of them then
// lies at places that the compiler knows, and takes no registers.
template <bool kPyramid>
__device__ const FeatureMaps& maps_of_region(const RoIPoolProblem& problem, int64_t k) {
  return problem.levels[kPyramid ? problem.level_of_region(k) : 0];
}

// The cells of one bin.
struct Bin {
  Window row;
  Window column;

  __device__ bool empty() const { return row.empty() || column.empty(); }
};

// The axes of a region; false where all its bins are empty, by decree.
template <typename T>
__device__ bool locate_axes(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi, Axis<T>* x,
                            Axis<T>* y) {
  const T spatial_scale = static_cast<T>(maps.spatial_scale);
  return image_of(roi, problem.num_images) >= 0 &&
         make_axis(roi[1], roi[3], spatial_scale, maps.width, problem.pooled_width, x) &&
         make_axis(roi[2], roi[4], spatial_scale, maps.height, problem.pooled_height, y);
}

template <typename T>
__device__ Bin locate_bin(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi, int64_t p, int64_t q) {
  Axis<T> x;
  Axis<T> y;
  return locate_axes(problem, maps, roi, &x, &y) ? Bin{y.window(p), x.window(q)} : Bin{};
}

// function(roi) for region k.
template <typename Function>
__device__ auto with_roi(const RoIPoolProblem& problem, int64_t k, const Function& function) {
  return problem.rois_are_double ? function(static_cast<const double*>(problem.rois) + 5 * k)
                                 : function(static_cast<const float*>(problem.rois) + 5 * k);
}

// A bin of region k, in the maps of its level.
__device__ Bin locate_bin(const RoIPoolProblem& problem, const FeatureMaps& maps, const Divider& pooled_width,
                          int64_t k, int64_t bin) {
  const int64_t p = pooled_width.divide(bin);
  const int64_t q = bin - p * problem.pooled_width;
  return with_roi(problem, k, [&](const auto* roi) { return locate_bin(problem, maps, roi, p, q); });
}

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

// ---- Forward.

// At once on a multiprocessor, at least. Left to itself, the compiler aims at more, and spills registers.
constexpr int kForwardBlocks = 3;

// The maxima of a bin in kSize adjacent channels, and the cells that they lie in.
template <typename scalar_t, int kSize>
struct Maxima {
  Pack<scalar_t, kSize> values{};
  Pack<int32_t, kSize> cells;

  __device__ Maxima() {
    for (int i = 0; i < kSize; ++i) {
      cells.values[i] = -1;
    }
  }
};

// map: the first of the channels, in the image of the region
template <int kSize, typename scalar_t>
__device__ Maxima<scalar_t, kSize> pool_bin(const FeatureMaps& maps, const scalar_t* map, int64_t cell_stride,
                                            const Bin& bin) {
  Maxima<scalar_t, kSize> maxima;
  if (bin.empty()) {
    return maxima;
  }
  const auto width = static_cast<int32_t>(maps.width);
  const int32_t first = bin.row.lo * width + bin.column.lo;
  maxima.values = load<scalar_t, kSize>(map + first * cell_stride);
  wide_t<scalar_t> best[kSize];
  for (int i = 0; i < kSize; ++i) {
    best[i] = maxima.values.values[i];
    maxima.cells.values[i] = first;
  }
  for (int32_t y = bin.row.lo; y < bin.row.hi; ++y) {
    int32_t cell = y * width + bin.column.lo;
    const scalar_t* from = map + cell * cell_stride;
    for (const int32_t end = y * width + bin.column.hi; cell < end; ++cell, from += cell_stride) {
      const Pack<scalar_t, kSize> pack = load<scalar_t, kSize>(from);
      for (int i = 0; i < kSize; ++i) {
        const wide_t<scalar_t> value = pack.values[i];
        if (value > best[i] || value != value) {
          best[i] = value;
          maxima.values.values[i] = pack.values[i];  // the bits of a NaN would not survive the way there and back
          maxima.cells.values[i] = cell;
        }
      }
    }
  }
  return maxima;
}

// output, argmax: [K, C, PH, PW], contiguous; argmax only where kArgmax. A position is a bin, a run a channel.
template <bool kPyramid, bool kArgmax, typename scalar_t>
__global__ void __launch_bounds__(kThreads, kForwardBlocks)
    pool_contiguous(const RoIPoolProblem problem, const Tiling tiling, const Divider pooled_width, scalar_t* output,
                    int32_t* argmax) {
  for_each_tile(tiling, [&](const Tile& tile) {
    if (tile.run >= tile.end_run) {
      return;
    }
    const FeatureMaps& maps = maps_of_region<kPyramid>(problem, tile.k);
    const Bin bin = locate_bin(problem, maps, pooled_width, tile.k, tile.position);
    const int64_t image = bin.empty() ? 0 : problem.image_of_region(tile.k);
    const scalar_t* map = static_cast<const scalar_t*>(maps.data) + image * maps.image_stride;
    for (int64_t c = tile.run; c < tile.end_run; c += tiling.runs_at_once) {
      const auto maxima = pool_bin<1>(maps, map + c * maps.channel_stride, 1, bin);
      const int64_t to = tile.k * problem.region_stride + c * problem.channel_stride + tile.position;
      output[to] = maxima.values.values[0];
      if (kArgmax) {
        argmax[to] = maxima.cells.values[0];
      }
    }
  });
}

// output, argmax: [K, C, PH, PW], channels_last; argmax only where kArgmax. A position is kSize channels, a run a bin.
template <bool kPyramid, bool kArgmax, int kSize, typename scalar_t>
__global__ void __launch_bounds__(kThreads, kForwardBlocks)
    pool_channels_last(const RoIPoolProblem problem, const Tiling tiling, const Divider pooled_width, scalar_t* output,
                       int32_t* argmax) {
  Bin* bins = reinterpret_cast<Bin*>(shared_memory);  // [runs_per_block]
  for_each_tile(tiling, [&](const Tile& tile) {
    const FeatureMaps& maps = maps_of_region<kPyramid>(problem, tile.k);
    for (int64_t bin = tile.first_run + threadIdx.x; bin < tile.end_run; bin += blockDim.x) {
      bins[bin - tile.first_run] = locate_bin(problem, maps, pooled_width, tile.k, bin);
    }
    __syncthreads();
    const int64_t image = problem.image_of_region(tile.k);
    const scalar_t* map =
        static_cast<const scalar_t*>(maps.data) + (image < 0 ? 0 : image) * maps.image_stride + tile.position * kSize;
    for (int64_t bin = tile.run; bin < tile.end_run; bin += tiling.runs_at_once) {
      const auto maxima = pool_bin<kSize>(maps, map, maps.cell_stride, bins[bin - tile.first_run]);
      const int64_t to = tile.k * problem.region_stride + bin * problem.bin_stride + tile.position * kSize;
      store(maxima.values, output + to);
      if (kArgmax) {
        store(maxima.cells, argmax + to);
      }
    }
    __syncthreads();  // before the bins of the next tile replace these
  });
}

// ---- Forward, from shared memory.
//
// The kernels above fetch a cell anew for each bin that it is in. Where there are at least as many bins as cells, and a
// plane fits in shared memory, a block copies kSize channels of an image there, side by side, and pools all regions of
// the image from them, or a share of the regions.
//
// Where no argmax is asked for, a cell may stand for several: it is raised to the maximum of 2 x 2 cells, of which it
// is the first, then of 4 x 4, and of 8 x 8. A region is pooled from the largest squares that fit in all its bins: its
// reach. Only planes without a NaN or a negative zero are raised, as the order of taking maxima does not show in them.

constexpr int kListed = 1024;        // regions that are pooled from one copy of the planes
constexpr int kScanned = 512;        // that are looked at together, for those of an image
constexpr int kListedWindows = 512;  // that are placed together: rows and columns of bins
constexpr uint8_t kReaches = 4;      // 1, 2, 4 and 8 cells; written as 0 to 3

// As Window, for maps that fit in shared memory.
struct ShortWindow {
  int16_t lo;
  int16_t hi;

  __device__ bool empty() const { return hi <= lo; }
};

// What a block has in shared memory, beside its cells.
struct StagedLists {
  ShortWindow windows[kListedWindows];  // of some regions, each: PH of rows, PW of columns
  uint32_t listed[kListed];             // regions
  uint16_t by_reach[kListed];           // places in the list, those of regions of the least reach first
  uint8_t reaches[kListed];
  int32_t num_listed;
  int32_t counts[kReaches];  // regions of a reach
  int32_t nexts[kReaches];   // those of them that by_reach has
  int32_t special;           // whether a cell is
};

struct StagedPlan {
  int64_t num_groups;    // of channels, in an image
  int64_t num_shares;    // of the regions
  int64_t shared_bytes;  // of a block
  int num_threads;

  ROIPOOL_HOST_DEVICE int64_t num_blocks(const RoIPoolProblem& problem) const {
    return problem.num_images * num_groups * num_shares;
  }
};

// False where planes do not fit, or are not worth copying.
template <int kSize, typename scalar_t>
bool plan_staged(const RoIPoolProblem& problem, const Device& device, StagedPlan* plan) {
  const int64_t num_cells = problem.levels[0].num_cells();
  const int64_t shared_bytes = num_cells * sizeof(Pack<scalar_t, kSize>) + sizeof(StagedLists);
  if (problem.num_levels > 1 || problem.channels < kSize || num_cells == 0 || num_cells > INT16_MAX ||
      shared_bytes > device.shared_bytes || problem.num_images == 0 || problem.pooled_height >= kListedWindows ||
      problem.pooled_height + problem.pooled_width > kListedWindows || problem.num_rois > UINT32_MAX ||
      problem.num_rois * problem.num_bins() < problem.num_images * num_cells) {
    return false;
  }
  // A wave of blocks, as many as fit; but each should have as many bins to pool as cells to copy.
  constexpr int64_t kReserved = 1024;  // bytes of shared memory that the system takes for each block
  const int64_t fitting = std::min<int64_t>(4, (device.shared_bytes + kReserved) / (shared_bytes + kReserved));
  const int64_t most_shares = problem.num_rois * problem.num_bins() / (problem.num_images * num_cells);
  plan->num_groups = divide_up(problem.channels, kSize);
  plan->num_shares = std::clamp<int64_t>(fitting * device.num_multiprocessors / (problem.num_images * plan->num_groups),
                                         1, most_shares);
  plan->shared_bytes = shared_bytes;
  // 1024 threads on a multiprocessor, which have 64 registers each.
  const int64_t at_once = std::min(fitting, divide_up(plan->num_blocks(problem), device.num_multiprocessors));
  plan->num_threads = static_cast<int>(kMostThreads / at_once / kWarp * kWarp);
  return 2 * plan->num_blocks(problem) >= device.num_multiprocessors;
}

// The least height and width of a region's bins that have a cell; 0 where none has.
template <typename T>
__device__ int32_t least_side(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi) {
  Axis<T> x;
  Axis<T> y;
  if (!locate_axes(problem, maps, roi, &x, &y)) {
    return 0;
  }
  const auto least = [](const Axis<T>& axis, int64_t num_windows) {
    int32_t side = 0;
    for (int64_t i = 0; i < num_windows; ++i) {
      const Window window = axis.window(i);
      if (!window.empty() && (side == 0 || window.hi - window.lo < side)) {
        side = window.hi - window.lo;
      }
    }
    return side;
  };
  const int32_t height = least(y, problem.pooled_height);
  const int32_t width = least(x, problem.pooled_width);
  return height < width ? height : width;
}

// Of a region, row i of its bins, or column i - PH.
template <typename T>
__device__ ShortWindow locate_window(const RoIPoolProblem& problem, const FeatureMaps& maps, const T* roi, int64_t i) {
  Axis<T> x;
  Axis<T> y;
  if (!locate_axes(problem, maps, roi, &x, &y)) {
    return ShortWindow{};
  }
  const Window window = i < problem.pooled_height ? y.window(i) : x.window(i - problem.pooled_height);
  return {static_cast<int16_t>(window.lo), static_cast<int16_t>(window.hi)};
}

// A block's work on some channels of an image. Its functions are for whole blocks: all threads call them.
template <bool kArgmax, int kSize, typename scalar_t>
class Stage {
 public:
  using Cell = Pack<scalar_t, kSize>;

  __device__ Stage(const RoIPoolProblem& problem, int64_t image, int64_t channel)
      : problem_(problem),
        maps_(problem.levels[0]),
        image_(image),
        channel_(channel),
        width_(static_cast<int32_t>(maps_.width)),
        num_cells_(static_cast<int32_t>(maps_.num_cells())),
        cells_(reinterpret_cast<Cell*>(shared_memory)),
        lists_(*reinterpret_cast<StagedLists*>(cells_ + num_cells_)) {}

  // Pools the regions of its image among first, first + step, and so on.
  __device__ void pool(int64_t first, int64_t step, scalar_t* output, int32_t* argmax) const {
    while (first < problem_.num_rois) {
      first = list(first, step);
      const int32_t num_listed = lists_.num_listed;
      if (num_listed > 0) {
        sort_by_reach();
        copy_planes();
      }
      __syncthreads();
      if (lists_.special) {
        pool_listed<false>(0, num_listed, 1, output, argmax);
      } else {
        pool_by_reach(num_listed, output, argmax);
      }
    }
  }

 private:
  // Lists regions until there are no more, or no room for more; returns where to go on. Regions of no image are taken
  // by images in turn.
  __device__ int64_t list(int64_t first, int64_t step) const {
    if (threadIdx.x == 0) {
      lists_.num_listed = 0;
      lists_.special = 0;
    }
    if (threadIdx.x < kReaches) {
      lists_.counts[threadIdx.x] = 0;
      lists_.nexts[threadIdx.x] = 0;
    }
    int32_t num_listed = 0;
    while (first < problem_.num_rois && num_listed + kScanned <= kListed) {
      __syncthreads();  // before others are listed, all have read how many there are
      for (int i = threadIdx.x; i < kScanned; i += blockDim.x) {
        const int64_t k = first + i * step;
        if (k < problem_.num_rois) {
          const int64_t image = problem_.image_of_region(k);
          if (image == image_ || (image < 0 && k % problem_.num_images == image_)) {
            lists_.listed[atomicAdd(&lists_.num_listed, 1)] = static_cast<uint32_t>(k);
          }
        }
      }
      __syncthreads();
      num_listed = lists_.num_listed;
      first += kScanned * step;
    }
    return first;
  }

  __device__ void sort_by_reach() const {
    for (int32_t i = threadIdx.x; i < lists_.num_listed; i += blockDim.x) {
      uint8_t reach = 0;
      if (!kArgmax) {
        const int32_t side =
            with_roi(problem_, lists_.listed[i], [&](const auto* roi) { return least_side(problem_, maps_, roi); });
        while (reach + 1 < kReaches && (2 << reach) <= side) {
          ++reach;
        }
      }
      lists_.reaches[i] = reach;
      atomicAdd(&lists_.counts[reach], 1);
    }
    __syncthreads();
    for (int32_t i = threadIdx.x; i < lists_.num_listed; i += blockDim.x) {
      int32_t place = atomicAdd(&lists_.nexts[lists_.reaches[i]], 1);
      for (int reach = 0; reach < lists_.reaches[i]; ++reach) {
        place += lists_.counts[reach];
      }
      lists_.by_reach[place] = static_cast<uint16_t>(i);
    }
  }

  __device__ void pool_by_reach(int32_t num_listed, scalar_t* output, int32_t* argmax) const {
    int32_t begin = 0;
    for (int reach = 0; begin < num_listed; ++reach) {
      if (reach > 0) {
        raise(1 << (reach - 1));
      }
      int32_t end = begin + lists_.counts[reach];
      // A smaller reach does as well. Raising takes as long as pooling half as many bins as there are cells.
      if (2 * (num_listed - end) * problem_.num_bins() < num_cells_) {
        end = num_listed;
      }
      pool_listed<true>(begin, end, 1 << reach, output, argmax);
      begin = end;
    }
  }

  // Channels beyond the last are 0.
  __device__ void copy_planes() const {
    const scalar_t* map =
        static_cast<const scalar_t*>(maps_.data) + image_ * maps_.image_stride + channel_ * maps_.channel_stride;
    const int64_t channels = problem_.channels - channel_;
    bool special = false;
    ROIPOOL_UNROLL(4)
    for (int32_t i = threadIdx.x; i < num_cells_; i += blockDim.x) {
      Cell cell{};
      if (problem_.channels_last) {
        cell = load<scalar_t, kSize>(map + i * maps_.cell_stride);
      } else {
        for (int c = 0; c < kSize; ++c) {
          if (c < channels) {
            cell.values[c] = map[c * maps_.channel_stride + i];
          }
        }
      }
      for (int c = 0; c < kSize; ++c) {
        const wide_t<scalar_t> value = cell.values[c];
        special = special || value != value || (!kArgmax && value == 0 && std::signbit(value));
      }
      cells_[i] = cell;
    }
    if (special) {
      lists_.special = 1;
    }
  }

  // From squares of `reach` cells to those of twice as many. The cells right of the last such squares, and below, get
  // what is of no use: nobody asks for it.
  __device__ void raise(int32_t reach) const {
    for (int32_t first = 0; first < num_cells_; first += blockDim.x) {
      const int32_t i = first + threadIdx.x;
      wide_t<scalar_t> best[kSize];
      for (int c = 0; c < kSize; ++c) {
        best[c] = -INFINITY;
      }
      for (const int32_t from : {i, i + reach, i + reach * width_, i + reach * width_ + reach}) {
        const Cell cell = cells_[from < num_cells_ ? from : num_cells_ - 1];
        for (int c = 0; c < kSize; ++c) {
          best[c] = std::fmax(best[c], static_cast<wide_t<scalar_t>>(cell.values[c]));
        }
      }
      __syncthreads();  // these cells are read by others; those before them no more
      if (i < num_cells_) {
        Cell raised;
        for (int c = 0; c < kSize; ++c) {
          raised.values[c] = static_cast<scalar_t>(best[c]);
        }
        cells_[i] = raised;
      }
    }
    __syncthreads();
  }

  __device__ int64_t region_at(int32_t place) const { return lists_.listed[lists_.by_reach[place]]; }

  // Pools the regions at the places begin .. end-1, and waits for all threads if there are any. kPlain: no cell is
  // special.
  template <bool kPlain>
  __device__ void pool_listed(int32_t begin, int32_t end, int32_t reach, scalar_t* output, int32_t* argmax) const {
    const auto num_bins = static_cast<int32_t>(problem_.num_bins());
    const auto pooled_height = static_cast<int32_t>(problem_.pooled_height);
    const auto pooled_width = static_cast<int32_t>(problem_.pooled_width);
    const int32_t num_windows = pooled_height + pooled_width;
    const SmallDivider by_windows(num_windows);
    const SmallDivider by_bins(num_bins);
    const SmallDivider by_width(pooled_width);
    const int32_t at_a_time = kListedWindows / num_windows;
    for (; begin < end; begin += at_a_time) {
      const int32_t count = end - begin < at_a_time ? end - begin : at_a_time;
      for (int32_t i = threadIdx.x; i < count * num_windows; i += blockDim.x) {
        const int32_t region = by_windows.divide(i);
        lists_.windows[i] = with_roi(problem_, region_at(begin + region), [&](const auto* roi) {
          return locate_window(problem_, maps_, roi, i - region * num_windows);
        });
      }
      __syncthreads();
      for (int32_t i = threadIdx.x; i < count * num_bins; i += blockDim.x) {
        const int32_t region = by_bins.divide(i);
        const int32_t bin = i - region * num_bins;
        const int32_t p = by_width.divide(bin);
        const ShortWindow* rows = lists_.windows + region * num_windows;
        const ShortWindow* columns = rows + pooled_height;
        const auto maxima = pool_bin<kPlain>(rows[p], columns[bin - p * pooled_width], reach);
        write(maxima, region_at(begin + region), bin, output, argmax);
      }
      __syncthreads();  // before the windows of other regions replace these
    }
  }

  template <bool kPlain>
  __device__ Maxima<scalar_t, kSize> pool_bin(ShortWindow row, ShortWindow column, int32_t reach) const {
    Maxima<scalar_t, kSize> maxima;
    if (row.empty() || column.empty()) {
      return maxima;
    }
    wide_t<scalar_t> best[kSize];
    for (int i = 0; i < kSize; ++i) {
      best[i] = -INFINITY;
      maxima.values.values[i] = static_cast<scalar_t>(best[i]);
      maxima.cells.values[i] = row.lo * width_ + column.lo;
    }
    // Squares lie side by side, but for the last ones, which end where the bin does.
    for (int32_t y = row.lo;; y = y + 2 * reach < row.hi ? y + reach : row.hi - reach) {
      for (int32_t x = column.lo;; x = x + 2 * reach < column.hi ? x + reach : column.hi - reach) {
        const int32_t at = y * width_ + x;
        const Cell cell = cells_[at];
        for (int i = 0; i < kSize; ++i) {
          const wide_t<scalar_t> value = cell.values[i];
          if constexpr (kPlain && !kArgmax) {
            best[i] = std::fmax(best[i], value);
          } else if (value > best[i] || (!kPlain && value != value)) {
            best[i] = value;
            maxima.values.values[i] = cell.values[i];
            maxima.cells.values[i] = at;
          }
        }
        if (x + reach >= column.hi) {
          break;
        }
      }
      if (y + reach >= row.hi) {
        break;
      }
    }
    if constexpr (kPlain && !kArgmax) {
      for (int i = 0; i < kSize; ++i) {
        maxima.values.values[i] = static_cast<scalar_t>(best[i]);
      }
    }
    return maxima;
  }

  __device__ void write(const Maxima<scalar_t, kSize>& maxima, int64_t k, int32_t bin, scalar_t* output,
                        int32_t* argmax) const {
    int64_t to = k * problem_.region_stride + channel_ * problem_.channel_stride + bin * problem_.bin_stride;
    if (problem_.channels_last) {
      store(maxima.values, output + to);
      if (kArgmax) {
        store(maxima.cells, argmax + to);
      }
      return;
    }
    for (int c = 0; c < kSize && channel_ + c < problem_.channels; ++c, to += problem_.channel_stride) {
      output[to] = maxima.values.values[c];
      if (kArgmax) {
        argmax[to] = maxima.cells.values[c];
      }
    }
  }

  const RoIPoolProblem& problem_;
  const FeatureMaps& maps_;
  const int64_t image_;
  const int64_t channel_;  // the first
  const int32_t width_;
  const int32_t num_cells_;
  Cell* const cells_;
  StagedLists& lists_;
};

// output, argmax: [K, C, PH, PW]; argmax only where kArgmax
template <bool kArgmax, int kSize, typename scalar_t>
__global__ void __launch_bounds__(kMostThreads)
    pool_staged(const RoIPoolProblem problem, const StagedPlan plan, scalar_t* output, int32_t* argmax) {
  const int64_t num_blocks = plan.num_blocks(problem);
  for (int64_t block = blockIdx.x; block < num_blocks; block += gridDim.x) {
    const int64_t channel = block % plan.num_groups * kSize;
    const int64_t share = block / plan.num_groups % plan.num_shares;
    const int64_t image = block / plan.num_groups / plan.num_shares;
    const Stage<kArgmax, kSize, scalar_t> stage(problem, image, channel);
    stage.pool(share, plan.num_shares, output, argmax);
  }
}

// ---- Forward, whichever way.

template <bool kArgmax, int kSize, typename scalar_t>
cudaError_t launch_pool_channels_last(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax,
                                      cudaStream_t stream) {
  const Tiling tiling(problem.num_rois, problem.num_bins(), problem.channels / kSize);
  const auto kernel = problem.num_levels > 1 ? pool_channels_last<true, kArgmax, kSize, scalar_t>
                                             : pool_channels_last<false, kArgmax, kSize, scalar_t>;
  return launch(kernel, tiling.blocks(), tiling.num_threads(), tiling.runs_per_block * sizeof(Bin), stream, problem,
                tiling, Divider(problem.pooled_width), output, argmax);
}

// ROIPOOL_CUDA_FORWARD=direct leaves out the kernels that pool from shared memory: for comparisons.
inline bool may_stage() {
  static const char* const forward = std::getenv("ROIPOOL_CUDA_FORWARD");
  return forward == nullptr || std::strcmp(forward, "direct") != 0;
}

template <bool kArgmax, typename scalar_t>
cudaError_t launch_forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax, cudaStream_t stream) {
  constexpr int kSize = 16 / sizeof(scalar_t);
  bool aligned = reinterpret_cast<uintptr_t>(output) % 16 == 0;  // which slices of larger tensors may not be
  for (int64_t level = 0; level < problem.num_levels; ++level) {
    aligned = aligned && reinterpret_cast<uintptr_t>(problem.levels[level].data) % 16 == 0;
  }
  const bool by_packs = aligned && problem.channels % kSize == 0;  // of adjacent channels
  if (may_stage() && (!problem.channels_last || by_packs)) {
    Device device;
    const cudaError_t error = get_device(&device);
    if (error != cudaSuccess) {
      return error;
    }
    StagedPlan plan;
    if (plan_staged<kSize, scalar_t>(problem, device, &plan)) {
      return launch_with_shared_memory(device, pool_staged<kArgmax, kSize, scalar_t>, {plan.num_blocks(problem)},
                                       plan.num_threads, plan.shared_bytes, stream, problem, plan, output, argmax);
    }
  }
  if (!problem.channels_last) {
    const Tiling tiling(problem.num_rois, problem.channels, problem.num_bins());
    const auto kernel =
        problem.num_levels > 1 ? pool_contiguous<true, kArgmax, scalar_t> : pool_contiguous<false, kArgmax, scalar_t>;
    return launch(kernel, tiling.blocks(), tiling.num_threads(), 0, stream, problem, tiling,
                  Divider(problem.pooled_width), output, argmax);
  }
  return by_packs ? launch_pool_channels_last<kArgmax, kSize>(problem, output, argmax, stream)
                  : launch_pool_channels_last<kArgmax, 1>(problem, output, argmax, stream);
}

// output, argmax: [K, C, PH, PW]; argmax may be null
template <typename scalar_t>
cudaError_t launch_forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax, cudaStream_t stream) {
  return argmax != nullptr ? launch_forward<true>(problem, output, argmax, stream)
                           : launch_forward<false>(problem, output, argmax, stream);
}

// ---- Backward.

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
            const int64_t from = regions[slot / num_bins] * problem.region_stride +
                                 (first_channel + c) * problem.channel_stride +
                                 static_cast<int64_t>(slot % num_bins) * problem.bin_stride;
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
    scalar_t* grad_input = static_cast<scalar_t*>(maps.data) + image * maps.image_stride +
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

// ---- Gather.

// argmax, output: [K, C, PH, PW]. Positions and runs are bins and channels, or channels and bins.
template <bool kPyramid, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    gather(const RoIPoolProblem problem, const Tiling tiling, const int32_t* argmax, scalar_t* output) {
  for_each_tile(tiling, [&](const Tile& tile) {
    const FeatureMaps& maps = maps_of_region<kPyramid>(problem, tile.k);
    const int64_t num_cells = maps.num_cells();
    const int64_t image = problem.image_of_region(tile.k);
    const scalar_t* map = static_cast<const scalar_t*>(maps.data) + (image < 0 ? 0 : image) * maps.image_stride;
    for (int64_t run = tile.run; run < tile.end_run; run += tiling.runs_at_once) {
      const int64_t i = tile.k * problem.region_stride + run * tiling.run_length + tile.position;
      const int64_t c = problem.channels_last ? tile.position : run;
      const int32_t cell = argmax[i];
      const bool is_cell = image >= 0 && cell >= 0 && cell < num_cells;
      output[i] = is_cell ? map[c * maps.channel_stride + cell * maps.cell_stride] : scalar_t(0);
    }
  });
}

// argmax, output: [K, C, PH, PW]
template <typename scalar_t>
cudaError_t launch_gather(const RoIPoolProblem& problem, const int32_t* argmax, scalar_t* output, cudaStream_t stream) {
  const Tiling tiling = problem.channels_last ? Tiling(problem.num_rois, problem.num_bins(), problem.channels)
                                              : Tiling(problem.num_rois, problem.channels, problem.num_bins());
  const auto kernel = problem.num_levels > 1 ? gather<true, scalar_t> : gather<false, scalar_t>;
  return launch(kernel, tiling.blocks(), tiling.num_threads(), 0, stream, problem, tiling, argmax, output);
}

// ---- The operators.

#ifdef __CUDACC__  // tests/cuda_host compiles all the rest for the CPU, and has operators of its own

cudaStream_t current_stream(const torch::stable::Device& device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// On the current stream of a device, which it makes the current one as long as it lives.
class CudaKernels {
 public:
  explicit CudaKernels(const torch::stable::Device& device) : guard_(device.index()), stream_(current_stream(device)) {}

  template <typename scalar_t>
  void forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) const {
    STD_CUDA_CHECK(launch_forward(problem, output, argmax, stream_));
  }

  template <typename scalar_t>
  void backward(const RoIPoolProblem& problem, const scalar_t* grad_output, const int32_t* argmax) const {
    STD_CUDA_CHECK(launch_backward(problem, grad_output, argmax, stream_));
  }

  template <typename scalar_t>
  void gather(const RoIPoolProblem& problem, const int32_t* argmax, scalar_t* output) const {
    STD_CUDA_CHECK(launch_gather(problem, argmax, output, stream_));
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

#endif

}  // namespace
}  // namespace roipool

#ifdef __CUDACC__
STABLE_TORCH_LIBRARY_IMPL(roipool, CUDA, m) { roipool::implement<roipool::CudaKernels>(m); }
#endif
