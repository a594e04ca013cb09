// The definitions behind inner_loops.h for one instruction set. Included by inner_loops_*.cpp, each of which first
// tells the compiler the instruction set and defines
//
//   ROIPOOL_VECTOR_BYTES   the width of a register
//   ROIPOOL_LEVEL          the table to define
//
// Vectors are the extension that GCC and Clang share, so the same lines serve every processor.

#include "cpu/simd/conversions.h"
#include "cpu/simd/loops.h"
#include "cpu/simd/pack.h"
#include "cpu/simd/pool_groups.h"
#include "cpu/simd/pool_rows.h"
#include "cpu/simd/unpack.h"

namespace roipool {
namespace {

template <typename Conversion>
constexpr Conversions kConversions = {widen<Conversion>, narrow<Conversion>};

template <typename Kind>
constexpr RowLoops<Kind> kRowLoopsOfKind = {is_plain<Kind>, pool_plane<Kind>};

template <typename Kind>
constexpr InnerLoops<Kind> kInnerLoopsOfKind = {pack<Kind>, raise<Kind>, pool<Kind>, unpack_values<Kind>,
                                                unpack_cells<Kind>};

}  // namespace

const InnerLoopsOfLevel ROIPOOL_LEVEL = {kInnerLoopsOfKind<Float32Lanes>, kInnerLoopsOfKind<Float64Lanes>,
                                         kInnerLoopsOfKind<Float16Lanes>, kInnerLoopsOfKind<BFloat16Lanes>,
                                         kRowLoopsOfKind<Float32Lanes>,   kRowLoopsOfKind<Float64Lanes>,
                                         kConversions<Float16Conversion>, kConversions<BFloat16Conversion>};

}  // namespace roipool
