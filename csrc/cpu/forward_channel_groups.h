#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/dtype_loops.h"
#include "cpu/forward_cells.h"
#include "cpu/parallel.h"
#include "cpu/regions.h"
#include "cpu/scratch.h"
#include "cpu/streaming_writer.h"

namespace roipool::cpu {

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
    if (problem_.num_images * num_blocks_ >= 2 * num_threads()) {
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
          staging(problem.num_rois * problem.output_region_stride * static_cast<int64_t>(sizeof(scalar_t))) {}

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
    const int64_t splits = num_regions >= kRegionsWorthABlock * num_threads() ? 1 : num_blocks_;
    const int64_t grain = grain_of(problem_.output_region_stride / splits);
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
        static_cast<const lane_t*>(maps.input) + image * maps.image_stride + block * kBlock * maps.channel_stride;
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
    const Planes planes = {channels_of(block), problem_.num_bins(), problem_.output_channel_stride,
                           problem_.output_bin_stride};
    const int64_t to = k * problem_.output_region_stride + block * kBlock * problem_.output_channel_stride;
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

}  // namespace roipool::cpu
