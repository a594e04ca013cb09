#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu/dtype_loops.h"
#include "cpu/forward_cells.h"
#include "cpu/parallel.h"
#include "cpu/regions.h"
#include "cpu/scratch.h"

namespace roipool::cpu {

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

    std::vector<CellRange> rows;
    std::vector<CellRange> columns;
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
    return static_cast<const scalar_t*>(maps.input) + plane / problem_.channels * maps.image_stride +
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

  static void shift(const std::vector<CellRange>& windows, int32_t first, std::vector<CellRange>& shifted) {
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
    const int64_t to = k * problem_.output_region_stride + c * problem_.output_channel_stride;
    for (int64_t bin = 0; bin < problem_.num_bins(); ++bin) {
      output_[to + bin * problem_.output_bin_stride] = static_cast<scalar_t>(worker.values.get()[bin]);
    }
    if (with_cells) {
      const auto first_cell = static_cast<int32_t>(prepared.top * problem_.maps.width + prepared.left);
      for (int64_t bin = 0; bin < problem_.num_bins(); ++bin) {
        const int32_t cell = worker.cells.get()[bin];
        argmax_[to + bin * problem_.output_bin_stride] = cell < 0 ? -1 : cell + first_cell;
      }
    }
  }

  const LevelProblem& problem_;
  scalar_t* output_;
  int32_t* argmax_;
  const Loops& loops_ = row_loops_of(lane_t());
};

}  // namespace roipool::cpu
