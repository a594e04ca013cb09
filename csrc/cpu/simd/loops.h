// The loops in which the forward spends its time, compiled once for each instruction set (inner_loops_*.cpp); which of
// them run is decided when the library is loaded. Plain data in and out: no torch, and nothing of the C++ library,
// whose inline functions would be compiled for one instruction set and linked for all.
//
// Channels are pooled in blocks. A block of an image is packed so that the channels of a cell lie side by side, then
// pooled region by region into a tile, which is unpacked into the output:
//
//   map     [C][H*W] or [H*W][C]       --pack-->     block   [H*W][padded(channels)], or a part of that
//   block   and bins of a region       --pool-->     tile    [PH*PW][kBlockChannels], values and cells
//   tile                               --unpack-->   output  [C][PH*PW] or [PH*PW][C], argmax likewise
//
// An image has too few channels for that. There, a plane is pooled by rows: the cells of a bin's rows are reduced to
// one row, side by side, and the columns of that row, of several rows of bins side by side, to bins.
#pragma once

#include <cstdint>

#include "geometry.h"

namespace roipool {

// The bytes of one cell in a block: four lines of cache, and four of the widest registers.
constexpr int64_t kBlockBytes = 256;

// How a dtype is packed. A lane holds a value. While a bin is pooled, its cells are numbered from its first one, in a
// type as wide as a lane.
struct Float32Lanes {
  using lane_t = float;
  using cell_t = int32_t;
};

struct Float64Lanes {
  using lane_t = double;
  using cell_t = int64_t;
};

// Float16-precision numbers are packed as integers in the same order: no conversions, and a vector holds twice as many.
struct Float16Lanes {
  using lane_t = int16_t;
  using cell_t = uint16_t;
  static constexpr int16_t kInfinity = 0x7c00;
};

struct BFloat16Lanes {
  using lane_t = int16_t;
  using cell_t = uint16_t;
  static constexpr int16_t kInfinity = 0x7f80;
};

// A matrix of channels and positions (the cells of a map, or the bins of an output), in either memory format.
struct Planes {
  int64_t channels;
  int64_t positions;
  int64_t channel_stride;   // in elements; of the two strides,
  int64_t position_stride;  // one is 1
};

// What is known of the values of a block.
struct Contents {
  bool plain;      // nothing (a NaN; for half precision, a negative zero too) asks for more than comparing lanes
  bool orderless;  // and there is no negative zero: a maximum has the same bits in whatever order it is taken
};

// The bins of one region.
struct Grid {
  const CellRange* rows;
  int64_t num_rows;
  const CellRange* columns;
  int64_t num_columns;
};

// Some channels of a part of a map, packed: of the rows from `top` on, `width` columns from `left` on.
template <typename Kind>
struct Block {
  typename Kind::lane_t* lanes;
  Contents contents;
  int64_t channels;
  int64_t top;
  int64_t left;
  int64_t width;
  int64_t map_width;  // by which cells are numbered
  int64_t reach;      // rows of the map that a row stands for, see raise
};

template <typename Kind>
struct InnerLoops {
  using lane_t = typename Kind::lane_t;
  using cell_t = typename Kind::cell_t;
  using block_t = Block<Kind>;

  static constexpr int64_t kBlockChannels = kBlockBytes / sizeof(lane_t);

  // The channels of a packed block: whole registers.
  static constexpr int64_t padded(int64_t channels) {
    constexpr int64_t kMaxLanes = 64 / sizeof(lane_t);
    return (channels + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
  }

  // Packs at most kBlockChannels channels, and fills up to padded(channels).
  Contents (*pack)(const lane_t* map, const Planes& planes, lane_t* block);

  // In columns first .. last-1 of an orderless block, each row becomes the maximum of `reach` rows, itself and those
  // below. It is that of reach / 2 rows before; reach is a power of two. The last reach - 1 rows are of no more use.
  void (*raise)(lane_t* block, int64_t channels, int64_t height, int64_t width, int64_t reach, int64_t first,
                int64_t last);

  // Pools the bins of a region from a block that holds all their cells. cells may be null; in an empty bin, values and
  // cells are 0. Bins have at least as many rows as a row of the block stands for, or none; and that is 1 where cells
  // are asked for.
  void (*pool)(const Block<Kind>& block, const Grid& grid, lane_t* values, cell_t* cells);

  void (*unpack_values)(const lane_t* values, const Planes& planes, lane_t* output);

  // argmax = cells + first_cells of their bin, of which kBlockBytes more than there are bins must be readable.
  void (*unpack_cells)(const cell_t* cells, const int32_t* first_cells, const Planes& planes, int32_t* argmax);
};

template <typename Kind>
struct RowLoops {
  using lane_t = typename Kind::lane_t;
  using cell_t = typename Kind::cell_t;

  // Whether there is no NaN and no negative zero among adjacent cells, so that nothing but the order of numbers
  // decides.
  bool (*is_plain)(const lane_t* cells, int64_t num_cells);

  // Pools the bins of one region from a plane, or a part of one, that is plain where the bins are, and at least
  // kMaxLanes wide; its rows are read beside the bins, too. cells, with cell_scratch, may be null; they are counted
  // from the first of the part, by rows of map_width cells.
  void (*pool)(const lane_t* plane, int64_t width, int64_t map_width, const Grid& grid, lane_t* scratch,
               cell_t* cell_scratch, lane_t* values, int32_t* cells);

  static constexpr int64_t kMaxLanes = 64 / sizeof(lane_t);

  // For bins that lie in so many columns of the plane, and what is read beside them.
  static constexpr int64_t scratch_size(int64_t hull_width, int64_t num_columns) {
    return kMaxLanes * (2 * (hull_width + 3 * kMaxLanes) + num_columns);
  }
};

// Float16 precision <-> float, rounded to nearest even.
struct Conversions {
  void (*widen)(const int16_t* from, int64_t count, float* to);
  void (*narrow)(const float* from, int64_t count, int16_t* to);
};

struct InnerLoopsOfLevel {
  InnerLoops<Float32Lanes> float32;
  InnerLoops<Float64Lanes> float64;
  InnerLoops<Float16Lanes> float16;
  InnerLoops<BFloat16Lanes> bfloat16;
  RowLoops<Float32Lanes> float32_rows;
  RowLoops<Float64Lanes> float64_rows;
  Conversions float16_conversions;
  Conversions bfloat16_conversions;
};

extern const InnerLoopsOfLevel kInnerLoopsDefault;
extern const InnerLoopsOfLevel kInnerLoopsAvx2;    // x86-64 only
extern const InnerLoopsOfLevel kInnerLoopsAvx512;  // x86-64 only

}  // namespace roipool
