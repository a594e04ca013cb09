// The loops in which the CPU kernels spend their time, as tables of functions: one table for each instruction set.
// README.md beside this has the rules of the folder, its words, and the data's way.
#pragma once

#include <cstdint>

#include "geometry.h"
#include "host_device.h"

namespace roipool::cpu::simd {

// Counts the bytes of one cell in a channel group: four lines of cache, and four of the widest registers.
constexpr int64_t kGroupBytes = 256;

// Counts the bytes of the widest register of any target.
constexpr int64_t kMaxVectorBytes = 64;

// ---- Lane types: how a dtype is packed, and the type of offsets, which is as wide as a lane.

struct Float32Lanes {
  using lane_t = float;
  using offset_t = int32_t;
};

struct Float64Lanes {
  using lane_t = double;
  using offset_t = int64_t;
};

// Half-precision numbers are packed as integers in the same order: they need no conversion, and a register holds twice
// as many of them as floats.
struct Float16Lanes {
  using lane_t = int16_t;
  using offset_t = uint16_t;
  static constexpr int16_t kInfinity = 0x7c00;
};

struct BFloat16Lanes {
  using lane_t = int16_t;
  using offset_t = uint16_t;
  static constexpr int16_t kInfinity = 0x7f80;
};

// ---- What the loops take.

// Describes a matrix of channels and positions (the cells of a map, or the bins of an output), in either memory format.
struct StridedMatrix {
  int64_t num_channels;
  int64_t num_positions;
  int64_t channel_stride;   // in elements; of the two strides,
  int64_t position_stride;  // one is 1
};

// Tells whether values hold NaNs or negative zeros, for which `>` alone does not find the maximum.
struct SpecialValues {
  bool has_nan;
  bool has_negative_zero;  // which equals 0.0, but has other bits

  // Returns whether the bits of a maximum depend on the order in which it is taken.
  ROIPOOL_ALWAYS_INLINE bool any() const { return has_nan || has_negative_zero; }
};

// Describes the bins of one region.
struct BinGrid {
  const CellRange* rows;
  int64_t num_rows;
  const CellRange* columns;
  int64_t num_columns;
};

// Describes a channel group of a part of a map: rows from `top` on, `width` columns from `left` on.
template <typename LaneType>
struct GroupMap {
  const typename LaneType::lane_t* lanes;
  int64_t cell_lanes;  // from cell to cell
  bool is_packed;      // else the lanes are a map's, channels_last, as they are in memory
  SpecialValues special_values;
  int64_t num_channels;
  int64_t top;
  int64_t left;
  int64_t width;
  int64_t map_width;    // of the whole map, by which offsets count
  int64_t merged_rows;  // rows of the map that a packed row is the maximum of

  // Say how far below its row a lane's maximum lies, in cells; null where rows are not merged, or nobody asks.
  const typename LaneType::offset_t* row_offsets;
};

// ---- The loops.

// Pools by channel groups.
template <typename LaneType>
struct GroupLoops {
  using lane_t = typename LaneType::lane_t;
  using offset_t = typename LaneType::offset_t;

  static constexpr int64_t kGroupChannels = kGroupBytes / sizeof(lane_t);

  // Counts the lanes of the widest register.
  static constexpr int64_t kMaxLanes = kMaxVectorBytes / sizeof(lane_t);

  // Returns how many lanes a packed cell of so many channels takes: whole registers of any target.
  static constexpr ROIPOOL_ALWAYS_INLINE int64_t padded_channels(int64_t num_channels) {
    return (num_channels + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
  }

  // Packs at most kGroupChannels channels of a map to [positions][padded_channels].
  SpecialValues (*pack)(const lane_t* map, const StridedMatrix& matrix, lane_t* packed);

  // Makes each row the maximum of merged_rows rows: itself and those below. merged_rows is a power of two, and each row
  // must be the maximum of half as many already, without special values. The last merged_rows - 1 rows are of no more
  // use. Unless it is null, row_offsets is made to say where the first maximum lies: see GroupMap.
  void (*merge_rows)(lane_t* packed, offset_t* row_offsets, int64_t num_channels, int64_t height, int64_t width,
                     int64_t merged_rows);

  // Pools the bins of a region, all of whose cells the map has, into pooled groups [bins][kGroupChannels]: values and,
  // unless it is null, offsets. Both are 0 in an empty bin. Reads padded_channels of a cell, packed or not. Where
  // merged_rows > 1, every bin that is not empty must have at least merged_rows rows, and offsets need row_offsets.
  void (*pool_bins)(const GroupMap<LaneType>& map, const BinGrid& grid, lane_t* values, offset_t* offsets);

  // Copies a pooled group of values to an output.
  void (*unpack_values)(const lane_t* values, const StridedMatrix& matrix, lane_t* output);

  // Writes argmax = offset + first cell of the bin. Of first_cells, kMaxLanes more than there are bins are readable.
  void (*unpack_argmax)(const offset_t* offsets, const int32_t* first_cells, const StridedMatrix& matrix,
                        int32_t* argmax);
};

// Pools by rows.
template <typename LaneType>
struct RowLoops {
  using lane_t = typename LaneType::lane_t;
  using offset_t = typename LaneType::offset_t;

  static constexpr int64_t kMaxLanes = kMaxVectorBytes / sizeof(lane_t);

  // Returns whether a NaN or a negative zero is among adjacent values.
  bool (*has_special_values)(const lane_t* values, int64_t num_values);

  // Pools the bins of one region from a plane, or a part of one, that is at least kMaxLanes wide and has no special
  // values in the rows of the bins. argmax, with offset_scratch, may be null; it counts from the first cell of the
  // part, by rows of map_width cells, and is -1 in an empty bin.
  void (*pool_bins)(const lane_t* plane, int64_t width, int64_t map_width, const BinGrid& grid, lane_t* scratch,
                    offset_t* offset_scratch, lane_t* values, int32_t* argmax);

  // Returns the elements of scratch for bins that lie in so many columns of the plane.
  static constexpr ROIPOOL_ALWAYS_INLINE int64_t scratch_size(int64_t hull_width, int64_t num_columns) {
    return kMaxLanes * (2 * (hull_width + 3 * kMaxLanes) + num_columns);
  }
};

// Pools bin after bin.
template <typename LaneType>
struct CellLoops {
  using lane_t = typename LaneType::lane_t;
  using offset_t = typename LaneType::offset_t;

  static constexpr int64_t kMaxLanes = kMaxVectorBytes / sizeof(lane_t);

  // Counts the cells that a bin may have: more, and the lanes beyond, could not be numbered.
  static constexpr int64_t kMaxBinCells = sizeof(offset_t) == 2 ? (1 << 16) - kMaxLanes : INT32_MAX;

  // Pools the bins of a region from a plane of so many columns, of which kMaxLanes - 1 more cells than those of the
  // bins are readable. Returns false where it meets special values: what it has written is of no use then. argmax may
  // be null.
  bool (*pool_bins)(const lane_t* plane, int64_t width, const BinGrid& grid, lane_t* values, int32_t* argmax);
};

// Converts half precision to float and back, rounded to nearest even.
struct Conversions {
  void (*widen)(const uint16_t* from, int64_t count, float* to);
  void (*narrow)(const float* from, int64_t count, uint16_t* to);
};

// Holds all loops of one target.
struct TargetLoops {
  GroupLoops<Float32Lanes> float32;
  GroupLoops<Float64Lanes> float64;
  GroupLoops<Float16Lanes> float16;
  GroupLoops<BFloat16Lanes> bfloat16;
  RowLoops<Float32Lanes> float32_rows;
  RowLoops<Float64Lanes> float64_rows;
  CellLoops<Float32Lanes> float32_cells;
  CellLoops<Float64Lanes> float64_cells;
  CellLoops<Float16Lanes> float16_cells;
  CellLoops<BFloat16Lanes> bfloat16_cells;
  Conversions float16_conversions;
  Conversions bfloat16_conversions;
};

extern const TargetLoops kLoopsDefault;
extern const TargetLoops kLoopsAvx2;    // x86-64 only
extern const TargetLoops kLoopsAvx512;  // x86-64 only

}  // namespace roipool::cpu::simd
