// Tests how a backward shares out its sums on the CPU. The numbers were worked out by hand from the sizes.
#include <cstdint>

#include "cpu/backward.h"
#include "expect.h"

using namespace roipool::cpu;

namespace {

// Returns the sizes of float32 gradients of 2 images with 256 channels of 50 x 84 cells, for 2 threads.
BackwardSizes fpn(int64_t num_regions, bool channels_last) {
  return {2, 256, 50 * 84, num_regions, 49, channels_last, true, 2};
}

void test_contiguous() {
  const BackwardPlan plan = plan_backward(fpn(1000, false));
  EXPECT_EQ(plan.task_channels, 16);
  EXPECT_EQ(plan.num_slices, 1);
  EXPECT_EQ(plan.task_cells, 50 * 84);
  EXPECT_EQ(plan.num_tasks(fpn(1000, false)), 32);
  EXPECT_EQ(plan.in_place, true);
  EXPECT_EQ(plan.clear_first, false);
}

void test_channels_last() {
  const BackwardPlan many = plan_backward(fpn(1000, true));
  EXPECT_EQ(many.task_channels, 32);
  EXPECT_EQ(many.in_place, false);
  EXPECT_EQ(many.clear_first, false);
  // 8 * 21 * 49 = 8232 of 8400 cells: few sums. 22 regions have more.
  EXPECT_EQ(plan_backward(fpn(21, true)).in_place, true);
  EXPECT_EQ(plan_backward(fpn(21, true)).clear_first, true);
  EXPECT_EQ(plan_backward(fpn(22, true)).in_place, false);
}

void test_half_precision_is_summed_in_scratch_memory() {
  BackwardSizes sizes = fpn(1000, false);
  sizes.sums_in_dtype = false;
  EXPECT_EQ(plan_backward(sizes).in_place, false);
}

void test_few_half_precision_sums_of_all_channels() {
  BackwardSizes sizes{2, 29, 101 * 144, 22, 45, true, false, 1};
  EXPECT_EQ(plan_backward(sizes).task_channels, 29);
  EXPECT_EQ(plan_backward(sizes).num_slices, 2);  // 1.6 MiB of sums
  sizes.num_regions = 81;                         // 4 * 2 * 81 * 45 = 29160 of 29088 cells: too many
  EXPECT_EQ(plan_backward(sizes).task_channels, 16);
  sizes.num_regions = 80;
  EXPECT_EQ(plan_backward(sizes).task_channels, 29);
  sizes.channels_last = false;
  EXPECT_EQ(plan_backward(sizes).task_channels, 14);
}

void test_large_planes_are_few_at_a_time() {
  BackwardSizes sizes = fpn(1000, false);
  sizes.num_cells = 100000;  // 2 of which fit in the cache
  EXPECT_EQ(plan_backward(sizes).task_channels, 2);
  sizes.num_cells = 1000000;
  EXPECT_EQ(plan_backward(sizes).task_channels, 1);
  sizes.channels_last = true;
  EXPECT_EQ(plan_backward(sizes).task_channels, 16);
}

void test_threads_share_the_cells_of_few_channels() {
  const BackwardSizes sizes{1, 1, 101, 10, 49, false, true, 4};
  const BackwardPlan plan = plan_backward(sizes);
  EXPECT_EQ(plan.task_channels, 1);
  EXPECT_EQ(plan.num_slices, 4);
  EXPECT_EQ(plan.task_cells, 26);
  EXPECT_EQ(plan.num_tasks(sizes), 4);
}

}  // namespace

int main() {
  test_contiguous();
  test_channels_last();
  test_half_precision_is_summed_in_scratch_memory();
  test_few_half_precision_sums_of_all_channels();
  test_large_planes_are_few_at_a_time();
  test_threads_share_the_cells_of_few_channels();
}
