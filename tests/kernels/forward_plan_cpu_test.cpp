// Tests which way a forward goes on the CPU. The numbers were worked out by hand from the sizes.
#include <cstdint>

#include "cpu/forward.h"
#include "expect.h"

using namespace roipool::cpu;

namespace {

// Returns the sizes of maps [N, C, H, W] that are pooled from K regions of 7 x 7 bins.
ForwardSizes sizes_of(int64_t num_images, int64_t num_channels, int64_t height, int64_t width, int64_t num_regions) {
  return {num_images, num_channels, height, width, num_regions, 49};
}

void test_ways() {
  const int64_t whole = 2 * 50 * 84;
  EXPECT_EQ(plan_forward(sizes_of(2, 256, 50, 84, 1000), whole).way, ForwardWay::kChannelGroups);
  EXPECT_EQ(plan_forward(sizes_of(2, 16, 50, 84, 1000), whole).way, ForwardWay::kChannelGroups);
  EXPECT_EQ(plan_forward(sizes_of(2, 15, 50, 84, 1000), whole).way, ForwardWay::kRows);
  EXPECT_EQ(plan_forward(sizes_of(2, 3, 50, 16, 1000), whole).way, ForwardWay::kRows);
  EXPECT_EQ(plan_forward(sizes_of(2, 3, 50, 15, 1000), whole).way, ForwardWay::kChannelGroups);
  EXPECT_EQ(plan_forward(sizes_of(2, 256, 0, 84, 1000), 0).way, ForwardWay::kClear);
  EXPECT_EQ(plan_forward(sizes_of(0, 256, 50, 84, 1000), 0).way, ForwardWay::kClear);
}

void test_what_is_prepared() {
  const ForwardSizes sizes = sizes_of(1, 64, 10, 20, 4);
  EXPECT_EQ(plan_forward(sizes, 199).whole_maps, false);
  EXPECT_EQ(plan_forward(sizes, 200).whole_maps, true);
  EXPECT_EQ(surely_cover_maps(sizes_of(1, 64, 10, 20, 16)), false);  // 784 bins for 200 cells
  EXPECT_EQ(surely_cover_maps(sizes_of(1, 64, 10, 20, 17)), true);   // 833
  EXPECT_EQ(streams_past_caches((4 << 20) - 1), false);
  EXPECT_EQ(streams_past_caches(4 << 20), true);
}

void test_sharing() {
  EXPECT_EQ(share_out_groups(2, 4, 4), true);
  EXPECT_EQ(share_out_groups(1, 7, 4), false);
  EXPECT_EQ(num_group_splits(128, 4, 2), 1);
  EXPECT_EQ(num_group_splits(127, 4, 2), 4);
}

void test_merged_rows() {
  const int64_t expected[] = {1, 1, 2, 2, 4, 4, 4, 4, 8};
  for (int64_t rows = 0; rows <= 8; ++rows) {
    EXPECT_EQ(merged_rows_of_region(rows), expected[rows]);
  }
  EXPECT_EQ(merged_rows_of_region(15), 8);
  EXPECT_EQ(merged_rows_of_region(1000), 16);

  VisitsByMergedRows visits{};
  EXPECT_EQ(max_merged_rows_of_image(visits, 100), 1);
  visits[2] = 799;  // merging 2 rows saves 399 visits, of the 400 that it costs
  EXPECT_EQ(max_merged_rows_of_image(visits, 100), 1);
  visits[2] = 800;
  EXPECT_EQ(max_merged_rows_of_image(visits, 100), 2);
  visits[4] = 1600;
  visits[16] = 1000000;  // is not reached without 8
  EXPECT_EQ(max_merged_rows_of_image(visits, 100), 4);
  visits[8] = 3200;
  EXPECT_EQ(max_merged_rows_of_image(visits, 100), 16);
}

}  // namespace

int main() {
  test_ways();
  test_what_is_prepared();
  test_sharing();
  test_merged_rows();
}
