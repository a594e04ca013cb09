// Pools by channel groups: simd/README.md has the data's way.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/channel_groups.h"
#include "cpu/forward.h"
#include "cpu/parallel.h"
#include "cpu/region_parts.h"
#include "cpu/region_shares.h"
#include "cpu/regions.h"
#include "cpu/scratch.h"

namespace roipool::cpu {

template <typename scalar_t>
class ChannelGroupForward {
 public:
  ChannelGroupForward(const LevelProblem& problem, scalar_t* output, int32_t* argmax)
      : problem_(problem),
        output_(output),
        argmax_(argmax),
        groups_(problem, output, argmax),
        num_groups_(groups_.num_groups()),
        packed_size_(problem.maps.num_cells() * groups_.cell_lanes()) {}

  // Packs whole maps, for all regions.
  void pool_from_whole_maps() {
    merged_rows_.assign(problem_.num_rois, 1);
    max_merged_rows_.assign(problem_.num_images, 1);
    if (argmax_ == nullptr) {
      plan_merged_rows();
    }
    if (share_out_groups(problem_.num_images, num_groups_, num_threads())) {
      pool_by_groups();
    } else {
      pool_by_regions();
    }
  }

  // Packs for each region the part that it lies in. num_part_cells counts the cells of all parts together; columns are
  // packed column_step at a time.
  void pool_from_region_parts(int64_t num_part_cells, int64_t column_step) const {
    const int64_t cells_per_region = num_part_cells / std::max<int64_t>(1, problem_.num_regions());
    const int64_t work = groups_.num_channels(0) * (cells_per_region + problem_.num_bins());
    for_each_region_share(problem_, output_, argmax_, num_groups_, work, [&] {
      return [&, worker = Worker(problem_)](const RegionBins& bins, int64_t image, int64_t k, int64_t group) mutable {
        const CellRectangle part = part_of_region(problem_.maps, bins, column_step);
        if (part.num_cells() == 0) {
          if (group == 0) {
            clear_region(problem_, k, output_, argmax_);
          }
        } else if (!Groups::offsets_fit(bins)) {
          groups_.scan_region(bins, image, group, k);
        } else {
          lane_t* lanes = worker.lanes.get(part.num_cells() * groups_.cell_lanes());
          groups_.pool_region(worker, bins, group, k, groups_.pack(image, group, part, lanes));
        }
      };
    });
  }

 private:
  using Groups = ChannelGroups<scalar_t>;
  using PackedMap = typename Groups::PackedMap;
  using Worker = typename Groups::Worker;
  using lane_t = typename Groups::lane_t;

  // Finds how many rows of a packed map may be merged for each region, and pay for each image. Without argmax, bins of
  // two rows and more can be pooled from maxima of two rows, and so on by powers of two.
  void plan_merged_rows() {
    std::vector<int64_t> visits_of(problem_.num_rois, 0);
    parallel_for(problem_.num_regions(), grain_of(problem_.num_bins()), [&](int64_t begin, int64_t end) {
      RegionBins bins(problem_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k = problem_.regions[i];
        if (bins.place(k) >= 0) {
          visits_of[k] = bins.num_visits();
          merged_rows_[k] = merged_rows_of_region(bins.min_bin_rows());
        }
      }
    });
    std::vector<VisitsByMergedRows> visits(problem_.num_images, VisitsByMergedRows{});
    for (const int64_t k : problem_.regions) {
      for (int64_t merged_rows = 2; merged_rows <= merged_rows_[k]; merged_rows *= 2) {
        visits[problem_.image_of_region(k)][merged_rows] += visits_of[k];
      }
    }
    for (int64_t image = 0; image < problem_.num_images; ++image) {
      max_merged_rows_[image] = max_merged_rows_of_image(visits[image], problem_.maps.num_cells());
    }
  }

  // Returns the merged rows that a region of an image is pooled from.
  int64_t merged_rows_for(int64_t k, int64_t image, const PackedMap& packed) const {
    return packed.special_values.any() ? 1 : std::min(merged_rows_[k], max_merged_rows_[image]);
  }

  // Merges pairs of what are half as many rows, in columns begin .. end-1, to merged_rows rows. Leaves maps that have
  // special values, and those that nobody packed, as they are.
  void merge_rows(const PackedMap& packed, int64_t merged_rows, int64_t begin, int64_t end) const {
    if (merged_rows > 1 && packed.lanes != nullptr && !packed.special_values.any()) {
      groups_.loops().merge_rows(packed.lanes, packed.num_channels, problem_.maps.height, problem_.maps.width,
                                 merged_rows, begin, end);
    }
  }

  // Shares out channel groups: a thread packs one and pools all regions of its image from it. The group never leaves
  // the thread's cache, and no more than one for each thread takes memory. Groups begin at different regions: in a
  // result in fresh memory, threads that came to one page together would each have it cleared.
  void pool_by_groups() const {
    const int64_t num_images = problem_.num_images;
    const int64_t num_tasks = num_images * num_groups_;
    const RegionsByImage regions(problem_, 0, problem_.num_regions());
    parallel_for(num_tasks, 1, [&](int64_t begin, int64_t end) {
      Worker worker(problem_);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task % num_images;
        const int64_t group = task / num_images;
        const int64_t* first = regions.begin(image);
        const int64_t* end_region = regions.end(image);
        if (first == end_region) {
          continue;
        }
        const int64_t* start = first + (end_region - first) * task / num_tasks;
        PackedMap packed = groups_.pack(image, group, whole_map(problem_.maps), worker.lanes.get(packed_size_));
        for (; packed.merged_rows <= max_merged_rows_[image]; packed.merged_rows *= 2) {
          merge_rows(packed, packed.merged_rows, 0, problem_.maps.width);
          pool_regions(worker, start, end_region, image, group, packed);
          pool_regions(worker, first, start, image, group, packed);
        }
      }
    });
    clear_regions_of_no_image(regions);
  }

  // Shares out regions: all groups are packed first. Then a thread takes adjacent regions, and of these, pools all that
  // lie in one image from one group after the other.
  void pool_by_regions() const {
    const int64_t num_images = problem_.num_images;
    const RegionsByImage regions(problem_, 0, problem_.num_regions());
    const Scratch<lane_t> lanes(num_images * num_groups_ * packed_size_);
    std::vector<PackedMap> packed(num_images * num_groups_);  // group by group, and in each, image by image
    parallel_for(num_images * num_groups_, grain_of(packed_size_), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i % num_images;
        if (regions.begin(image) != regions.end(image)) {
          packed[i] = groups_.pack(image, i / num_images, whole_map(problem_.maps), lanes.get() + i * packed_size_);
        }
      }
    });

    pool_shares_of_regions(packed, 1);
    const int64_t max_merged_rows = *std::max_element(max_merged_rows_.begin(), max_merged_rows_.end());
    for (int64_t merged_rows = 2; merged_rows <= max_merged_rows; merged_rows *= 2) {
      merge_rows_of_all(packed, merged_rows);
      pool_shares_of_regions(packed, merged_rows);
    }
    clear_regions_of_no_image(regions);
  }

  void merge_rows_of_all(const std::vector<PackedMap>& packed, int64_t merged_rows) const {
    const int64_t width = problem_.maps.width;
    parallel_for(width, grain_of(packed_size_ / width), [&](int64_t begin, int64_t end) {
      for (size_t i = 0; i < packed.size(); ++i) {
        if (merged_rows <= max_merged_rows_[i % problem_.num_images]) {
          merge_rows(packed[i], merged_rows, begin, end);
        }
      }
    });
  }

  // Pools those regions that are pooled from so many merged rows.
  void pool_shares_of_regions(const std::vector<PackedMap>& packed, int64_t merged_rows) const {
    const int64_t num_images = problem_.num_images;
    const int64_t num_regions = problem_.num_regions();
    const int64_t num_splits = num_group_splits(num_regions, num_groups_, num_threads());
    const int64_t grain = grain_of(problem_.output_region_stride / num_splits);
    parallel_for(num_regions * num_splits, grain, [&](int64_t begin, int64_t end) {
      Worker worker(problem_);
      for (int64_t split = begin / num_regions; split * num_regions < end; ++split) {
        const int64_t first_region = std::max(begin - split * num_regions, int64_t{0});
        const int64_t end_region = std::min(end - split * num_regions, num_regions);
        const RegionsByImage share(problem_, first_region, end_region);
        const int64_t end_group = (split + 1) * num_groups_ / num_splits;
        for (int64_t image = 0; image < num_images; ++image) {
          for (int64_t group = split * num_groups_ / num_splits; group < end_group; ++group) {
            PackedMap merged = packed[group * num_images + image];
            merged.merged_rows = merged_rows;
            pool_regions(worker, share.begin(image), share.end(image), image, group, merged);
          }
        }
      }
    });
  }

  // Pools, of the regions begin .. end-1 of an image, those that are pooled from the rows that `packed` has merged.
  void pool_regions(Worker& worker, const int64_t* begin, const int64_t* end, int64_t image, int64_t group,
                    const PackedMap& packed) const {
    RegionBins bins(problem_);
    for (const int64_t* region = begin; region != end; ++region) {
      const int64_t k = *region;
      if (merged_rows_for(k, image, packed) != packed.merged_rows) {
        continue;
      }
      if (bins.place(k) < 0) {  // although its batch index is an image's: a coordinate is not finite
        if (group == 0) {
          clear_region(problem_, k, output_, argmax_);
        }
      } else if (!Groups::offsets_fit(bins)) {
        groups_.scan_region(bins, image, group, k);
      } else {
        groups_.pool_region(worker, bins, group, k, packed);
      }
    }
  }

  void clear_regions_of_no_image(const RegionsByImage& regions) const {
    for (const int64_t* region = regions.begin_of_none(); region != regions.end_of_none(); ++region) {
      clear_region(problem_, *region, output_, argmax_);
    }
  }

  const LevelProblem& problem_;
  scalar_t* output_;
  int32_t* argmax_;
  const Groups groups_;
  const int64_t num_groups_;
  const int64_t packed_size_;             // lanes of a group of a whole map
  std::vector<int64_t> merged_rows_;      // [K], that a region can be pooled from
  std::vector<int64_t> max_merged_rows_;  // [N], that it pays to merge
};

}  // namespace roipool::cpu
