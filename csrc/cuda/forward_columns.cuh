// Pools regions from contiguous maps: lanes are columns of cells first, then bins.
//
// A warp takes a region and a channel group. It reads row after row of the region, a cell to a lane, and each lane
// keeps the maxima of its column in one row of bins. They go to shared memory. Then each lane has a bin, and takes the
// maxima of its columns:
//
//                 columns of cells                      lanes go down         lanes are bins
//     rows[0]  lo   . . . . . . . . . . . . . . . . . .                         q  0   1   2
//                   . . . . . . . . . . . . . . . . . .                         +---+---+---+
//              hi   . . . . . . . . . . . . . . . . . .   v v v v v v v v   ->  |   |   |   |   p
//     rows[1]  lo   . . . . . . . . . . . . . . . . . .   maxima of columns     +---+---+---+
//
// That is not the order in which the rule visits cells. Of equal maxima, the smallest cell is the first. Where more
// depends on the order, the maximum of a column is made a NaN: where a cell is one, and where the maximum is a zero and
// some sign bit is set, so that it may be a zero of the other sign. A bin whose maximum is a NaN is pooled anew.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "cuda/aligned_vector.cuh"
#include "cuda/divider.cuh"
#include "cuda/forward.h"
#include "cuda/launch.cuh"
#include "cuda/pool_cells.cuh"
#include "cuda/regions.h"
#include "cuda/warp.cuh"
#include "problem.h"

namespace roipool::cuda {

// A multiprocessor has at least so many blocks at once: three leave 80 registers to a thread, two leave 128, which
// double needs, and the code for the first architecture.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
template <typename scalar_t>
constexpr int kColumnBlocks = 2;
#else
template <typename scalar_t>
constexpr int kColumnBlocks = sizeof(scalar_t) > sizeof(float) ? 2 : 3;
#endif

// Holds the maxima of columns that a warp has found in shared memory, each for a row of bins, in a channel group of
// kChannels channels.
template <bool kArgmax, int kChannels, typename scalar_t>
struct ColumnMaxima {
  using Values = AlignedVector<wide_t<scalar_t>, kChannels>;
  using Cells = AlignedVector<int32_t, kChannels>;

  Values values[kMaxTileColumns];
  Cells cells[kArgmax ? kMaxTileColumns : 1];
};

// Returns the larger number, or a NaN where one of them is. Of two zeros, it returns the positive one.
__device__ inline float max_or_nan(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float max;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(max) : "f"(a), "f"(b));
  return max;
#else
  return b > a || b != b || (b == a && !std::signbit(b)) ? b : a;
#endif
}

__device__ inline double max_or_nan(double a, double b) {
  return b > a || b != b || (b == a && !std::signbit(b)) ? b : a;
}

// Returns bits of which the highest is the sign.
__device__ inline uint32_t sign_of(float value) { return bit_cast<uint32_t>(value); }
__device__ inline uint32_t sign_of(double value) { return static_cast<uint32_t>(bit_cast<uint64_t>(value) >> 32); }

// Returns a pointer to global memory unchanged. Hides from the compiler how it was computed, which else computes it
// anew for each cell.
template <typename T>
__device__ const T* keep(const T* pointer) {
#if defined(__CUDA_ARCH__)
  asm("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

// Names some adjacent rows and columns of a region's bins, which a warp pools at once.
struct BinTile {
  int32_t first_row;
  int32_t first_column;
  int32_t num_rows;
  int32_t num_columns;
  int32_t left;   // the first column of cells
  int32_t width;  // in columns of cells
};

// Pools a region in a channel group, by a warp.
template <bool kArgmax, int kChannels, typename scalar_t>
class ColumnPool {
 public:
  using Memory = ColumnMaxima<kArgmax, kChannels, scalar_t>;

  __device__ ColumnPool(const RoIPoolProblem& problem, const PlacedRegions& placed, int64_t i, int64_t first_channel,
                        Memory& memory)
      : problem_(problem), memory_(memory), rows_(placed.rows(i)), columns_(placed.columns(i)) {
    const PlacedRegion region = placed[i];
    const FeatureMaps& maps = problem.levels[region.level];
    const int64_t channels_left = problem.num_channels - first_channel;
    width_ = static_cast<int32_t>(maps.width);
    num_channels_ = channels_left < kChannels ? static_cast<int>(channels_left) : kChannels;
    map_ = static_cast<const scalar_t*>(maps.input) + region.image * maps.image_stride +
           first_channel * maps.channel_stride;
    map_channel_stride_ = maps.channel_stride;
    first_output_ = region.k * problem.output_region_stride + first_channel * problem.output_channel_stride;
  }

  // Pools all bins, tile by tile. A column of bins that is wider than there is room for is pooled bin by bin, some
  // columns of cells after the others. Number 0 then keeps the maxima of those before.
  __device__ void pool(scalar_t* output, int32_t* argmax) const {
    const auto pooled_height = static_cast<int32_t>(problem_.pooled_height);
    const auto pooled_width = static_cast<int32_t>(problem_.pooled_width);
    BinTile tile;
    for (tile.first_column = 0; tile.first_column < pooled_width; tile.first_column += tile.num_columns) {
      choose_columns(pooled_width, &tile);
      const CellRange columns{tile.left, tile.left + tile.width};
      const bool is_wide = tile.width > kMaxTileColumns;
      const int max_rows = is_wide ? 1 : kMaxTileColumns / (tile.width > 0 ? tile.width : 1);
      for (tile.first_row = 0; tile.first_row < pooled_height; tile.first_row += tile.num_rows) {
        const int32_t rows_left = pooled_height - tile.first_row;
        tile.num_rows = rows_left < max_rows ? rows_left : max_rows;
        for (bool is_last = false; !is_last; tile.left += tile.width) {
          is_last = !is_wide || columns.hi - tile.left < kMaxTileColumns;
          tile.width = is_last ? columns.hi - tile.left : kMaxTileColumns - 1;
          pool_columns(tile, is_wide ? 1 : 0);
          __syncwarp();
          if (is_wide) {
            keep_columns(tile.left == columns.lo ? 1 : 0, 1 + tile.width);
          }
          if (is_last) {
            pool_bins(tile, is_wide, output, argmax);
          }
          __syncwarp();  // before the maxima of other columns replace these
        }
        tile.left = columns.lo;
      }
    }
  }

 private:
  // Chooses as many columns of bins from first_column on as have room for their columns of cells, but at least one.
  __device__ void choose_columns(int32_t pooled_width, BinTile* tile) const {
    const int32_t columns_left = pooled_width - tile->first_column;
    const CellRange* const columns = columns_ + tile->first_column;
    tile->left = columns[0].lo;
    tile->num_columns = columns_left < kMaxTileColumns ? columns_left : kMaxTileColumns;
    while (tile->num_columns > 1 && columns[tile->num_columns - 1].hi - tile->left > kMaxTileColumns) {
      --tile->num_columns;
    }
    tile->width = columns[tile->num_columns - 1].hi - tile->left;
  }

  // Finds the maxima of a tile's columns in each of its rows of bins, and leaves them from number `first` on. Channels
  // beyond the last repeat it.
  __device__ void pool_columns(const BinTile& tile, int first) const {
    const scalar_t* planes[kChannels];
    for (int c = 0; c < kChannels; ++c) {
      planes[c] = keep(map_ + (c < num_channels_ ? c : num_channels_ - 1) * map_channel_stride_);
    }
    const SmallDivider by_width(tile.width);
    for (int i = lane(); i < tile.num_rows * tile.width; i += kWarp) {
      const int row = by_width.divide(i);
      const CellRange rows = rows_[tile.first_row + row];
      pool_column(planes, rows, tile.left + i - row * tile.width, first + i);
    }
  }

  // Finds the maximum of column x, and leaves it as number i.
  __device__ void pool_column(const scalar_t* const (&planes)[kChannels], CellRange rows, int32_t x, int i) const {
    typename Memory::Values best;
    typename Memory::Cells cells;
    uint32_t cell = static_cast<uint32_t>(rows.lo) * width_ + x;  // beyond the map where the row of bins is
    uint32_t signs[kChannels];
    for (int c = 0; c < kChannels; ++c) {
      best.values[c] = -INFINITY;
      cells.values[c] = static_cast<int32_t>(cell);
      signs[c] = 0;
    }
    ROIPOOL_UNROLL_BY(1)
    for (int32_t y = rows.lo; y < rows.hi; ++y, cell += width_) {
      for (int c = 0; c < kChannels; ++c) {
        const wide_t<scalar_t> value = planes[c][cell];
        if (kArgmax && value > best.values[c]) {
          cells.values[c] = static_cast<int32_t>(cell);
        }
        best.values[c] = max_or_nan(best.values[c], value);
        signs[c] |= sign_of(value);
      }
    }
    for (int c = 0; c < kChannels; ++c) {
      best.values[c] = best.values[c] == 0 && signs[c] >> 31 != 0 ? NAN : best.values[c];
    }
    keep_column(i, best, cells);
  }

  // Writes the maxima of a tile's bins, from those of its columns; from number 0 alone where that has them all.
  __device__ void pool_bins(const BinTile& tile, bool has_one, scalar_t* output, int32_t* argmax) const {
    const SmallDivider by_columns(tile.num_columns);
    for (int i = lane(); i < tile.num_rows * tile.num_columns; i += kWarp) {
      const int p = by_columns.divide(i);
      const int q = i - p * tile.num_columns;
      const CellRectangle bin{rows_[tile.first_row + p], columns_[tile.first_column + q]};
      const int first = p * tile.width - tile.left;
      write_bin(bin, has_one ? 0 : first + bin.columns.lo, has_one ? 1 : first + bin.columns.hi,
                (tile.first_row + p) * problem_.pooled_width + tile.first_column + q, output, argmax);
    }
  }

  // Leaves the maximum of columns first .. end-1 as number 0, for the lane that has the bin: lane 0.
  __device__ void keep_columns(int first, int end) const {
    if (lane() == 0) {
      typename Memory::Values best;
      typename Memory::Cells cells;
      combine_columns(first, end, &best, &cells);
      keep_column(0, best, cells);
    }
  }

  __device__ void keep_column(int i, const typename Memory::Values& best, const typename Memory::Cells& cells) const {
    memory_.values[i] = best;
    if (kArgmax) {
      memory_.cells[i] = cells;
    }
  }

  // Takes the maxima of columns first .. end-1, of which there is at least one.
  __device__ void combine_columns(int first, int end, typename Memory::Values* best,
                                  typename Memory::Cells* cells) const {
    *best = memory_.values[first];
    if (kArgmax) {
      *cells = memory_.cells[first];
    }
    ROIPOOL_UNROLL_BY(1)
    for (int i = first + 1; i < end; ++i) {
      const typename Memory::Values others = memory_.values[i];
      for (int c = 0; c < kChannels; ++c) {
        if (kArgmax) {
          const int32_t cell = memory_.cells[i].values[c];
          const bool is_first = others.values[c] == best->values[c] && cell < cells->values[c];
          cells->values[c] = others.values[c] > best->values[c] || is_first ? cell : cells->values[c];
        }
        best->values[c] = max_or_nan(best->values[c], others.values[c]);
      }
    }
  }

  // Writes the maxima of a bin, from those of columns first .. end-1. If one is a NaN, the bin is pooled anew.
  __device__ void write_bin(const CellRectangle& bin, int first, int end, int64_t bin_index, scalar_t* output,
                            int32_t* argmax) const {
    typename Memory::Values best{};
    typename Memory::Cells cells;
    for (int c = 0; c < kChannels; ++c) {
      cells.values[c] = -1;
    }
    if (!bin.empty()) {
      combine_columns(first, end, &best, &cells);
    }
    int64_t to = first_output_ + bin_index;
    bool is_certain = true;
    for (int c = 0; c < kChannels; ++c) {
      is_certain = is_certain && best.values[c] == best.values[c];
      if (c < num_channels_) {
        output[to + c * problem_.output_channel_stride] = static_cast<scalar_t>(best.values[c]);
        if (kArgmax) {
          argmax[to + c * problem_.output_channel_stride] = cells.values[c];
        }
      }
    }
    ROIPOOL_UNROLL_BY(1)
    for (int c = 0; !is_certain && c < num_channels_; ++c, to += problem_.output_channel_stride) {
      const auto maxima = pool_cells<1>(map_ + c * map_channel_stride_, width_, 1, bin);
      output[to] = maxima.values.values[0];
      if (kArgmax) {
        argmax[to] = maxima.argmax.values[0];
      }
    }
  }

  const RoIPoolProblem& problem_;
  Memory& memory_;
  const CellRange* const rows_;     // of all bins
  const CellRange* const columns_;  // of all bins
  int32_t width_;                   // of the map
  int num_channels_;                // kChannels, or fewer at the end
  const scalar_t* map_;             // in the first channel
  int64_t map_channel_stride_;
  int64_t first_output_;  // where the region's first bin lies, in the first channel
};

// Pools contiguous maps. A block takes a share of the regions in a channel group, a warp every kWarps-th of these
// regions. argmax is written only where kArgmax.
//
//   output, argmax  [K, C, PH, PW], contiguous
template <bool kArgmax, int kChannels, typename scalar_t>
__global__ void __launch_bounds__(kThreads, kColumnBlocks<scalar_t>)
    forward_columns_kernel(const RoIPoolProblem problem, const ColumnsPlan plan, const PlacedRegions placed,
                           scalar_t* output, int32_t* argmax) {
  using Memory = ColumnMaxima<kArgmax, kChannels, scalar_t>;
  Memory& memory = reinterpret_cast<Memory*>(shared_memory)[warp()];
  for (int64_t group = blockIdx.y; group < plan.num_groups; group += gridDim.y) {
    for (int64_t share = blockIdx.x; share < plan.num_shares; share += gridDim.x) {
      const int64_t end = (share + 1) * plan.share_regions;
      for (int64_t i = share * plan.share_regions + warp(); i < end && i < problem.num_rois; i += kWarps) {
        const ColumnPool<kArgmax, kChannels, scalar_t> pool(problem, placed, i, group * kChannels, memory);
        pool.pool(output, argmax);
      }
    }
  }
}

}  // namespace roipool::cuda
