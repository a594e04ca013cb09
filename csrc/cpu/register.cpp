// The CPU kernels: forward, backward, gather.
//
// A pooled cell costs next to nothing, so everything here is about memory: channels lie side by side in the inner loops
// (inner_loops.h), each element of a result is written once, and what is read again and again (a block of channels of
// one image) is small enough to stay in the cache of the core that reads it.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <type_traits>
#include <vector>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#include "cpu/simd/capability.h"
#include "ops/operators.h"
#include "problem.h"

namespace roipool {
namespace {

// What ThreadSanitizer is told, which does not see what torch's OpenMP, built without it, puts in order.
#if defined(__SANITIZE_THREAD__)
void acquire(void* at) { __tsan_acquire(at); }
void release(void* at) { __tsan_release(at); }
#else
void acquire(void*) {}
void release(void*) {}
#endif

// The body of a parallel loop. Threads see what was done before it, and what they do is seen by what follows.
template <typename Function>
struct Body {
  const Function& function;
  mutable std::atomic<bool> out_of_memory{false};
  mutable char fork = 0;
  mutable char join = 0;

  void operator()(int64_t begin, int64_t end) const {
    acquire(&fork);
    try {
      function(begin, end);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
    release(&join);
  }
};

// torch's, of which an exception comes back as an error that names no cause: here, a lack of memory stays one.
template <typename Function>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Function& function) {
  const Body<Function> body{function};
  release(&body.fork);
  torch::stable::parallel_for(begin, end, grain, body);
  acquire(&body.join);
  if (body.out_of_memory) {
    throw std::bad_alloc();
  }
}

// Work, in elements, below which another thread costs more than it saves.
constexpr int64_t kGrain = 16384;

int64_t grain_of(int64_t elements_per_task) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_per_task));
}

// Scratch memory: not initialised, aligned to lines of cache, so that no load of a vector spans two of them.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t size)
      : data_(size == 0 ? nullptr : static_cast<T*>(::operator new(size * sizeof(T), kAlignment))) {}

  T* get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};

  struct Delete {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };

  std::unique_ptr<T, Delete> data_;
};

// The same, of a size that is not known beforehand.
template <typename T>
class GrowingScratch {
 public:
  // What it held is lost.
  T* get(int64_t size) {
    if (size > size_) {
      size_ = 0;
      scratch_ = Scratch<T>(0);  // not two at a time
      scratch_ = Scratch<T>(size);
      size_ = size;
    }
    return scratch_.get();
  }

 private:
  Scratch<T> scratch_{0};
  int64_t size_ = 0;
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- Regions.

// The problem as one level of a pyramid sees it: its maps, and the regions that are pooled from them, ascending.
struct LevelProblem : RoIPoolProblem {
  FeatureMaps maps;
  std::vector<int64_t> regions;

  LevelProblem(const RoIPoolProblem& problem, int64_t level) : RoIPoolProblem(problem), maps(problem.levels[level]) {
    regions.reserve(num_rois);
    for (int64_t k = 0; k < num_rois; ++k) {
      if (level_of_region(k) == level) {
        regions.push_back(k);
      }
    }
  }

  int64_t num_regions() const { return static_cast<int64_t>(regions.size()); }
};

// A rectangle of a map.
struct Rectangle {
  Window rows;
  Window columns;

  int64_t height() const { return std::max(0, rows.hi - rows.lo); }
  int64_t width() const { return std::max(0, columns.hi - columns.lo); }
  int64_t num_cells() const { return height() * width(); }
};

// The bins of one region at a time, on both axes.
class Bins {
 public:
  explicit Bins(const LevelProblem& problem)
      : problem_(problem), rows_(problem.pooled_height), columns_(problem.pooled_width) {}

  // Moves to region k. Returns the image that it lies in, or -1 where all its bins are empty by decree: a batch index
  // of no image, or a coordinate that is not finite.
  int64_t locate(int64_t k) {
    return problem_.rois_are_double ? locate(static_cast<const double*>(problem_.rois) + 5 * k)
                                    : locate(static_cast<const float*>(problem_.rois) + 5 * k);
  }

  const std::vector<Window>& rows() const { return rows_; }
  const std::vector<Window>& columns() const { return columns_; }
  Grid grid() const { return {rows_.data(), problem_.pooled_height, columns_.data(), problem_.pooled_width}; }

  // What the bins lie in, without a cell where all of them are empty.
  Rectangle hull() const { return {hull(rows_), hull(columns_)}; }

  // The largest number that a cell of a bin has, counted from the bin's first cell along the rows of the map.
  int64_t span() const { return (longest(rows_) - 1) * problem_.maps.width + longest(columns_) - 1; }

  // The rows of the lowest bin that is not empty; 0 if all are.
  int64_t least_height() const {
    int64_t least = 0;
    for (const Window row : rows_) {
      if (!row.empty()) {
        least = least == 0 ? row.hi - row.lo : std::min<int64_t>(least, row.hi - row.lo);
      }
    }
    return least;
  }

  // The cells of all bins together, counted once for each bin that they are in.
  int64_t num_visits() const { return sum(rows_) * sum(columns_); }

  // The first cell of each bin, or -1 of an empty one.
  void first_cells(int32_t* cells) const {
    for (const Window row : rows_) {
      for (const Window column : columns_) {
        const bool empty = row.empty() || column.empty();
        *cells++ = empty ? -1 : static_cast<int32_t>(row.lo * problem_.maps.width + column.lo);
      }
    }
  }

 private:
  static Window hull(const std::vector<Window>& windows) {
    Window hull = {std::numeric_limits<int32_t>::max(), 0};
    for (const Window window : windows) {
      if (!window.empty()) {
        hull.lo = std::min(hull.lo, window.lo);
        hull.hi = std::max(hull.hi, window.hi);
      }
    }
    return hull;
  }

  static int64_t longest(const std::vector<Window>& windows) {
    int64_t cells = 0;
    for (const Window window : windows) {
      cells = std::max<int64_t>(cells, window.hi - window.lo);
    }
    return cells;
  }

  static int64_t sum(const std::vector<Window>& windows) {
    int64_t cells = 0;
    for (const Window window : windows) {
      cells += std::max(0, window.hi - window.lo);
    }
    return cells;
  }

  template <typename T>
  int64_t locate(const T* roi) {
    const FeatureMaps& maps = problem_.maps;
    const T spatial_scale = static_cast<T>(maps.spatial_scale);
    const int64_t image = image_of(roi, problem_.num_images);
    Axis<T> x;
    Axis<T> y;
    if (image < 0 || !make_axis(roi[1], roi[3], spatial_scale, maps.width, problem_.pooled_width, &x) ||
        !make_axis(roi[2], roi[4], spatial_scale, maps.height, problem_.pooled_height, &y)) {
      return -1;
    }
    for (int64_t p = 0; p < problem_.pooled_height; ++p) {
      rows_[p] = y.window(p);
    }
    for (int64_t q = 0; q < problem_.pooled_width; ++q) {
      columns_[q] = x.window(q);
    }
    return image;
  }

  const LevelProblem& problem_;
  std::vector<Window> rows_;
  std::vector<Window> columns_;
};

// The regions problem.regions[first .. last-1] of each image, in ascending order.
class RegionsByImage {
 public:
  RegionsByImage(const LevelProblem& problem, int64_t first, int64_t last)
      : starts_(problem.num_images + 2, 0), regions_(last - first) {
    const int64_t num_images = problem.num_images;
    const auto bucket_of = [&](int64_t k) {  // those of no image come last
      const int64_t image = problem.image_of_region(k);
      return image < 0 ? num_images : image;
    };
    for (int64_t i = first; i < last; ++i) {
      ++starts_[bucket_of(problem.regions[i]) + 1];
    }
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (int64_t i = first; i < last; ++i) {
      const int64_t k = problem.regions[i];
      regions_[next[bucket_of(k)]++] = k;
    }
  }

  const int64_t* begin(int64_t image) const { return regions_.data() + starts_[image]; }
  const int64_t* end(int64_t image) const { return regions_.data() + starts_[image + 1]; }

  // The regions of no image.
  const int64_t* begin_of_none() const { return begin(static_cast<int64_t>(starts_.size()) - 2); }
  const int64_t* end_of_none() const { return regions_.data() + regions_.size(); }

 private:
  std::vector<int64_t> starts_;
  std::vector<int64_t> regions_;
};

// How many columns of a map are prepared at a time for being pooled: where they are adjacent, as many as the widest
// register holds.
template <typename scalar_t>
int64_t columns_at_a_time(const LevelProblem& problem) {
  return problem.channels_last ? 1 : 64 / sizeof(scalar_t);
}

Rectangle whole_map(const LevelProblem& problem) {
  return {{0, static_cast<int32_t>(problem.maps.height)}, {0, static_cast<int32_t>(problem.maps.width)}};
}

// What a region prepares of a map for itself alone: what its bins lie in, and at least so many columns, if there are.
// Without a cell where all bins are empty.
Rectangle part_of(const LevelProblem& problem, const Bins& bins, int64_t least_columns) {
  Rectangle part = bins.hull();
  const auto width = static_cast<int32_t>(std::min(least_columns, problem.maps.width));
  if (part.num_cells() > 0 && part.width() < width) {
    part.columns.lo = std::min<int32_t>(part.columns.lo, problem.maps.width - width);
    part.columns.hi = part.columns.lo + width;
  }
  return part;
}

// The cells that all bins visit together.
int64_t count_visits(const LevelProblem& problem) {
  int64_t visits = 0;
  Bins bins(problem);
  for (const int64_t k : problem.regions) {
    visits += bins.locate(k) < 0 ? 0 : bins.num_visits();
  }
  return visits;
}

// ---- Forward.

// The inner loops of a dtype, and the lanes that stand for its bits there.
inline const InnerLoops<Float32Lanes>& inner_loops_of(float) { return cpu_capability().loops->float32; }

inline const InnerLoops<Float64Lanes>& inner_loops_of(double) { return cpu_capability().loops->float64; }

inline const InnerLoops<Float16Lanes>& inner_loops_of(Half) { return cpu_capability().loops->float16; }

inline const InnerLoops<BFloat16Lanes>& inner_loops_of(BFloat16) { return cpu_capability().loops->bfloat16; }

// A region that has no bins: 0 and -1.
template <typename scalar_t>
void clear_region(const RoIPoolProblem& problem, int64_t k, scalar_t* output, int32_t* argmax) {
  std::fill_n(output + k * problem.region_stride, problem.region_stride, scalar_t(0));
  if (argmax != nullptr) {
    std::fill_n(argmax + k * problem.region_stride, problem.region_stride, -1);
  }
}

// Calls function(bins, image, k, i) in parallel for each of the shares of each region that has bins, its channels say,
// and clears the other regions. Every thread makes a function of its own. work_per_share is in elements, as for
// grain_of.
template <typename scalar_t, typename MakeFunction>
void for_each_share(const LevelProblem& problem, scalar_t* output, int32_t* argmax, int64_t shares,
                    int64_t work_per_share, const MakeFunction& make_function) {
  parallel_for(0, problem.num_regions() * shares, grain_of(work_per_share), [&](int64_t begin, int64_t end) {
    auto function = make_function();
    Bins bins(problem);
    int64_t located = -1;
    int64_t image = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t k = problem.regions[task / shares];
      const int64_t i = task % shares;
      if (k != located) {
        image = bins.locate(k);
        located = k;
      }
      if (image >= 0) {
        function(bins, image, k, i);
      } else if (i == 0) {
        clear_region(problem, k, output, argmax);
      }
    }
  });
}

// Pools one channel of one region cell by cell from the map as it lies in memory: the plain form of what the inner
// loops do, for what is too little for them, or too large. argmax may be null.
template <bool kChannelsLast, typename scalar_t>
void pool_channel(const LevelProblem& problem, const Bins& bins, int64_t image, int64_t k, int64_t c, scalar_t* output,
                  int32_t* argmax) {
  const FeatureMaps& maps = problem.maps;
  const int64_t cell_stride = kChannelsLast ? maps.cell_stride : 1;
  const scalar_t* map = static_cast<const scalar_t*>(maps.data) + image * maps.image_stride + c * maps.channel_stride;
  int64_t to = k * problem.region_stride + c * problem.channel_stride;
  for (const Window row : bins.rows()) {
    for (const Window column : bins.columns()) {
      int64_t best_cell = -1;
      wide_t<scalar_t> best = 0;
      if (!row.empty() && !column.empty()) {
        best_cell = row.lo * maps.width + column.lo;
        best = map[best_cell * cell_stride];
        for (int64_t y = row.lo; y < row.hi; ++y) {
          const int64_t first = y * maps.width;
          const scalar_t* values = map + first * cell_stride;
          for (int64_t x = column.lo; x < column.hi; ++x) {
            const wide_t<scalar_t> value = values[x * cell_stride];
            if (value > best || value != value) {
              best = value;
              best_cell = first + x;
            }
          }
        }
      }
      output[to] = best_cell < 0 ? scalar_t(0) : map[best_cell * cell_stride];
      if (argmax != nullptr) {
        argmax[to] = static_cast<int32_t>(best_cell);
      }
      to += problem.bin_stride;
    }
  }
}

template <typename scalar_t>
void pool_channel(const LevelProblem& problem, const Bins& bins, int64_t image, int64_t k, int64_t c, scalar_t* output,
                  int32_t* argmax) {
  if (problem.channels_last) {
    pool_channel<true>(problem, bins, image, k, c, output, argmax);
  } else {
    pool_channel<false>(problem, bins, image, k, c, output, argmax);
  }
}

template <typename scalar_t>
void forward_cells(const LevelProblem& problem, scalar_t* output, int32_t* argmax) {
  const int64_t work = problem.num_bins() + count_visits(problem) / std::max<int64_t>(1, problem.num_regions());
  for_each_share(problem, output, argmax, problem.channels, work, [&] {
    return [&](const Bins& bins, int64_t image, int64_t k, int64_t c) {
      pool_channel(problem, bins, image, k, c, output, argmax);
    };
  });
}

// Copies past the caches, so that the lines that are written need not be read first. Other threads see it after a
// fence.
inline void stream(const char* from, int64_t size, char* to) {
#if defined(__x86_64__)
  constexpr int64_t kVector = sizeof(__m128i);
  int64_t i = std::min<int64_t>(size, -reinterpret_cast<uintptr_t>(to) % kVector);
  std::memcpy(to, from, i);
  for (; i + kVector <= size; i += kVector) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
  }
  std::memcpy(to + i, from + i, size - i);
#else
  std::memcpy(to, from, size);
#endif
}

inline void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// A tile is unpacked in short rows here and there, which is put together in the first-level cache while it is little
// enough for it. From there it leaves
//
//   contiguous     in one piece, as the channels of a region lie side by side
//   channels_last  by a run for each bin, past the caches where the result is too large for them: such runs are too
//                  short, and too far apart, for the processor to fetch the next ones in time
class Staging {
 public:
  explicit Staging(int64_t result_bytes) : streams_(result_bytes >= kStreamedBytes) {}
  ~Staging() { fence(); }

  // unpack(planes, target) unpacks a tile to a target of these planes.
  template <typename T, typename Unpack>
  void write(const Planes& planes, T* output, const Unpack& unpack) {
    const bool channels_last = planes.channel_stride == 1;
    const int64_t size = planes.channels * planes.positions * sizeof(T);
    if (size > static_cast<int64_t>(sizeof buffer_) || (channels_last && !streams_)) {
      unpack(planes, output);
      return;
    }
    Planes staged = planes;
    staged.position_stride = channels_last ? planes.channels : 1;
    unpack(staged, reinterpret_cast<T*>(buffer_));
    if (!channels_last) {
      std::memcpy(output, buffer_, size);
      return;
    }
    const int64_t run = planes.channels * sizeof(T);
    for (int64_t i = 0; i < planes.positions; ++i) {
      stream(buffer_ + i * run, run, reinterpret_cast<char*>(output + i * planes.position_stride));
    }
  }

 private:
  static constexpr int64_t kStreamedBytes = 4 << 20;

  const bool streams_;
  alignas(64) char buffer_[16384];
};

// By blocks of channels, see inner_loops.h.
template <typename scalar_t>
class BlockForward {
 public:
  BlockForward(const LevelProblem& problem, scalar_t* output, int32_t* argmax)
      : problem_(problem),
        output_(output),
        argmax_(argmax),
        num_blocks_(divide_up(problem.channels, kBlock)),
        pitch_(Loops::padded(std::min(kBlock, problem.channels))),
        block_size_(problem.maps.num_cells() * pitch_) {}

  // For regions that together have as many cells to prepare as the maps: whole blocks are packed for all of them.
  void run() {
    reach_.assign(problem_.num_rois, 1);
    most_reach_.assign(problem_.num_images, 1);
    if (argmax_ == nullptr) {
      find_reaches();
    }
    if (problem_.num_images * num_blocks_ >= 2 * torch::stable::get_num_threads()) {
      run_by_blocks();
    } else {
      run_by_regions();
    }
  }

  // For regions that have fewer: of each block, a region packs the part that it lies in, for itself alone. cells are
  // those of all regions.
  void run_alone(int64_t cells) const {
    const int64_t cells_per_region = cells / std::max<int64_t>(1, problem_.num_regions());
    const int64_t work = std::min(kBlock, problem_.channels) * (cells_per_region + problem_.num_bins());
    for_each_share(problem_, output_, argmax_, num_blocks_, work, [&] {
      return [this, worker = Worker(problem_)](const Bins& bins, int64_t image, int64_t k, int64_t block) mutable {
        const Rectangle part = part_of(problem_, bins, columns_at_a_time<scalar_t>(problem_));
        if (part.num_cells() == 0) {
          if (block == 0) {
            clear_region(problem_, k, output_, argmax_);
          }
        } else if (!can_number_cells(bins)) {
          pool_cells(bins, image, block, k);
        } else {
          lane_t* lanes = worker.lanes.get(part.num_cells() * pitch_);
          pool_region(worker, bins, block, k, pack(image, block, part, lanes));
        }
      };
    });
  }

 private:
  using Loops = std::decay_t<decltype(inner_loops_of(scalar_t()))>;
  using Packed = typename Loops::block_t;
  using lane_t = typename Loops::lane_t;
  using cell_t = typename Loops::cell_t;
  static_assert(sizeof(lane_t) == sizeof(scalar_t));
  static constexpr int64_t kBlock = Loops::kBlockChannels;

  // What a thread works with.
  struct Worker {
    explicit Worker(const LevelProblem& problem)
        : values(problem.num_bins() * kBlock),
          cells(problem.num_bins() * kBlock),
          first_cells(problem.num_bins() + kBlockBytes),
          staging(problem.num_rois * problem.region_stride * static_cast<int64_t>(sizeof(scalar_t))) {}

    Scratch<lane_t> values;
    Scratch<cell_t> cells;
    std::vector<int32_t> first_cells;
    Staging staging;
    GrowingScratch<lane_t> lanes;  // of a block
  };

  // Where no argmax is asked for, a row of a block may stand for several: bins of two rows and more are pooled from
  // maxima of two rows, and so on by powers of two. The block is raised from one to the next in place, once those
  // regions are pooled that are too low for it. That takes as long as visiting its cells a few times.
  void find_reaches() {
    constexpr int64_t kMostReach = 16;
    constexpr int64_t kVisitsToRaise = 4;  // of each cell
    std::vector<int64_t> visits_of(problem_.num_rois, 0);
    parallel_for(0, problem_.num_regions(), grain_of(problem_.num_bins()), [&](int64_t begin, int64_t end) {
      Bins bins(problem_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k = problem_.regions[i];
        if (bins.locate(k) >= 0) {
          visits_of[k] = bins.num_visits();
          const int64_t least_height = bins.least_height();
          while (reach_[k] < kMostReach && 2 * reach_[k] <= least_height) {
            reach_[k] *= 2;
          }
        }
      }
    });
    std::vector<int64_t> visits(problem_.num_images * (kMostReach + 1), 0);  // of regions of that reach and more
    for (const int64_t k : problem_.regions) {
      for (int64_t reach = 2; reach <= reach_[k]; reach *= 2) {
        visits[problem_.image_of_region(k) * (kMostReach + 1) + reach] += visits_of[k];
      }
    }
    for (int64_t image = 0; image < problem_.num_images; ++image) {
      int64_t& most = most_reach_[image];
      const auto saved = [&](int64_t reach) { return visits[image * (kMostReach + 1) + reach] / reach; };
      while (most < kMostReach && saved(2 * most) >= kVisitsToRaise * problem_.maps.num_cells()) {
        most *= 2;
      }
    }
  }

  // The reach that a region of an image is pooled at.
  int64_t reach_of(int64_t k, int64_t image, const Packed& packed) const {
    return packed.contents.orderless ? std::min(reach_[k], most_reach_[image]) : 1;
  }

  // In some columns of a block, from half the reach.
  void raise(const Packed& packed, int64_t reach, int64_t first_column, int64_t last_column) const {
    if (reach > 1 && packed.contents.orderless) {
      loops_.raise(packed.lanes, packed.channels, problem_.maps.height, problem_.maps.width, reach, first_column,
                   last_column);
    }
  }

  // A thread packs a block and pools all regions of its image from it: the block never leaves its cache, and no more
  // than one for each thread takes memory. Blocks begin at different regions: of a result in fresh memory, threads that
  // come to the same page together would each have it cleared.
  void run_by_blocks() const {
    const int64_t num_images = problem_.num_images;
    const int64_t num_tasks = num_images * num_blocks_;
    const RegionsByImage regions(problem_, 0, problem_.num_regions());
    parallel_for(0, num_tasks, 1, [&](int64_t begin, int64_t end) {
      Worker worker(problem_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i % num_images;
        const int64_t block = i / num_images;
        const int64_t* first = regions.begin(image);
        const int64_t* last = regions.end(image);
        if (first == last) {
          continue;
        }
        const int64_t* start = first + (last - first) * i / num_tasks;
        Packed packed = pack(image, block, whole_map(problem_), worker.lanes.get(block_size_));
        for (; packed.reach <= most_reach_[image]; packed.reach *= 2) {
          raise(packed, packed.reach, 0, problem_.maps.width);
          pool(worker, start, last, image, block, packed);
          pool(worker, first, start, image, block, packed);
        }
      }
    });
    clear(regions);
  }

  // With too few blocks for that, all are packed first. Then a thread takes a run of adjacent regions, and of these,
  // all that lie in one image for one block after the other. Where a thread would get so few regions that fetching the
  // block is most of the work, blocks are shared out, too.
  void run_by_regions() const {
    const int64_t num_images = problem_.num_images;
    const RegionsByImage regions(problem_, 0, problem_.num_regions());
    const Scratch<lane_t> lanes(num_images * num_blocks_ * block_size_);
    std::vector<Packed> packed(num_images * num_blocks_);  // block by block, and in it, image by image
    parallel_for(0, num_images * num_blocks_, grain_of(block_size_), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i % num_images;
        if (regions.begin(image) != regions.end(image)) {
          packed[i] = pack(image, i / num_images, whole_map(problem_), lanes.get() + i * block_size_);
        }
      }
    });

    pool_by_regions(packed, 1);
    const int64_t most_reach = num_images == 0 ? 1 : *std::max_element(most_reach_.begin(), most_reach_.end());
    for (int64_t reach = 2; reach <= most_reach; reach *= 2) {
      const int64_t width = problem_.maps.width;
      parallel_for(0, width, grain_of(block_size_ / width), [&](int64_t first_column, int64_t last_column) {
        for (int64_t i = 0; i < num_images * num_blocks_; ++i) {
          if (reach <= most_reach_[i % num_images]) {
            raise(packed[i], reach, first_column, last_column);
          }
        }
      });
      pool_by_regions(packed, reach);
    }
    clear(regions);
  }

  void pool_by_regions(const std::vector<Packed>& packed, int64_t reach) const {
    constexpr int64_t kRegionsWorthABlock = 64;
    const int64_t num_images = problem_.num_images;
    const int64_t num_regions = problem_.num_regions();
    const int64_t splits = num_regions >= kRegionsWorthABlock * torch::stable::get_num_threads() ? 1 : num_blocks_;
    const int64_t grain = grain_of(problem_.region_stride / splits);
    parallel_for(0, num_regions * splits, grain, [&](int64_t begin, int64_t end) {
      Worker worker(problem_);
      for (int64_t split = begin / num_regions; split * num_regions < end; ++split) {
        const int64_t first = std::max(begin - split * num_regions, int64_t{0});
        const int64_t last = std::min(end - split * num_regions, num_regions);
        const RegionsByImage run(problem_, first, last);
        for (int64_t image = 0; image < num_images; ++image) {
          for (int64_t block = split * num_blocks_ / splits; block < (split + 1) * num_blocks_ / splits; ++block) {
            Packed raised = packed[block * num_images + image];
            raised.reach = reach;
            pool(worker, run.begin(image), run.end(image), image, block, raised);
          }
        }
      }
    });
  }

  int64_t channels_of(int64_t block) const { return std::min(kBlock, problem_.channels - block * kBlock); }

  Packed pack(int64_t image, int64_t block, const Rectangle& part, lane_t* lanes) const {
    const FeatureMaps& maps = problem_.maps;
    Packed packed = {lanes,           {true, true}, channels_of(block), part.rows.lo,
                     part.columns.lo, part.width(), maps.width,         1};
    const auto* map =
        static_cast<const lane_t*>(maps.data) + image * maps.image_stride + block * kBlock * maps.channel_stride;
    // Whole rows are adjacent, and make one.
    const bool whole_rows = part.width() == maps.width;
    const int64_t num_rows = whole_rows ? 1 : part.height();
    const Planes planes = {packed.channels, whole_rows ? part.num_cells() : part.width(), maps.channel_stride,
                           maps.cell_stride};
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t first_cell = (part.rows.lo + row) * maps.width + part.columns.lo;
      const Contents contents = loops_.pack(map + first_cell * maps.cell_stride, planes,
                                            lanes + row * planes.positions * Loops::padded(planes.channels));
      packed.contents.plain &= contents.plain;
      packed.contents.orderless &= contents.orderless;
    }
    return packed;
  }

  // The regions of no image.
  void clear(const RegionsByImage& regions) const {
    for (const int64_t* k = regions.begin_of_none(); k != regions.end_of_none(); ++k) {
      clear_region(problem_, *k, output_, argmax_);
    }
  }

  // Of the regions first .. last - 1 of an image, pools those that a block has been raised for.
  void pool(Worker& worker, const int64_t* first, const int64_t* last, int64_t image, int64_t block,
            const Packed& packed) const {
    Bins bins(problem_);
    for (const int64_t* k = first; k != last; ++k) {
      if (reach_of(*k, image, packed) != packed.reach) {
        continue;
      }
      if (bins.locate(*k) < 0) {  // it lies in the image, but nowhere: a coordinate is not finite
        if (block == 0) {
          clear_region(problem_, *k, output_, argmax_);
        }
      } else if (!can_number_cells(bins)) {
        pool_cells(bins, image, block, *k);
      } else {
        pool_region(worker, bins, block, *k, packed);
      }
    }
  }

  static bool can_number_cells(const Bins& bins) { return bins.span() <= std::numeric_limits<cell_t>::max(); }

  // Pools the channels of a block from the map.
  void pool_cells(const Bins& bins, int64_t image, int64_t block, int64_t k) const {
    for (int64_t c = block * kBlock; c < block * kBlock + channels_of(block); ++c) {
      pool_channel(problem_, bins, image, k, c, output_, argmax_);
    }
  }

  void pool_region(Worker& worker, const Bins& bins, int64_t block, int64_t k, const Packed& packed) const {
    const Planes planes = {channels_of(block), problem_.num_bins(), problem_.channel_stride, problem_.bin_stride};
    const int64_t to = k * problem_.region_stride + block * kBlock * problem_.channel_stride;
    loops_.pool(packed, bins.grid(), worker.values.get(), argmax_ == nullptr ? nullptr : worker.cells.get());
    worker.staging.write(planes, reinterpret_cast<lane_t*>(output_) + to, [&](const Planes& staged, lane_t* target) {
      loops_.unpack_values(worker.values.get(), staged, target);
    });
    if (argmax_ != nullptr) {
      bins.first_cells(worker.first_cells.data());
      worker.staging.write(planes, argmax_ + to, [&](const Planes& staged, int32_t* target) {
        loops_.unpack_cells(worker.cells.get(), worker.first_cells.data(), staged, target);
      });
    }
  }

  const LevelProblem& problem_;
  scalar_t* output_;
  int32_t* argmax_;
  const Loops& loops_ = inner_loops_of(scalar_t());
  const int64_t num_blocks_;
  const int64_t pitch_;              // of the widest block
  const int64_t block_size_;         // of a whole map
  std::vector<int64_t> reach_;       // [K], rows of the map that a row of the block may stand for
  std::vector<int64_t> most_reach_;  // [N], that it pays to raise the blocks of an image to
};

inline const Conversions& conversions_of(Half) { return cpu_capability().loops->float16_conversions; }

inline const Conversions& conversions_of(BFloat16) { return cpu_capability().loops->bfloat16_conversions; }

inline const RowLoops<Float32Lanes>& row_loops_of(float) { return cpu_capability().loops->float32_rows; }

inline const RowLoops<Float64Lanes>& row_loops_of(double) { return cpu_capability().loops->float64_rows; }

// By rows, see inner_loops.h, from contiguous planes of the type that is compared: where the maps are something else,
// from a copy.
template <typename scalar_t>
class RowForward {
 public:
  RowForward(const LevelProblem& problem, scalar_t* output, int32_t* argmax)
      : problem_(problem), output_(output), argmax_(argmax) {}

  // For regions that together have as many cells to prepare as the maps: each plane is prepared for all of them.
  void run() const {
    const int64_t num_planes = problem_.num_images * problem_.channels;
    const int64_t num_cells = problem_.maps.num_cells();
    const Scratch<lane_t> copied(is_in_place() ? 0 : num_planes * num_cells);
    std::vector<Prepared> planes(num_planes);
    parallel_for(0, num_planes, grain_of(num_cells), [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        lane_t* copy = is_in_place() ? nullptr : copied.get() + plane * num_cells;
        planes[plane] = prepare(plane, whole_map(problem_), copy);
      }
    });
    pool(problem_.num_images * num_cells, [&](Worker&, const Bins&, int64_t plane) { return planes[plane]; });
  }

  // For regions that have fewer: each prepares the part of a plane that it lies in. cells are those of all regions.
  void run_alone(int64_t cells) const {
    pool(cells, [&](Worker& worker, const Bins& bins, int64_t plane) {
      const Rectangle part = part_of(problem_, bins, Loops::kMaxLanes);
      if (part.num_cells() == 0) {
        return Prepared{};
      }
      return prepare(plane, part, is_in_place() ? nullptr : worker.copy.get(part.num_cells()));
    });
  }

 private:
  using lane_t = wide_t<scalar_t>;
  using Loops = std::decay_t<decltype(row_loops_of(lane_t()))>;
  using cell_t = typename Loops::cell_t;
  static constexpr bool kInPlace = std::is_same_v<scalar_t, lane_t>;

  // A part of a plane, or all of it.
  struct Prepared {
    const lane_t* cells;
    int32_t top;
    int32_t left;
    int64_t width;
    bool plain;  // whether it is such as the loops pool; else its bins are pooled cell by cell
  };

  // What a thread works with.
  struct Worker {
    explicit Worker(const LevelProblem& problem)
        : rows(problem.pooled_height),
          columns(problem.pooled_width),
          values(problem.num_bins()),
          cells(problem.num_bins()) {}

    std::vector<Window> rows;
    std::vector<Window> columns;
    GrowingScratch<lane_t> scratch;
    GrowingScratch<cell_t> cell_scratch;
    Scratch<lane_t> values;
    Scratch<int32_t> cells;
    GrowingScratch<lane_t> copy;
  };

  // Whether the maps are such planes themselves.
  bool is_in_place() const { return kInPlace && !problem_.channels_last; }

  const scalar_t* map_of(int64_t plane) const {
    const FeatureMaps& maps = problem_.maps;
    return static_cast<const scalar_t*>(maps.data) + plane / problem_.channels * maps.image_stride +
           plane % problem_.channels * maps.channel_stride;
  }

  // Looks at a part of a plane, which is copied first where there is memory for that.
  Prepared prepare(int64_t plane, const Rectangle& part, lane_t* copy) const {
    const FeatureMaps& maps = problem_.maps;
    const scalar_t* map = map_of(plane);
    Prepared prepared = {copy, part.rows.lo, part.columns.lo, part.width(), true};
    if constexpr (kInPlace) {
      if (copy == nullptr) {
        prepared = {map, 0, 0, maps.width, true};
      }
    }
    for (int64_t y = part.rows.lo; y < part.rows.hi; ++y) {
      const int64_t first = (y - prepared.top) * prepared.width + part.columns.lo - prepared.left;
      if (copy != nullptr) {
        copy_cells(map + (y * maps.width + part.columns.lo) * maps.cell_stride, part.width(), copy + first);
      }
      prepared.plain &= loops_.is_plain(prepared.cells + first, part.width());
    }
    return prepared;
  }

  void copy_cells(const scalar_t* from, int64_t count, lane_t* to) const {
    const int64_t cell_stride = problem_.maps.cell_stride;
    if constexpr (!kInPlace) {
      if (cell_stride == 1) {
        conversions_of(scalar_t()).widen(reinterpret_cast<const int16_t*>(from), count, to);
        return;
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      to[i] = from[i * cell_stride];
    }
  }

  // prepared_for(worker, bins, plane) is what the bins lie in. All of these together have so many cells.
  template <typename PreparedFor>
  void pool(int64_t cells, const PreparedFor& prepared_for) const {
    const int64_t work = problem_.num_bins() + cells / std::max<int64_t>(1, problem_.num_regions());
    for_each_share(problem_, output_, argmax_, problem_.channels, work, [&] {
      return [&, worker = Worker(problem_)](const Bins& bins, int64_t image, int64_t k, int64_t c) mutable {
        const Prepared prepared = prepared_for(worker, bins, image * problem_.channels + c);
        if (prepared.plain) {
          pool(worker, bins, prepared, k, c);
        } else {
          pool_channel(problem_, bins, image, k, c, output_, argmax_);
        }
      };
    });
  }

  static void shift(const std::vector<Window>& windows, int32_t first, std::vector<Window>& shifted) {
    for (size_t i = 0; i < windows.size(); ++i) {
      shifted[i] = {windows[i].lo - first, windows[i].hi - first};
    }
  }

  void pool(Worker& worker, const Bins& bins, const Prepared& prepared, int64_t k, int64_t c) const {
    shift(bins.rows(), prepared.top, worker.rows);
    shift(bins.columns(), prepared.left, worker.columns);
    const Grid grid = {worker.rows.data(), problem_.pooled_height, worker.columns.data(), problem_.pooled_width};
    const int64_t scratch_size = Loops::scratch_size(bins.hull().width(), problem_.pooled_width);
    const bool with_cells = argmax_ != nullptr;
    loops_.pool(prepared.cells, prepared.width, problem_.maps.width, grid, worker.scratch.get(scratch_size),
                with_cells ? worker.cell_scratch.get(scratch_size) : nullptr, worker.values.get(),
                with_cells ? worker.cells.get() : nullptr);
    const int64_t to = k * problem_.region_stride + c * problem_.channel_stride;
    for (int64_t bin = 0; bin < problem_.num_bins(); ++bin) {
      output_[to + bin * problem_.bin_stride] = static_cast<scalar_t>(worker.values.get()[bin]);
    }
    if (with_cells) {
      const auto first_cell = static_cast<int32_t>(prepared.top * problem_.maps.width + prepared.left);
      for (int64_t bin = 0; bin < problem_.num_bins(); ++bin) {
        const int32_t cell = worker.cells.get()[bin];
        argmax_[to + bin * problem_.bin_stride] = cell < 0 ? -1 : cell + first_cell;
      }
    }
  }

  const LevelProblem& problem_;
  scalar_t* output_;
  int32_t* argmax_;
  const Loops& loops_ = row_loops_of(lane_t());
};

// The cells that the regions prepare if each prepares what it lies in, for itself alone; at most those of the maps.
template <typename scalar_t>
int64_t cells_to_prepare(const LevelProblem& problem) {
  const int64_t all = problem.num_images * problem.maps.num_cells();
  if (problem.num_regions() * problem.num_bins() >= 4 * all) {  // then there is no need to look at them
    return all;
  }
  const int64_t columns = columns_at_a_time<scalar_t>(problem);
  int64_t cells = 0;
  Bins bins(problem);
  for (int64_t i = 0; i < problem.num_regions() && cells < all; ++i) {
    if (bins.locate(problem.regions[i]) >= 0) {
      const Rectangle part = bins.hull();
      cells += part.height() * std::min(divide_up(part.width(), columns) * columns, problem.maps.width);
    }
  }
  return std::min(cells, all);
}

template <typename scalar_t>
void forward_level(const LevelProblem& problem, scalar_t* output, int32_t* argmax) {
  constexpr int64_t kFewChannels = 16;
  constexpr int64_t kVeryFewChannels = 8;
  const int64_t all_cells = problem.num_images * problem.maps.num_cells();
  const bool is_narrow = problem.maps.width < RowLoops<Float32Lanes>::kMaxLanes;  // too narrow to be pooled by rows
  if (all_cells == 0) {
    for (const int64_t k : problem.regions) {
      clear_region(problem, k, output, argmax);
    }
    return;
  }
  if (is_narrow && problem.channels < kVeryFewChannels) {
    forward_cells(problem, output, argmax);
    return;
  }
  const int64_t cells = cells_to_prepare<scalar_t>(problem);
  const bool alone = cells < all_cells;
  const auto run = [&](auto&& forward) {
    if (alone) {
      forward.run_alone(cells);
    } else {
      forward.run();
    }
  };
  if (is_narrow || problem.channels >= kFewChannels) {
    run(BlockForward<scalar_t>(problem, output, argmax));
  } else {
    run(RowForward<scalar_t>(problem, output, argmax));
  }
}

// output, argmax: [K, C, PH, PW]; argmax may be null
template <typename scalar_t>
void forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) {
  for (int64_t level = 0; level < problem.num_levels; ++level) {
    forward_level(LevelProblem(problem, level), output, argmax);
  }
}

// ---- Backward.

inline bool is_cell(int32_t cell, int64_t num_cells) { return cell >= 0 && cell < num_cells; }

template <typename scalar_t>
void copy_narrowed(const wide_t<scalar_t>* from, int64_t count, scalar_t* to) {
  if constexpr (std::is_same_v<scalar_t, wide_t<scalar_t>>) {
    std::copy_n(from, count, to);
  } else {
    conversions_of(scalar_t()).narrow(from, count, reinterpret_cast<int16_t*>(to));
  }
}

// What a thread scatters to at a time: some channels and cells of one image.
struct ScatterBlock {
  int64_t image;
  int64_t channel;
  int64_t channels;
  int64_t first_cell;
  int64_t num_cells;
};

// Channels that a thread scatters to at a time: enough that what it reads of a region is of some length, few enough
// that their cells stay in its cache and that all threads have work.
int64_t scatter_channels(const LevelProblem& problem) {
  constexpr int64_t kCacheBytes = 1 << 20;
  const int64_t most = problem.channels_last ? 32 : 16;
  const int64_t least = problem.channels_last ? 16 : 1;  // a line of cache
  const int64_t in_cache =
      kCacheBytes / static_cast<int64_t>(sizeof(float)) / std::max<int64_t>(1, problem.maps.num_cells());
  const int64_t share = problem.num_images * problem.channels / (4 * torch::stable::get_num_threads());
  return std::clamp(std::min(in_cache, share), least, most);
}

// Adds up the gradients of a block, region by region and bin by bin: the order that fixes every bit. One thread owns
// the block, so there is nothing to synchronise.
//
//   sums  of the block, 0 at first: [channels][num_cells] by channel_stride, or [num_cells][channels] by cell_stride
template <bool kChannelsLast, typename scalar_t, typename sum_t>
void scatter(const LevelProblem& problem, const RegionsByImage& regions, const ScatterBlock& block,
             const scalar_t* grad_output, const int32_t* argmax, sum_t* sums, int64_t channel_stride,
             int64_t cell_stride) {
  const int64_t num_bins = problem.num_bins();
  // What is adjacent in grad_output and argmax: the bins of one channel, or the channels of one bin; of many bins,
  // where the block has all channels.
  constexpr int64_t kMostBins = 256;
  const int64_t lanes = kChannelsLast ? block.channels : 1;
  const bool all_channels = kChannelsLast && block.channels == problem.channels;
  const int64_t bins_of_run = !kChannelsLast ? num_bins : all_channels ? std::min(kMostBins, num_bins) : 1;
  const int64_t num_runs = kChannelsLast ? divide_up(num_bins, bins_of_run) : block.channels;
  const int64_t run_stride = kChannelsLast ? bins_of_run * problem.bin_stride : problem.channel_stride;
  const Scratch<sum_t> widened(std::is_same_v<scalar_t, sum_t> ? 0 : bins_of_run * lanes);
  constexpr int64_t kLine = 64 / sizeof(int32_t);  // elements of argmax in a line of cache
  const int64_t* last = regions.end(block.image);
  for (const int64_t* k = regions.begin(block.image); k != last; ++k) {
    for (int64_t run = 0; run < num_runs; ++run) {
      const int64_t from = *k * problem.region_stride + block.channel * problem.channel_stride + run * run_stride;
      const int64_t run_length = std::min(bins_of_run, num_bins - (kChannelsLast ? run * bins_of_run : 0)) * lanes;
      // What comes next lies too far away for the processor to foresee: in channels_last the bins after this one, else
      // the same channel of the next region. All channels of a region are adjacent.
      if (!all_channels) {
        const int64_t next =
            kChannelsLast ? from + 4 * run_stride : from + (k[k + 1 < last] - *k) * problem.region_stride;
        for (int64_t i = 0; i < run_length; i += kLine) {
          __builtin_prefetch(argmax + next + i);
          __builtin_prefetch(grad_output + next + i);
        }
      }
      const sum_t* grads;
      if constexpr (std::is_same_v<scalar_t, sum_t>) {
        grads = grad_output + from;
      } else {
        conversions_of(scalar_t())
            .widen(reinterpret_cast<const int16_t*>(grad_output + from), run_length, widened.get());
        grads = widened.get();
      }
      sum_t* run_sums = kChannelsLast ? sums : sums + run * channel_stride;
      for (int64_t i = 0; i < run_length; i += lanes) {
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const int64_t cell = argmax[from + i + lane] - block.first_cell;
          if (cell >= 0 && cell < block.num_cells) {
            run_sums[cell * cell_stride + lane] += grads[i + lane];
          }
        }
      }
    }
  }
}

template <typename scalar_t>
void backward_level(const LevelProblem& problem, const scalar_t* grad_output, const int32_t* argmax) {
  using sum_t = wide_t<scalar_t>;
  const FeatureMaps& maps = problem.maps;
  auto* grad_input = static_cast<scalar_t*>(maps.data);
  const int64_t num_images = problem.num_images;
  const int64_t num_elements = num_images * problem.channels * maps.num_cells();
  if (num_elements == 0) {
    return;
  }
  const int64_t most_channels = std::min(scatter_channels(problem), problem.channels);
  const int64_t num_blocks = num_images * divide_up(problem.channels, most_channels);
  // Where there are too few blocks for all threads, they share the cells of one: each reads it all, and adds its part.
  const int64_t num_parts = divide_up(torch::stable::get_num_threads(), num_blocks);
  const int64_t most_cells = divide_up(maps.num_cells(), num_parts);
  // Sums are made in place, unless they need another type, or a few channels of each cell would lie so far apart that
  // they fill but a part of the cache. Where few cells have a sum, that does not matter: all are cleared first.
  const bool few_sums = 8 * problem.num_regions() * problem.num_bins() < num_images * maps.num_cells();
  const bool is_scattered = problem.channels_last && most_channels < problem.channels;
  const bool in_place = std::is_same_v<scalar_t, sum_t> && (!is_scattered || few_sums);
  const auto scatter_block = problem.channels_last ? scatter<true, scalar_t, sum_t> : scatter<false, scalar_t, sum_t>;
  const bool clear_first = in_place && is_scattered;
  const RegionsByImage regions(problem, 0, problem.num_regions());

  if (clear_first) {
    parallel_for(0, num_elements, kGrain,
                 [&](int64_t begin, int64_t end) { std::fill(grad_input + begin, grad_input + end, scalar_t(0)); });
  }
  parallel_for(0, num_blocks * num_parts, grain_of(most_cells * most_channels), [&](int64_t begin, int64_t end) {
    const Scratch<sum_t> buffer(in_place ? 0 : most_cells * most_channels);
    for (int64_t task = begin; task < end; ++task) {
      ScatterBlock block;
      block.image = task / num_parts % num_images;  // every thread gets blocks of all images: the work is even
      block.channel = task / num_parts / num_images * most_channels;
      block.channels = std::min(most_channels, problem.channels - block.channel);
      block.first_cell = task % num_parts * most_cells;
      block.num_cells = std::clamp<int64_t>(maps.num_cells() - block.first_cell, 0, most_cells);
      scalar_t* grad = grad_input + block.image * maps.image_stride + block.channel * maps.channel_stride +
                       block.first_cell * maps.cell_stride;
      // What is adjacent in grad_input: the cells of one channel, or the channels of one cell; of all cells, where the
      // block has all channels.
      const bool all_channels = block.channels == problem.channels;
      const int64_t num_runs = !problem.channels_last ? block.channels : all_channels ? 1 : block.num_cells;
      const int64_t run_length = problem.channels_last && !all_channels ? block.channels
                                 : problem.channels_last                ? block.num_cells * block.channels
                                                                        : block.num_cells;
      const int64_t run_stride = problem.channels_last ? maps.cell_stride : maps.channel_stride;
      if (in_place) {
        if (!clear_first) {
          for (int64_t run = 0; run < num_runs; ++run) {
            std::fill_n(grad + run * run_stride, run_length, scalar_t(0));
          }
        }
        scatter_block(problem, regions, block, grad_output, argmax, reinterpret_cast<sum_t*>(grad), maps.channel_stride,
                      maps.cell_stride);
      } else {
        std::fill_n(buffer.get(), num_runs * run_length, sum_t(0));
        scatter_block(problem, regions, block, grad_output, argmax, buffer.get(), block.num_cells,
                      problem.channels_last ? block.channels : 1);
        for (int64_t run = 0; run < num_runs; ++run) {
          copy_narrowed(buffer.get() + run * run_length, run_length, grad + run * run_stride);
        }
      }
    }
  });
}

// grad_output, argmax: [K, C, PH, PW]; the maps are grad_inputs, every element of which is written
template <typename scalar_t>
void backward(const RoIPoolProblem& problem, const scalar_t* grad_output, const int32_t* argmax) {
  for (int64_t level = 0; level < problem.num_levels; ++level) {
    backward_level(LevelProblem(problem, level), grad_output, argmax);
  }
}

// ---- Gather.

// argmax, output: [K, C, PH, PW]
template <typename scalar_t>
void gather(const RoIPoolProblem& problem, const int32_t* argmax, scalar_t* output) {
  parallel_for(0, problem.num_rois, grain_of(problem.region_stride), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t image = problem.image_of_region(k);
      const FeatureMaps& maps = problem.levels[problem.level_of_region(k)];
      if (image < 0 || maps.num_cells() == 0) {
        clear_region<scalar_t>(problem, k, output, nullptr);
        continue;
      }
      const auto* input = static_cast<const scalar_t*>(maps.data);
      for (int64_t c = 0; c < problem.channels; ++c) {
        const scalar_t* channel = input + image * maps.image_stride + c * maps.channel_stride;
        for (int64_t bin = 0; bin < problem.num_bins(); ++bin) {
          const int64_t i = k * problem.region_stride + c * problem.channel_stride + bin * problem.bin_stride;
          output[i] = is_cell(argmax[i], maps.num_cells()) ? channel[argmax[i] * maps.cell_stride] : scalar_t(0);
        }
      }
    }
  });
}

// ---- The operators.

struct CpuKernels {
  explicit CpuKernels(const torch::stable::Device&) {}

  template <typename scalar_t>
  void forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) const {
    roipool::forward(problem, output, argmax);
  }

  template <typename scalar_t>
  void backward(const RoIPoolProblem& problem, const scalar_t* grad_output, const int32_t* argmax) const {
    roipool::backward(problem, grad_output, argmax);
  }

  template <typename scalar_t>
  void gather(const RoIPoolProblem& problem, const int32_t* argmax, scalar_t* output) const {
    roipool::gather(problem, argmax, output);
  }
};

}  // namespace
}  // namespace roipool

STABLE_TORCH_LIBRARY_IMPL(roipool, CPU, m) { roipool::implement<roipool::CpuKernels>(m); }
