// Tests which way a forward goes on the CPU. The numbers were worked out by hand from the sizes.
#include <cstdint>

#include "cpu/forward.h"
#include "expect.h"

using namespace roipool::cpu;

namespace {

// Returns what there is to do for regions of side x side cells, pooled to bins x bins of float32 without argmax. Bins
// share no cell.
ForwardWork work_of(int64_t num_channels, int64_t map_width, int64_t num_cells, int64_t num_regions, int64_t side,
                    int64_t bins = 7) {
  const int64_t row_vectors = (side + 15) / 16;
  const int64_t row_blocks = (bins + 15) / 16;
  ForwardWork work{};
  work.num_channels = num_channels;
  work.group_channels = 64;
  work.vector_lanes = 16;
  work.map_width = map_width;
  work.num_cells = num_cells;
  work.num_regions = num_regions;
  work.num_bins = num_regions * bins * bins;
  work.num_visits = num_regions * side * side;
  work.num_part_cells = num_regions * side * side;
  work.num_part_vectors = num_regions * side * row_vectors;
  work.num_bin_vectors = num_regions * side * bins * ((side / bins + 15) / 16);
  work.num_row_vectors = num_regions * side * row_vectors;
  work.num_row_squares = num_regions * row_blocks * row_vectors;
  work.num_column_vectors = num_regions * row_blocks * side;
  return work;
}

ForwardWay way_of(const ForwardWork& work) { return choose_way(work, nullptr); }

void test_many_channels() {
  ForwardWork many_regions = work_of(256, 84, 2 * 50 * 84, 1000, 14);
  EXPECT_EQ(way_of(many_regions), ForwardWay::kPackedMaps);
  ForwardWork few_regions = work_of(256, 336, 2 * 200 * 336, 4, 14);
  EXPECT_EQ(way_of(few_regions), ForwardWay::kPackedParts);
  many_regions.channels_last = few_regions.channels_last = true;
  EXPECT_EQ(way_of(many_regions), ForwardWay::kPackedMaps);
  EXPECT_EQ(way_of(few_regions), ForwardWay::kInPlace);
}

void test_few_channels() {
  EXPECT_EQ(way_of(work_of(3, 1344, 800 * 1344, 200, 300, 64)), ForwardWay::kRows);
  EXPECT_EQ(way_of(work_of(3, 1344, 800 * 1344, 200, 300)), ForwardWay::kCells);  // its bins are large
  EXPECT_EQ(way_of(work_of(1, 84, 50 * 84, 1, 7, 2)), ForwardWay::kCells);
  EXPECT_EQ(way_of(work_of(8, 84, 2 * 50 * 84, 1000, 14)), ForwardWay::kPackedMaps);
}

void test_maps_without_cells() {
  EXPECT_EQ(way_of(work_of(256, 84, 0, 1000, 0)), ForwardWay::kCells);
  EXPECT_EQ(choose_way(work_of(256, 84, 0, 1000, 0), "packed_maps"), ForwardWay::kCells);
}

void test_way_that_is_asked_for() {
  const ForwardWork work = work_of(256, 84, 2 * 50 * 84, 1000, 14);
  EXPECT_EQ(choose_way(work, "rows"), ForwardWay::kRows);
  EXPECT_EQ(choose_way(work, "packed_parts"), ForwardWay::kPackedParts);
  EXPECT_EQ(choose_way(work, "in_place"), ForwardWay::kPackedMaps);  // the map is contiguous
  EXPECT_EQ(choose_way(work, "no way"), ForwardWay::kPackedMaps);
}

void test_prices() {
  ForwardWork work = work_of(16, 84, 1000, 10, 7);  // one register of channels, 490 bins, 490 visits
  EXPECT_EQ(cost_of_packing_maps(work), 1.4 * 1000);
  work.channels_last = true;
  EXPECT_EQ(cost_of_packing_maps(work), 1.5 * 1000);
  const Price price{1, 2, 4};
  EXPECT_EQ(price.times(work, 10), 10.0);
  work.with_argmax = true;
  EXPECT_EQ(price.times(work, 10), 30.0);
  work.half_precision = true;
  EXPECT_EQ(price.times(work, 10), 70.0);
}

void test_packed_maps() {
  EXPECT_EQ(packed_map_cell_bytes(50 * 84), 256);  // 1.0 MiB
  EXPECT_EQ(packed_map_cell_bytes(6144), 256);     // 1.5 MiB
  EXPECT_EQ(packed_map_cell_bytes(6145), 128);
  EXPECT_EQ(packed_map_cell_bytes(100 * 168), 64);
  EXPECT_EQ(packed_map_cell_bytes(200 * 336), 64);
  EXPECT_EQ(streams_past_caches((4 << 20) - 1), false);
  EXPECT_EQ(streams_past_caches(4 << 20), true);
}

void test_sharing() {
  EXPECT_EQ(num_shares_of_image(8, 2, 1, 10), 1);   // threads have four maps each
  EXPECT_EQ(num_shares_of_image(8, 16, 1, 10), 2);  // 16 shares for 16 threads: 6 instead of 11
  EXPECT_EQ(num_shares_of_image(1, 4, 1, 10), 3);   // 4.3 instead of 11; 4 shares take 3.5, which saves too little
  EXPECT_EQ(num_shares_of_image(1, 4, 10, 1), 1);   // packing is most of the work
  EXPECT_EQ(num_shares_of_image(1, 1, 1, 10), 1);
}

void test_merged_rows() {
  const int64_t expected[] = {1, 1, 2, 2, 4, 4, 4, 4, 8};
  for (int64_t rows = 0; rows <= 8; ++rows) {
    EXPECT_EQ(merged_rows_of_region(rows, false), expected[rows]);
  }
  EXPECT_EQ(merged_rows_of_region(15, false), 8);
  EXPECT_EQ(merged_rows_of_region(1000, false), 16);

  VisitsByMergedRows visits{};
  EXPECT_EQ(max_merged_rows_of_image(visits, 100, false), 1);
  visits[2] = 799;  // merging 2 rows saves 399 visits, of the 400 that it costs
  EXPECT_EQ(max_merged_rows_of_image(visits, 100, false), 1);
  visits[2] = 800;
  EXPECT_EQ(max_merged_rows_of_image(visits, 100, false), 2);
  visits[4] = 1600;
  visits[16] = 1000000;  // is not reached without 8
  EXPECT_EQ(max_merged_rows_of_image(visits, 100, false), 4);
  visits[8] = 3200;
  EXPECT_EQ(max_merged_rows_of_image(visits, 100, false), 16);
}

void test_merged_rows_with_argmax() {
  EXPECT_EQ(merged_rows_of_region(3, true), 1);  // two rows are not worth it
  EXPECT_EQ(merged_rows_of_region(4, true), 4);
  VisitsByMergedRows visits{};
  visits[2] = visits[4] = 3199;  // merging 4 rows saves 799 visits, of the 800 that it costs
  EXPECT_EQ(max_merged_rows_of_image(visits, 100, true), 1);
  visits[2] = visits[4] = 3200;
  EXPECT_EQ(max_merged_rows_of_image(visits, 100, true), 4);
}

}  // namespace

int main() {
  test_many_channels();
  test_few_channels();
  test_maps_without_cells();
  test_way_that_is_asked_for();
  test_prices();
  test_packed_maps();
  test_sharing();
  test_merged_rows();
  test_merged_rows_with_argmax();
}
