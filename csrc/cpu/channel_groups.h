// Packs channel groups of maps, and pools regions from them or from maps as they lie.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "arithmetic.h"
#include "cpu/dtype_loops.h"
#include "cpu/forward_cells.h"
#include "cpu/region_parts.h"
#include "cpu/regions.h"
#include "cpu/scratch.h"
#include "cpu/streaming_writer.h"

namespace roipool::cpu {

template <typename scalar_t>
class ChannelGroups {
 public:
  using LaneType = typename DTypeLoops<scalar_t>::LaneType;
  using GroupMap = simd::GroupMap<LaneType>;
  using Loops = simd::GroupLoops<LaneType>;
  using lane_t = typename LaneType::lane_t;
  using offset_t = typename LaneType::offset_t;
  static_assert(sizeof(lane_t) == sizeof(scalar_t));
  static constexpr int64_t kGroupChannels = Loops::kGroupChannels;

  // Holds what a thread works with.
  struct Worker {
    explicit Worker(const LevelProblem& problem)
        : values(problem.num_bins() * kGroupChannels),
          offsets(problem.num_bins() * kGroupChannels),
          first_cells(problem.num_bins() + Loops::kMaxLanes),
          writer(problem.num_rois * problem.output_region_stride * static_cast<int64_t>(sizeof(scalar_t))) {}

    Scratch<lane_t> values;     // of a pooled group
    Scratch<offset_t> offsets;  // of a pooled group
    std::vector<int32_t> first_cells;
    StreamingWriter writer;
    GrowingScratch<lane_t> lanes;          // of a packed map
    GrowingScratch<offset_t> row_offsets;  // of its merged rows
  };

  // Makes groups of kGroupChannels, or of fewer: of whole registers of any target.
  ChannelGroups(const LevelProblem& problem, int64_t group_channels, scalar_t* output, int32_t* argmax)
      : problem_(problem), group_channels_(group_channels), output_(output), argmax_(argmax) {}

  int64_t num_groups() const { return divide_up(problem_.num_channels, group_channels_); }
  int64_t num_channels(int64_t group) const {
    return std::min(group_channels_, problem_.num_channels - group * group_channels_);
  }

  // Counts the lanes that a cell of the widest group takes.
  int64_t cell_lanes() const { return Loops::padded_channels(num_channels(0)); }

  const Loops& loops() const { return loops_; }

  // Packs a group of a part of a map to `lanes`.
  GroupMap pack(int64_t image, int64_t group, const CellRectangle& part, lane_t* lanes) const {
    const FeatureMaps& maps = problem_.maps;
    GroupMap packed{};
    packed.lanes = lanes;
    packed.cell_lanes = Loops::padded_channels(num_channels(group));
    packed.is_packed = true;
    packed.num_channels = num_channels(group);
    packed.top = part.rows.lo;
    packed.left = part.columns.lo;
    packed.width = part.width();
    packed.map_width = maps.width;
    packed.merged_rows = 1;
    const lane_t* map = first_lane(image, group);
    // Whole rows are adjacent, and are packed as one.
    const bool whole_rows = part.width() == maps.width;
    const int64_t num_rows = whole_rows ? 1 : part.height();
    const int64_t row_cells = whole_rows ? part.num_cells() : part.width();
    const simd::StridedMatrix matrix = {packed.num_channels, row_cells, maps.channel_stride, maps.cell_stride};
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t first_cell = (part.rows.lo + row) * maps.width + part.columns.lo;
      lane_t* to = lanes + row * row_cells * packed.cell_lanes;
      const simd::SpecialValues found = loops_.pack(map + first_cell * maps.cell_stride, matrix, to);
      packed.special_values.has_nan |= found.has_nan;
      packed.special_values.has_negative_zero |= found.has_negative_zero;
    }
    return packed;
  }

  // Returns a group of a channels_last map as it lies. Cells are read in whole registers: reads_within_maps() says
  // where that may be done.
  GroupMap in_place(int64_t image, int64_t group) const {
    GroupMap map{};
    map.lanes = first_lane(image, group);
    map.cell_lanes = problem_.maps.cell_stride;
    map.num_channels = num_channels(group);
    map.width = problem_.maps.width;
    map.map_width = problem_.maps.width;
    map.merged_rows = 1;
    return map;
  }

  // Returns whether whole registers can be read of all cells of a part: those of the last cells of the last image may
  // reach beyond the maps.
  bool reads_within_maps(int64_t image, int64_t group, const CellRectangle& part) const {
    const FeatureMaps& maps = problem_.maps;
    const int64_t last_cell = (part.rows.hi - 1) * maps.width + part.columns.hi - 1;
    const int64_t end = image * maps.image_stride + last_cell * maps.cell_stride + group * group_channels_ +
                        Loops::padded_channels(num_channels(group));
    return end <= problem_.num_images * maps.image_stride;
  }

  // Pools a region from a map. Needs offsets_fit(region).
  void pool_region(Worker& worker, const PlacedRegion& region, int64_t group, const GroupMap& map) const {
    const simd::StridedMatrix matrix = {num_channels(group), problem_.num_bins(), problem_.output_channel_stride,
                                        problem_.output_bin_stride};
    const int64_t to =
        region.k * problem_.output_region_stride + group * group_channels_ * problem_.output_channel_stride;
    loops_.pool_bins(map, region.grid, worker.values.get(), argmax_ == nullptr ? nullptr : worker.offsets.get());
    worker.writer.write(matrix, reinterpret_cast<lane_t*>(output_) + to,
                        [&](const simd::StridedMatrix& layout, lane_t* destination) {
                          loops_.unpack_values(worker.values.get(), layout, destination);
                        });
    if (argmax_ != nullptr) {
      region.first_cells(problem_.maps.width, worker.first_cells.data());
      worker.writer.write(matrix, argmax_ + to, [&](const simd::StridedMatrix& layout, int32_t* destination) {
        loops_.unpack_argmax(worker.offsets.get(), worker.first_cells.data(), layout, destination);
      });
    }
  }

  // Returns whether the type of offsets, which is as wide as a value, can number the cells of every bin.
  bool offsets_fit(const PlacedRegion& region) const {
    return argmax_ == nullptr || region.max_offset(problem_.maps.width) <= std::numeric_limits<offset_t>::max();
  }

  // Pools the channels of a group cell by cell from the map.
  void pool_by_cells(const PlacedRegion& region, int64_t group) const {
    const int64_t first = group * group_channels_;
    for (int64_t c = first; c < first + num_channels(group); ++c) {
      pool_channel_by_cells(problem_, region, c, output_, argmax_);
    }
  }

 private:
  const lane_t* first_lane(int64_t image, int64_t group) const {
    return static_cast<const lane_t*>(problem_.maps.input) + image * problem_.maps.image_stride +
           group * group_channels_ * problem_.maps.channel_stride;
  }

  const LevelProblem& problem_;
  const int64_t group_channels_;
  scalar_t* output_;
  int32_t* argmax_;
  const Loops& loops_ = DTypeLoops<scalar_t>::groups();
};

}  // namespace roipool::cpu
