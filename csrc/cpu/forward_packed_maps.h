// Pools by channel groups, from whole maps that are packed group by group: simd/README.md has the data's way.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/channel_groups.h"
#include "cpu/forward.h"
#include "cpu/parallel.h"
#include "cpu/region_parts.h"
#include "cpu/regions.h"

namespace roipool::cpu {

// A task packs a channel group of an image, and pools a share of the image's regions from it. The packed map never
// leaves the thread's cache, and no more than one for each thread takes memory.
template <typename scalar_t>
class PackedMapsForward {
 public:
  PackedMapsForward(const LevelProblem& problem, const PlacedRegions& placed, scalar_t* output, int32_t* argmax)
      : problem_(problem),
        placed_(placed),
        by_image_(problem.num_images, placed.size(), [&](int64_t i) { return placed[i].image; }),
        groups_(problem, packed_map_cell_bytes(problem.maps.num_cells()) / sizeof(scalar_t), output, argmax),
        with_argmax_(argmax != nullptr),
        merged_rows_(placed.size()),
        max_merged_rows_(problem.num_images) {
    plan_merged_rows();
  }

  void pool(const ForwardWork& work) const {
    const double packing_cost = cost_of_packing_maps(work);
    const double pooling_cost = cost_of_pooling_packed_maps(work);
    const int64_t num_packed_maps = problem_.num_images * groups_.num_groups();
    const int64_t max_threads = std::min(num_threads(), max_threads_for(packing_cost + pooling_cost));
    const int64_t num_shares = num_shares_of_image(num_packed_maps, max_threads, packing_cost, pooling_cost);
    const int64_t num_tasks = num_packed_maps * num_shares;
    const int64_t grain = grain_of(num_tasks, packing_cost + pooling_cost);
    parallel_for(num_tasks, grain, [&](int64_t begin, int64_t end) {
      Worker worker(problem_);
      for (int64_t task = begin; task < end; ++task) {
        pool_task(worker, task, num_tasks, num_shares);
      }
    });
  }

 private:
  using Groups = ChannelGroups<scalar_t>;
  using GroupMap = typename Groups::GroupMap;
  using Worker = typename Groups::Worker;
  using lane_t = typename Groups::lane_t;
  using offset_t = typename Groups::offset_t;

  // Finds how many rows of a packed map may be merged for each region, and pay for each image.
  void plan_merged_rows() {
    std::vector<VisitsByMergedRows> visits(problem_.num_images, VisitsByMergedRows{});
    for (int64_t i = 0; i < placed_.size(); ++i) {
      const PlacedRegion& region = placed_[i];
      if (region.image >= 0) {
        merged_rows_[i] = merged_rows_of_region(region.min_bin_rows(), with_argmax_);
        for (int64_t merged_rows = 2; merged_rows <= merged_rows_[i]; merged_rows *= 2) {
          visits[region.image][merged_rows] += region.row_visits() * region.column_visits();
        }
      }
    }
    for (int64_t image = 0; image < problem_.num_images; ++image) {
      max_merged_rows_[image] = max_merged_rows_of_image(visits[image], problem_.maps.num_cells(), with_argmax_);
    }
  }

  // Pools a share of the regions of an image. Adjacent tasks are of different images, so that every thread gets some of
  // all. Tasks begin at different regions: in a result in fresh memory, threads that came to one page together would
  // each have it cleared.
  void pool_task(Worker& worker, int64_t task, int64_t num_tasks, int64_t num_shares) const {
    const int64_t image = task % problem_.num_images;
    const int64_t share = task / problem_.num_images % num_shares;
    const int64_t group = task / problem_.num_images / num_shares;
    const int64_t num_regions = by_image_.end(image) - by_image_.begin(image);
    const int64_t* begin = by_image_.begin(image) + num_regions * share / num_shares;
    const int64_t* end = by_image_.begin(image) + num_regions * (share + 1) / num_shares;
    if (begin == end) {
      return;
    }
    const int64_t* start = begin + (end - begin) * task / num_tasks;
    const FeatureMaps& maps = problem_.maps;
    const int64_t num_lanes = maps.num_cells() * groups_.cell_lanes();
    lane_t* lanes = worker.lanes.get(num_lanes);
    GroupMap packed = groups_.pack(image, group, whole_map(maps), lanes);
    const bool merges = max_merged_rows_[image] > 1 && !packed.special_values.any();
    offset_t* row_offsets = merges && with_argmax_ ? worker.row_offsets.get(num_lanes) : nullptr;
    for (; packed.merged_rows <= max_merged_rows_[image]; packed.merged_rows *= 2) {
      if (packed.merged_rows > 1 && merges) {
        groups_.loops().merge_rows(lanes, row_offsets, packed.num_channels, maps.height, maps.width,
                                   packed.merged_rows);
        packed.row_offsets = row_offsets;
      }
      pool_regions(worker, start, end, group, packed);
      pool_regions(worker, begin, start, group, packed);
    }
  }

  // Pools, of some regions of an image, those that are pooled from the rows that `packed` has merged.
  void pool_regions(Worker& worker, const int64_t* begin, const int64_t* end, int64_t group,
                    const GroupMap& packed) const {
    for (const int64_t* i = begin; i != end; ++i) {
      const PlacedRegion& region = placed_[*i];
      const int64_t merged_rows =
          packed.special_values.any() ? 1 : std::min(merged_rows_[*i], max_merged_rows_[region.image]);
      if (merged_rows != packed.merged_rows) {
        continue;
      }
      if (groups_.offsets_fit(region)) {
        groups_.pool_region(worker, region, group, packed);
      } else {
        groups_.pool_by_cells(region, group);
      }
    }
  }

  const LevelProblem& problem_;
  const PlacedRegions& placed_;
  const RegionsByImage by_image_;
  const Groups groups_;
  const bool with_argmax_;
  std::vector<int64_t> merged_rows_;      // that a region can be pooled from
  std::vector<int64_t> max_merged_rows_;  // [N], that it pays to merge
};

}  // namespace roipool::cpu
