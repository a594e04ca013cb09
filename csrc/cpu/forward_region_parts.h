// Pools by channel groups, from the part of a map that a region lies in: packed for the region alone, or as it lies in
// a channels_last map.
#pragma once

#include <cstdint>

#include "cpu/channel_groups.h"
#include "cpu/region_parts.h"
#include "cpu/region_shares.h"
#include "cpu/regions.h"

namespace roipool::cpu {

template <typename scalar_t>
class RegionPartsForward {
 public:
  RegionPartsForward(const LevelProblem& problem, const PlacedRegions& placed, scalar_t* output, int32_t* argmax)
      : problem_(problem), placed_(placed), groups_(problem, Groups::kGroupChannels, output, argmax) {}

  // Takes the maps as they lie where in_place says so and a region can be read so. `cost` is of all regions together.
  void pool(bool in_place, double cost) const {
    for_each_region_share(placed_, groups_.num_groups(), cost, [&] {
      return [&, worker = Worker(problem_)](const PlacedRegion& region, int64_t group) mutable {
        if (!groups_.offsets_fit(region)) {
          groups_.pool_by_cells(region, group);
          return;
        }
        const CellRectangle part = part_of_region(problem_.maps, region, column_step(problem_, sizeof(scalar_t)));
        if (in_place && groups_.reads_within_maps(region.image, group, part)) {
          groups_.pool_region(worker, region, group, groups_.in_place(region.image, group));
        } else {
          lane_t* lanes = worker.lanes.get(part.num_cells() * groups_.cell_lanes());
          groups_.pool_region(worker, region, group, groups_.pack(region.image, group, part, lanes));
        }
      };
    });
  }

 private:
  using Groups = ChannelGroups<scalar_t>;
  using Worker = typename Groups::Worker;
  using lane_t = typename Groups::lane_t;

  const LevelProblem& problem_;
  const PlacedRegions& placed_;
  const Groups groups_;
};

}  // namespace roipool::cpu
