// The definitions behind inner_loops.h for one instruction set. Included by inner_loops_*.cpp, each of which first
// tells the compiler the instruction set and defines
//
//   ROIPOOL_VECTOR_BYTES   the width of a register
//   ROIPOOL_LEVEL          the table to define
//
// Vectors are the extension that GCC and Clang share, so the same lines serve every processor.

#include <cstddef>
#include <utility>

#include "cpu/simd/loops.h"

#if defined(__GNUC__)                     // Clang, too
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors passed by value: only to functions that are inlined
#endif

#define ROIPOOL_INLINE inline __attribute__((always_inline))
#define ROIPOOL_UNROLL _Pragma("GCC unroll 32")  // Clang knows it too. It keeps arrays of vectors in registers.

namespace roipool {
namespace {

constexpr int64_t kVectorBytes = ROIPOOL_VECTOR_BYTES;

template <typename T, int64_t kCount>
struct VectorOf {
  typedef T type __attribute__((vector_size(kCount * sizeof(T))));
};

template <typename T, int64_t kCount>
using Vector = typename VectorOf<T, kCount>::type;

// The lanes of a register.
template <typename T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));

template <typename V, typename T>
ROIPOOL_INLINE V load(const T* from) {
  V vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

// Of `count` lanes if these are less than a register has, and 0 in the others.
template <typename V, typename T>
ROIPOOL_INLINE V load_some(const T* from, int64_t count) {
  V vector{};
  if (count >= static_cast<int64_t>(sizeof vector / sizeof(T))) {
    vector = load<V>(from);
  } else if (count > 0) {
    __builtin_memcpy(&vector, from, count * sizeof(T));
  }
  return vector;
}

template <typename V, typename T>
ROIPOOL_INLINE void store(V vector, T* to) {
  __builtin_memcpy(to, &vector, sizeof vector);
}

ROIPOOL_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- Order.

// The bits of a half-precision number <-> an integer in the same order: a sign and a magnitude <-> two's complement.
// Its own inverse. -0.0 becomes -1, next below 0.0; NaNs lie beyond the infinities.
template <typename V>
ROIPOOL_INLINE V order_of_bits(V bits) {
  return bits ^ ((bits >> 15) & 0x7fff);
}

// What is in memory <-> what is compared.
template <typename Kind, typename V>
ROIPOOL_INLINE V swap_order(V lanes) {
  if constexpr (sizeof(typename Kind::lane_t) == 2) {
    return order_of_bits(lanes);
  } else {
    return lanes;
  }
}

template <typename Kind, typename V>
ROIPOOL_INLINE auto is_nan(V lanes) {
  if constexpr (sizeof(typename Kind::lane_t) == 2) {
    constexpr int16_t kMinusInfinity = ~Kind::kInfinity;
    return (lanes > Kind::kInfinity) | (lanes < kMinusInfinity);
  } else {
    return lanes != lanes;
  }
}

// The lanes that comparing alone does not settle, see InnerLoops::pack.
template <typename Kind, typename V>
ROIPOOL_INLINE auto is_special(V lanes) {
  if constexpr (sizeof(typename Kind::lane_t) == 2) {
    return is_nan<Kind>(lanes) | (lanes == -1);
  } else {
    return lanes != lanes;
  }
}

// The lanes that compare equal to others of different bits.
template <typename Kind, typename V>
ROIPOOL_INLINE auto is_negative_zero(V lanes) {
  if constexpr (sizeof(typename Kind::lane_t) == 2) {
    return lanes == -1;
  } else {
    using cell_t = typename Kind::cell_t;
    Vector<cell_t, kLanes<typename Kind::lane_t>> bits;
    __builtin_memcpy(&bits, &lanes, sizeof bits);
    constexpr auto kSignBit = static_cast<cell_t>(uint64_t{1} << (8 * sizeof(cell_t) - 1));
    return bits == kSignBit;
  }
}

// Whether a value replaces the best so far: it is greater, or NaN.
template <typename Kind, bool kPlain, typename V>
ROIPOOL_INLINE auto replaces(V value, V best) {
  if constexpr (kPlain) {
    return value > best;
  } else if constexpr (sizeof(typename Kind::lane_t) == 2) {
    // A best that is a negative zero ranks as the other zero, and one that is NaN above all.
    const V best_rank = is_nan<Kind>(best) ? (best & 0) + 0x7fff : best - (best == -1);
    return (value > best_rank) | is_nan<Kind>(value);
  } else {
    return (value > best) | (value != value);
  }
}

// ---- Transposition of N x N lanes, N those of a register, in log2(N) rounds that zip vector i with vector i + N/2.

template <bool kUpperHalf, typename V, size_t... kLane>
ROIPOOL_INLINE V zip(V a, V b, std::index_sequence<kLane...>) {
  constexpr size_t n = sizeof...(kLane);
  constexpr size_t first = kUpperHalf ? n / 2 : 0;
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (first + kLane / 2 + (kLane % 2) * n)...);
#else
  return __builtin_shuffle(a, b, decltype(a == b){(first + kLane / 2 + (kLane % 2) * n)...});
#endif
}

template <int64_t kCount, typename V>
ROIPOOL_INLINE void transpose(V (&rows)[kCount]) {
  constexpr auto kAllLanes = std::make_index_sequence<kCount>{};
  V zipped[kCount];
  ROIPOOL_UNROLL
  for (int64_t round = 1; round < kCount; round *= 2) {
    ROIPOOL_UNROLL
    for (int64_t i = 0; i < kCount / 2; ++i) {
      zipped[2 * i] = zip<false>(rows[i], rows[i + kCount / 2], kAllLanes);
      zipped[2 * i + 1] = zip<true>(rows[i], rows[i + kCount / 2], kAllLanes);
    }
    ROIPOOL_UNROLL
    for (int64_t i = 0; i < kCount; ++i) {
      rows[i] = zipped[i];
    }
  }
}

// Transposes a square in memory; of the rows of `from`, those after `count` are not read.
template <typename T>
ROIPOOL_INLINE void transpose_square(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t count) {
  constexpr int64_t kCount = kLanes<T>;
  using V = Vector<T, kCount>;
  V rows[kCount];
  ROIPOOL_UNROLL
  for (int64_t i = 0; i < kCount; ++i) {
    rows[i] = load<V>(from + min(i, count - 1) * from_stride);
  }
  transpose(rows);
  ROIPOOL_UNROLL
  for (int64_t i = 0; i < kCount; ++i) {
    store(rows[i], to + i * to_stride);
  }
}

// ---- Pack.

template <typename Kind>
Contents pack(const typename Kind::lane_t* map, const Planes& planes, typename Kind::lane_t* block) {
  using lane_t = typename Kind::lane_t;
  constexpr int64_t kCount = kLanes<lane_t>;
  const int64_t pitch = InnerLoops<Kind>::padded(planes.channels);
  using V = Vector<lane_t, kCount>;
  decltype(is_special<Kind>(V{})) special{};
  decltype(is_negative_zero<Kind>(V{})) negative_zero{};

  if (planes.channel_stride == 1) {
    for (int64_t cell = 0; cell < planes.positions; ++cell) {
      const lane_t* from = map + cell * planes.position_stride;
      for (int64_t c = 0; c < pitch; c += kCount) {
        const V lanes = swap_order<Kind>(load_some<V>(from + c, planes.channels - c));
        special |= is_special<Kind>(lanes);
        negative_zero |= is_negative_zero<Kind>(lanes);
        store(lanes, block + cell * pitch + c);
      }
    }
  } else {
    for (int64_t c = 0; c < pitch; c += kCount) {
      for (int64_t cell = 0; cell < planes.positions; cell += kCount) {
        // The last square overlaps the one before it; on a map of fewer cells than lanes it is filled cell by cell.
        const int64_t first = planes.positions < kCount          ? 0
                              : cell + kCount > planes.positions ? planes.positions - kCount
                                                                 : cell;
        V rows[kCount];
        ROIPOOL_UNROLL
        for (int64_t i = 0; i < kCount; ++i) {
          const int64_t channel = c + i < planes.channels ? c + i : planes.channels - 1;  // the last fills the block up
          const lane_t* from = map + channel * planes.channel_stride + first;
          rows[i] = swap_order<Kind>(load_some<V>(from, planes.positions));
          special |= is_special<Kind>(rows[i]);
          negative_zero |= is_negative_zero<Kind>(rows[i]);
        }
        transpose(rows);
        ROIPOOL_UNROLL
        for (int64_t i = 0; i < kCount; ++i) {
          if (i < planes.positions) {
            store(rows[i], block + (first + i) * pitch + c);
          }
        }
      }
    }
  }
  Contents contents{true, true};
  for (int64_t i = 0; i < kCount; ++i) {
    contents.plain &= special[i] == 0;
    contents.orderless &= special[i] == 0 && negative_zero[i] == 0;
  }
  return contents;
}

template <typename Kind>
void raise(typename Kind::lane_t* block, int64_t channels, int64_t height, int64_t width, int64_t reach, int64_t first,
           int64_t last) {
  constexpr int64_t kCount = kLanes<typename Kind::lane_t>;
  using V = Vector<typename Kind::lane_t, kCount>;
  const int64_t pitch = InnerLoops<Kind>::padded(channels);
  const int64_t below = reach / 2 * width * pitch;
  for (int64_t y = 0; y + reach <= height; ++y) {  // downwards: what is read below is not yet raised
    typename Kind::lane_t* row = block + y * width * pitch;
    for (int64_t i = first * pitch; i < last * pitch; i += kCount) {
      const V upper = load<V>(row + i);
      const V lower = load<V>(row + below + i);
      store(lower > upper ? lower : upper, row + i);
    }
  }
}

// ---- Pool.

// Pools kStrip adjacent vectors of a block, from `lanes` on: the best values, and their cells, stay in registers over a
// whole bin.
template <typename Kind, bool kPlain, bool kCells, int64_t kStrip>
void pool_strip(const Block<Kind>& block, const typename Kind::lane_t* lanes, const Grid& grid,
                typename Kind::lane_t* values, typename Kind::cell_t* cells) {
  using lane_t = typename Kind::lane_t;
  using cell_t = typename Kind::cell_t;
  constexpr int64_t kCount = kLanes<lane_t>;
  constexpr int64_t kBlock = InnerLoops<Kind>::kBlockChannels;
  using V = Vector<lane_t, kCount>;
  using C = Vector<cell_t, kCount>;
  const int64_t pitch = InnerLoops<Kind>::padded(block.channels);
  const int64_t width = block.width;
  const int64_t reach = block.reach;

  for (int64_t p = 0; p < grid.num_rows; ++p) {
    const Window row = grid.rows[p];
    for (int64_t q = 0; q < grid.num_columns; ++q) {
      const Window column = grid.columns[q];
      V best[kStrip] = {};
      C best_cell[kStrip] = {};
      if (!row.empty() && !column.empty()) {
        const lane_t* first = lanes + ((row.lo - block.top) * width + column.lo - block.left) * pitch;
        ROIPOOL_UNROLL
        for (int64_t v = 0; v < kStrip; ++v) {
          best[v] = load<V>(first + v * kCount);
        }
        const int64_t pool_height = row.hi - row.lo;
        const int64_t pool_width = column.hi - column.lo;
        // Steps of `reach` rows; the last is shorter, so that it ends where the bin does.
        for (int64_t step = 0; step < pool_height; step += reach) {
          const int64_t y = min(step, pool_height - reach);
          for (int64_t x = 0; x < pool_width; ++x) {
            ROIPOOL_UNROLL
            for (int64_t v = 0; v < kStrip; ++v) {
              const V value = load<V>(first + (y * width + x) * pitch + v * kCount);
              const auto better = replaces<Kind, kPlain>(value, best[v]);
              best[v] = better ? value : best[v];
              if constexpr (kCells) {
                best_cell[v] = better ? C{} + static_cast<cell_t>(y * block.map_width + x) : best_cell[v];
              }
            }
          }
        }
      }
      const int64_t to = (p * grid.num_columns + q) * kBlock;
      ROIPOOL_UNROLL
      for (int64_t v = 0; v < kStrip; ++v) {
        store(best[v], values + to + v * kCount);
        if constexpr (kCells) {
          store(best_cell[v], cells + to + v * kCount);
        }
      }
    }
  }
}

template <typename Kind, bool kPlain, bool kCells>
void pool_strips(const Block<Kind>& block, const Grid& grid, typename Kind::lane_t* values,
                 typename Kind::cell_t* cells) {
  constexpr int64_t kCount = kLanes<typename Kind::lane_t>;
  for (int64_t c = 0; c < block.channels;) {
    const int64_t vectors = (block.channels - c + kCount - 1) / kCount;
    const auto strip = vectors >= 4   ? pool_strip<Kind, kPlain, kCells, 4>
                       : vectors >= 2 ? pool_strip<Kind, kPlain, kCells, 2>
                                      : pool_strip<Kind, kPlain, kCells, 1>;
    strip(block, block.lanes + c, grid, values + c, kCells ? cells + c : nullptr);
    c += kCount * (vectors >= 4 ? 4 : vectors >= 2 ? 2 : 1);
  }
}

template <typename Kind>
void pool(const Block<Kind>& block, const Grid& grid, typename Kind::lane_t* values, typename Kind::cell_t* cells) {
  const bool plain = block.contents.plain;
  const auto strips = plain ? (cells == nullptr ? pool_strips<Kind, true, false> : pool_strips<Kind, true, true>)
                            : (cells == nullptr ? pool_strips<Kind, false, false> : pool_strips<Kind, false, true>);
  strips(block, grid, values, cells);
}

// ---- Unpack.

// Transposes a square of a tile, `bins` x `channels` of it, to an output. kWhole: they are as many as a register has
// lanes, so that there is nothing to ask for each of them.
template <bool kWhole, typename lane_t, typename out_t, typename Convert>
ROIPOOL_INLINE void unpack_square(const lane_t* tile, int64_t bins, int64_t channels, int64_t channel_stride,
                                  out_t* output, const Convert& convert) {
  constexpr int64_t kCount = kLanes<lane_t>;
  constexpr int64_t kBlock = kBlockBytes / sizeof(lane_t);
  using V = Vector<lane_t, kCount>;
  V rows[kCount];
  ROIPOOL_UNROLL
  for (int64_t i = 0; i < kCount; ++i) {
    rows[i] = load<V>(tile + (kWhole ? i : min(i, bins - 1)) * kBlock);
  }
  transpose(rows);
  ROIPOOL_UNROLL
  for (int64_t i = 0; i < kCount; ++i) {
    if (kWhole || i < channels) {
      const auto converted = convert(rows[i]);
      __builtin_memcpy(output + i * channel_stride, &converted, kWhole ? sizeof converted : bins * sizeof(out_t));
    }
  }
}

// Copies the channels of a tile to an output, each vector of lanes by way of convert(lanes, bin), which makes a vector
// of as many out_t. bin is that of all lanes where the output is channels_last, else that of the first lane, the others
// having those that follow.
template <bool kChannelsLast, typename lane_t, typename out_t, typename Convert>
ROIPOOL_INLINE void unpack_tile(const lane_t* tile, const Planes& planes, out_t* output, const Convert& convert) {
  constexpr int64_t kCount = kLanes<lane_t>;
  constexpr int64_t kBlock = kBlockBytes / sizeof(lane_t);
  using V = Vector<lane_t, kCount>;
  if constexpr (kChannelsLast) {
    for (int64_t bin = 0; bin < planes.positions; ++bin) {
      for (int64_t c = 0; c < planes.channels; c += kCount) {
        const auto converted = convert(load<V>(tile + bin * kBlock + c), bin);
        out_t* to = output + bin * planes.position_stride + c;
        if (c + kCount <= planes.channels) {
          __builtin_memcpy(to, &converted, sizeof converted);
        } else {
          __builtin_memcpy(to, &converted, (planes.channels - c) * sizeof(out_t));
        }
      }
    }
  } else {
    const int64_t bins = min(kCount, planes.positions);
    for (int64_t c = 0; c < planes.channels; c += kCount) {
      const int64_t channels = min(kCount, planes.channels - c);
      for (int64_t bin = 0; bin < planes.positions; bin += kCount) {
        const int64_t first = min(bin, planes.positions - bins);  // the last square overlaps the one before it
        const lane_t* square = tile + first * kBlock + c;
        out_t* to = output + c * planes.channel_stride + first;
        const auto convert_here = [&](V lanes) __attribute__((always_inline)) { return convert(lanes, first); };
        if (bins == kCount && channels == kCount) {
          unpack_square<true>(square, bins, channels, planes.channel_stride, to, convert_here);
        } else {
          unpack_square<false>(square, bins, channels, planes.channel_stride, to, convert_here);
        }
      }
    }
  }
}

template <typename Kind>
void unpack_values(const typename Kind::lane_t* tile, const Planes& planes, typename Kind::lane_t* output) {
  const auto convert = [](auto lanes, int64_t) { return swap_order<Kind>(lanes); };
  if (planes.channel_stride == 1) {
    unpack_tile<true>(tile, planes, output, convert);
  } else {
    unpack_tile<false>(tile, planes, output, convert);
  }
}

// first_cells  [PH*PW], and as many more as a register has lanes: the cell that each bin counts from
template <typename Kind>
void unpack_cells(const typename Kind::cell_t* tile, const int32_t* first_cells, const Planes& planes,
                  int32_t* argmax) {
  using I = Vector<int32_t, kLanes<typename Kind::cell_t>>;
  if (planes.channel_stride == 1) {
    unpack_tile<true>(tile, planes, argmax, [first_cells](auto cells, int64_t bin) __attribute__((always_inline)) {
      return __builtin_convertvector(cells, I) + first_cells[bin];
    });
  } else {
    unpack_tile<false>(tile, planes, argmax, [first_cells](auto cells, int64_t bin) __attribute__((always_inline)) {
      return __builtin_convertvector(cells, I) + load<I>(first_cells + bin);
    });
  }
}

// ---- By rows.

template <typename Kind>
bool is_plain(const typename Kind::lane_t* cells, int64_t num_cells) {
  constexpr int64_t kCount = kLanes<typename Kind::lane_t>;
  using V = Vector<typename Kind::lane_t, kCount>;
  decltype(is_nan<Kind>(V{})) special{};
  for (int64_t i = 0; i < num_cells; i += kCount) {
    const V lanes = load_some<V>(cells + i, num_cells - i);
    special |= is_nan<Kind>(lanes) | is_negative_zero<Kind>(lanes);
  }
  bool plain = true;
  for (int64_t i = 0; i < kCount; ++i) {
    plain &= special[i] == 0;
  }
  return plain;
}

template <typename Kind, bool kCells>
void pool_rows(const typename Kind::lane_t* plane, int64_t width, int64_t map_width, const Grid& grid,
               typename Kind::lane_t* scratch, typename Kind::cell_t* cell_scratch, typename Kind::lane_t* values,
               int32_t* cells) {
  using lane_t = typename Kind::lane_t;
  using cell_t = typename Kind::cell_t;
  constexpr int64_t kCount = kLanes<lane_t>;
  using V = Vector<lane_t, kCount>;
  using C = Vector<cell_t, kCount>;

  // The columns that the region covers, from `left` on, in vectors that lie within the map: the last one overlaps the
  // one before it.
  int64_t left = width - kCount;
  int64_t right = 0;
  for (int64_t q = 0; q < grid.num_columns; ++q) {
    if (!grid.columns[q].empty()) {
      left = min(left, grid.columns[q].lo);
      right = grid.columns[q].hi > right ? grid.columns[q].hi : right;
    }
  }
  // From a line of cache on, where there is one in the first row, so that no load of a vector spans two.
  left -= min(left, static_cast<int64_t>(reinterpret_cast<uintptr_t>(plane + left) / sizeof(lane_t) % kCount));
  const int64_t pitch = (right > left ? right - left : 0) + kCount;
  lane_t* reduced = scratch;                           // [kCount rows of bins][columns], then, transposed,
  lane_t* columns_of_bins = scratch + kCount * pitch;  // [columns][kCount rows of bins]
  lane_t* bins = columns_of_bins + kCount * pitch;     // [num_columns][kCount rows of bins]
  cell_t* reduced_cells = cell_scratch;
  cell_t* cells_of_columns = kCells ? reduced_cells + kCount * pitch : nullptr;
  cell_t* bin_cells = kCells ? cells_of_columns + kCount * pitch : nullptr;
  C lane_numbers;
  for (int64_t i = 0; i < kCount; ++i) {
    lane_numbers[i] = i;
  }

  for (int64_t p = 0; p < grid.num_rows; p += kCount) {
    const int64_t count = min(kCount, grid.num_rows - p);
    for (int64_t i = 0; i < count; ++i) {
      const Window row = grid.rows[p + i];
      for (int64_t x = left; x < right && !row.empty(); x += kCount) {
        const int64_t first = min(x, width - kCount);
        V best = load<V>(plane + row.lo * width + first);
        C best_cell = lane_numbers + static_cast<cell_t>(row.lo * map_width + first);
        for (int64_t y = row.lo + 1; y < row.hi; ++y) {
          const V value = load<V>(plane + y * width + first);
          const auto better = value > best;
          best = better ? value : best;
          if constexpr (kCells) {
            best_cell = better ? lane_numbers + static_cast<cell_t>(y * map_width + first) : best_cell;
          }
        }
        store(best, reduced + i * pitch + first - left);
        if constexpr (kCells) {
          store(best_cell, reduced_cells + i * pitch + first - left);
        }
      }
    }
    for (int64_t x = left; x < right; x += kCount) {
      const int64_t first = min(x, width - kCount) - left;
      transpose_square(reduced + first, pitch, columns_of_bins + first * kCount, kCount, count);
      if constexpr (kCells) {
        transpose_square(reduced_cells + first, pitch, cells_of_columns + first * kCount, kCount, count);
      }
    }
    for (int64_t q = 0; q < grid.num_columns; ++q) {
      V best{};
      C best_cell = C{} - 1;
      if (!grid.columns[q].empty()) {
        int64_t x = grid.columns[q].lo - left;
        best = load<V>(columns_of_bins + x * kCount);
        best_cell = kCells ? load<C>(cells_of_columns + x * kCount) : C{};
        for (++x; x < grid.columns[q].hi - left; ++x) {
          const V value = load<V>(columns_of_bins + x * kCount);
          if constexpr (kCells) {  // of equal values the one with the lower number, which is first in row-major order
            const C cell = load<C>(cells_of_columns + x * kCount);
            const auto better = (value > best) | ((value == best) & (cell < best_cell));
            best = better ? value : best;
            best_cell = better ? cell : best_cell;
          } else {
            best = value > best ? value : best;
          }
        }
      }
      store(best, bins + q * kCount);
      if constexpr (kCells) {
        store(best_cell, bin_cells + q * kCount);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const bool empty = grid.rows[p + i].empty();
      for (int64_t q = 0; q < grid.num_columns; ++q) {
        values[(p + i) * grid.num_columns + q] = empty ? 0 : bins[q * kCount + i];
        if constexpr (kCells) {
          cells[(p + i) * grid.num_columns + q] = empty ? -1 : static_cast<int32_t>(bin_cells[q * kCount + i]);
        }
      }
    }
  }
}

template <typename Kind>
void pool_plane(const typename Kind::lane_t* plane, int64_t width, int64_t map_width, const Grid& grid,
                typename Kind::lane_t* scratch, typename Kind::cell_t* cell_scratch, typename Kind::lane_t* values,
                int32_t* cells) {
  const auto pool = cells == nullptr ? pool_rows<Kind, false> : pool_rows<Kind, true>;
  pool(plane, width, map_width, grid, scratch, cell_scratch, values, cells);
}

// ---- Conversions.

union FloatBits {
  float value;
  uint32_t bits;
};

struct Float16Conversion {
  // The exponent is moved by an addition; what was subnormal, by having float arithmetic normalise it.
  static ROIPOOL_INLINE float widen(int16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
    const uint32_t normal = magnitude + (magnitude >= 0x0f800000 ? 0x70000000 : 0x38000000);  // infinity, NaN; others
    FloatBits subnormal;
    subnormal.bits = magnitude + 0x38800000;
    subnormal.value -= 0x1p-14f;
    FloatBits result;
    result.bits = sign | (magnitude < 0x00800000 ? subnormal.bits : normal);
    return result.value;
  }

  static ROIPOOL_INLINE int16_t narrow(float value) {
    FloatBits input;
    input.value = value;
    const uint32_t sign = input.bits & 0x80000000;
    const uint32_t magnitude = input.bits ^ sign;
    const uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    FloatBits subnormal;  // an addition that leaves the rounded number in the last bits
    subnormal.bits = magnitude;
    subnormal.value += 0.5f;
    const uint32_t large = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    const uint32_t finite = magnitude < 0x38800000 ? subnormal.bits - 0x3f000000 : normal;
    return static_cast<int16_t>((sign >> 16) | (magnitude >= 0x47800000 ? large : finite));
  }
};

struct BFloat16Conversion {
  static ROIPOOL_INLINE float widen(int16_t bfloat) {
    FloatBits result;
    result.bits = static_cast<uint32_t>(static_cast<uint16_t>(bfloat)) << 16;
    return result.value;
  }

  static ROIPOOL_INLINE int16_t narrow(float value) {
    FloatBits input;
    input.value = value;
    const uint32_t rounded = (input.bits + 0x7fff + ((input.bits >> 16) & 1)) >> 16;
    return static_cast<int16_t>(value != value ? 0x7fc0 : rounded);
  }
};

template <typename Conversion>
void widen(const int16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = Conversion::widen(from[i]);
  }
}

template <typename Conversion>
void narrow(const float* from, int64_t count, int16_t* to) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = Conversion::narrow(from[i]);
  }
}

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
