// Defines the tables of loops.h for one target. Included by target_*.cpp, each of which first tells the compiler the
// instruction set and defines
//
//   ROIPOOL_VECTOR_BYTES   the width of a register
//   ROIPOOL_LOOPS          the table to define

#include "cpu/simd/conversions.h"
#include "cpu/simd/loops.h"
#include "cpu/simd/pack.h"
#include "cpu/simd/pool_bins.h"
#include "cpu/simd/pool_cells.h"
#include "cpu/simd/pool_rows.h"
#include "cpu/simd/unpack.h"

namespace roipool::cpu::simd {
namespace {

template <typename LaneType>
constexpr GroupLoops<LaneType> kGroupLoops = {pack<LaneType>, merge_rows<LaneType>, pool_bins<LaneType>,
                                              unpack_values<LaneType>, unpack_argmax<LaneType>};

template <typename LaneType>
constexpr RowLoops<LaneType> kRowLoops = {has_special_values<LaneType>, pool_bins_by_rows<LaneType>};

template <typename LaneType>
constexpr CellLoops<LaneType> kCellLoops = {pool_bins_by_cells<LaneType>};

template <typename Half>
constexpr Conversions kConversions = {widen<Half>, narrow<Half>};

}  // namespace

const TargetLoops ROIPOOL_LOOPS = {kGroupLoops<Float32Lanes>,  kGroupLoops<Float64Lanes>, kGroupLoops<Float16Lanes>,
                                   kGroupLoops<BFloat16Lanes>, kRowLoops<Float32Lanes>,   kRowLoops<Float64Lanes>,
                                   kCellLoops<Float32Lanes>,   kCellLoops<Float64Lanes>,  kCellLoops<Float16Lanes>,
                                   kCellLoops<BFloat16Lanes>,  kConversions<Float16>,     kConversions<BFloat16>};

}  // namespace roipool::cpu::simd
