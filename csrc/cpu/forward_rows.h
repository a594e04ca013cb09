// Pools by rows, from contiguous planes of the type that is compared, or from copies where the maps are something else:
// simd/README.md has the data's way.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu/dtype_loops.h"
#include "cpu/forward.h"
#include "cpu/forward_cells.h"
#include "cpu/parallel.h"
#include "cpu/region_parts.h"
#include "cpu/region_shares.h"
#include "cpu/regions.h"
#include "cpu/scratch.h"

namespace roipool::cpu {

template <typename scalar_t>
class RowForward {
 public:
  RowForward(const LevelProblem& problem, const PlacedRegions& placed, scalar_t* output, int32_t* argmax)
      : problem_(problem), placed_(placed), output_(output), argmax_(argmax) {}

  // Prepares whole planes once for all regions, or for each region the part of a plane that it lies in. `cost` is of
  // all together.
  void pool(bool whole_planes, double cost) const {
    if (whole_planes) {
      pool_from_whole_planes(cost);
    } else {
      pool_all(cost, [&](Worker& worker, const PlacedRegion& region, int64_t plane) {
        const CellRectangle part = part_of_region(problem_.maps, region, Loops::kMaxLanes);
        return prepare(plane, part, reads_maps_directly() ? nullptr : worker.copy.get(part.num_cells()));
      });
    }
  }

 private:
  using lane_t = wide_t<scalar_t>;
  using LaneType = typename DTypeLoops<lane_t>::LaneType;
  using Loops = simd::RowLoops<LaneType>;
  using offset_t = typename LaneType::offset_t;
  static constexpr bool kNeedsNoWidening = std::is_same_v<scalar_t, lane_t>;
  static_assert(kMinRowWidth >= Loops::kMaxLanes);  // or vectors would be loaded from beside the plane

  // Describes a plane or a part of one.
  struct PreparedPlane {
    const lane_t* values;
    int32_t top;
    int32_t left;
    int64_t width;
    bool by_rows;  // there are no special values; else its bins are pooled cell by cell
  };

  // Holds what a thread works with.
  struct Worker {
    explicit Worker(const LevelProblem& problem)
        : rows(problem.pooled_height),
          columns(problem.pooled_width),
          values(problem.num_bins()),
          argmax(problem.num_bins()) {}

    std::vector<CellRange> rows;
    std::vector<CellRange> columns;
    GrowingScratch<lane_t> scratch;
    GrowingScratch<offset_t> offset_scratch;
    Scratch<lane_t> values;
    Scratch<int32_t> argmax;
    GrowingScratch<lane_t> copy;
  };

  // Returns whether the maps have such planes, so that no copy is made.
  bool reads_maps_directly() const { return kNeedsNoWidening && !problem_.channels_last; }

  const scalar_t* input_of(int64_t plane) const {
    const FeatureMaps& maps = problem_.maps;
    return static_cast<const scalar_t*>(maps.input) + plane / problem_.num_channels * maps.image_stride +
           plane % problem_.num_channels * maps.channel_stride;
  }

  // Looks for special values in a part of a plane, and copies it first, unless `copy` is null.
  PreparedPlane prepare(int64_t plane, const CellRectangle& part, lane_t* copy) const {
    const FeatureMaps& maps = problem_.maps;
    const scalar_t* input = input_of(plane);
    PreparedPlane prepared = {copy, part.rows.lo, part.columns.lo, part.width(), true};
    if constexpr (kNeedsNoWidening) {
      if (copy == nullptr) {
        prepared = {input, 0, 0, maps.width, true};
      }
    }
    for (int64_t y = part.rows.lo; y < part.rows.hi; ++y) {
      const int64_t first = (y - prepared.top) * prepared.width + part.columns.lo - prepared.left;
      if (copy != nullptr) {
        copy_row(input + (y * maps.width + part.columns.lo) * maps.cell_stride, part.width(), copy + first);
      }
      prepared.by_rows &= !loops_.has_special_values(prepared.values + first, part.width());
    }
    return prepared;
  }

  void copy_row(const scalar_t* from, int64_t num_cells, lane_t* to) const {
    const int64_t cell_stride = problem_.maps.cell_stride;
    if constexpr (!kNeedsNoWidening) {
      if (cell_stride == 1) {
        widen(from, num_cells, to);
        return;
      }
    }
    for (int64_t i = 0; i < num_cells; ++i) {
      to[i] = from[i * cell_stride];
    }
  }

  void pool_from_whole_planes(double cost) const {
    const int64_t num_planes = problem_.num_images * problem_.num_channels;
    const int64_t num_cells = problem_.maps.num_cells();
    const Scratch<lane_t> copies(reads_maps_directly() ? 0 : num_planes * num_cells);
    std::vector<PreparedPlane> planes(num_planes);
    parallel_for(num_planes, grain_of(num_planes, cost), [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        lane_t* copy = reads_maps_directly() ? nullptr : copies.get() + plane * num_cells;
        planes[plane] = prepare(plane, whole_map(problem_.maps), copy);
      }
    });
    pool_all(cost, [&](Worker&, const PlacedRegion&, int64_t plane) { return planes[plane]; });
  }

  // Pools every channel of every region. plane_for(worker, region, plane) returns what the bins of a region lie in.
  template <typename PlaneFor>
  void pool_all(double cost, const PlaneFor& plane_for) const {
    for_each_region_share(placed_, problem_.num_channels, cost, [&] {
      return [&, worker = Worker(problem_)](const PlacedRegion& region, int64_t c) mutable {
        const PreparedPlane plane = plane_for(worker, region, region.image * problem_.num_channels + c);
        if (plane.by_rows) {
          pool_channel(worker, region, plane, c);
        } else {
          pool_channel_by_cells(problem_, region, c, output_, argmax_);
        }
      };
    });
  }

  // Makes ranges of the map count from a row or column of a part.
  static void shift(const CellRange* ranges, int32_t first, std::vector<CellRange>& shifted) {
    for (size_t i = 0; i < shifted.size(); ++i) {
      shifted[i] = {ranges[i].lo - first, ranges[i].hi - first};
    }
  }

  void pool_channel(Worker& worker, const PlacedRegion& region, const PreparedPlane& plane, int64_t c) const {
    shift(region.grid.rows, plane.top, worker.rows);
    shift(region.grid.columns, plane.left, worker.columns);
    const simd::BinGrid grid = {worker.rows.data(), problem_.pooled_height, worker.columns.data(),
                                problem_.pooled_width};
    const int64_t scratch_size = Loops::scratch_size(region.hull.width(), problem_.pooled_width);
    const bool with_argmax = argmax_ != nullptr;
    loops_.pool_bins(plane.values, plane.width, problem_.maps.width, grid, worker.scratch.get(scratch_size),
                     with_argmax ? worker.offset_scratch.get(scratch_size) : nullptr, worker.values.get(),
                     with_argmax ? worker.argmax.get() : nullptr);
    const int64_t to = region.k * problem_.output_region_stride + c * problem_.output_channel_stride;
    for (int64_t bin_index = 0; bin_index < problem_.num_bins(); ++bin_index) {
      output_[to + bin_index * problem_.output_bin_stride] = static_cast<scalar_t>(worker.values.get()[bin_index]);
    }
    if (with_argmax) {
      const auto first_cell = static_cast<int32_t>(plane.top * problem_.maps.width + plane.left);
      for (int64_t bin_index = 0; bin_index < problem_.num_bins(); ++bin_index) {
        const int32_t cell = worker.argmax.get()[bin_index];
        argmax_[to + bin_index * problem_.output_bin_stride] = cell < 0 ? -1 : cell + first_cell;
      }
    }
  }

  const LevelProblem& problem_;
  const PlacedRegions& placed_;
  scalar_t* output_;
  int32_t* argmax_;
  const Loops& loops_ = DTypeLoops<lane_t>::rows();
};

}  // namespace roipool::cpu
