// Tests how the backward is shared out on a CUDA device. The numbers were worked out by hand from the sizes.
//
// Beside its sums of cells, a warp has 2176 bytes in shared memory (1024 of runs, 256 given gradients and 32 sums of no
// use), or 3328 where sums are double. Of its 232448 bytes, kHopper leaves 57088 to each of 4 blocks, and 115200 to
// each of 2. With 2 warps in the former, a warp has room for 28544 - 16 - 2176 bytes: 6588 float sums, or 3150 double
// ones. With 8 warps in the latter, it has room for 14400 - 16 - 2176 bytes: 3052 float sums, or 1382 double ones.
#include <cstdint>

#include "cuda/backward.h"
#include "cuda_problem.h"
#include "expect.h"
#include "problem.h"

using namespace roipool;
using namespace roipool::cuda;

namespace {

constexpr DeviceLimits kFewMultiprocessors{232448, 1};  // for which a few warps are enough

BackwardPlan plan_of(const RoIPoolProblem& problem, const DeviceLimits& device = kFewMultiprocessors) {
  return plan_backward(problem, device);
}

void test_warps_of_a_block() {
  const BackwardPlan contiguous = plan_of(problem_of(2, 256, 50, 84));
  EXPECT_EQ(contiguous.num_warps, 2);
  EXPECT_EQ(contiguous.num_groups, 128);
  const BackwardPlan adjacent = plan_of(channels_last(problem_of(2, 256, 50, 84)));
  EXPECT_EQ(adjacent.num_warps, 8);
  EXPECT_EQ(adjacent.num_groups, 32);
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 3, 50, 84))).num_warps, 3);
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 9, 50, 84))).num_groups, 2);
  // 16 KiB leave 3072 bytes to a block, in which one warp finds room for 220 sums, and two would find none.
  EXPECT_EQ(plan_of(problem_of(2, 256, 50, 84), {16384, 1}).num_warps, 1);
  // 32 KiB leave 15360 bytes to a block: 8 warps would find no room, 4 room for 412 sums, 2 for 1372.
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 256, 50, 84)), {32768, 1}).num_warps, 2);
}

void test_slices_of_whole_rows() {
  // A plane of 4200 cells fits.
  const BackwardPlan whole = plan_of(problem_of(2, 256, 50, 84));
  EXPECT_EQ(whole.num_slices, 1);
  EXPECT_EQ(whole.levels[0].num_cells, 4200);
  EXPECT_EQ(whole.warp_bytes, 2176 + 4200 * 4);
  // 6588 cells are 19 rows of 336. 200 rows make 11 slices, which have 19 rows each but for the last one.
  const BackwardPlan large = plan_of(problem_of(2, 256, 200, 336));
  EXPECT_EQ(large.num_slices, 11);
  EXPECT_EQ(large.levels[0].num_cells, 19 * 336);
  // 9 of these rows fit beside 7 other channels: 23 slices, which have 9 rows each.
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 256, 200, 336))).levels[0].num_cells, 9 * 336);
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 256, 200, 336))).num_slices, 23);
  // Slices are as large as one another: 120 rows are 2 slices of 60 rather than one of 65 and one of 55.
  EXPECT_EQ(plan_of(problem_of(2, 256, 120, 100)).levels[0].num_cells, 60 * 100);
}

void test_rows_that_do_not_fit() {
  const BackwardPlan plan = plan_of(problem_of(2, 256, 2, 10000));
  EXPECT_EQ(plan.num_slices, 4);
  EXPECT_EQ(plan.levels[0].num_cells, 5000);
  EXPECT_EQ(plan_of(problem_of(1, 1, 1, INT32_MAX)).num_slices, 156477);  // of 13724 cells, since a single warp has a block
}

void test_sums_are_wider_than_halves() {
  RoIPoolProblem problem = problem_of(2, 256, 50, 84);
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    problem.dtype = dtype;
    EXPECT_EQ(plan_of(problem).warp_bytes, 2176 + 4200 * 4);
  }
  problem.dtype = DType::kFloat64;
  EXPECT_EQ(plan_of(problem).num_slices, 2);
  EXPECT_EQ(plan_of(problem).warp_bytes, 3328 + 2100 * 8);
}

// 132 multiprocessors want 792 warps. Slices are halved until there are so many, or none has more than 1024 cells.
void test_warps_for_all_multiprocessors() {
  EXPECT_EQ(plan_of(problem_of(2, 256, 50, 84), kHopper).num_slices, 2);  // 512 warps would be too few
  EXPECT_EQ(plan_of(problem_of(2, 396, 50, 84), kHopper).num_slices, 1);  // 792 warps
  EXPECT_EQ(plan_of(problem_of(1, 512, 38, 63), kHopper).num_slices, 2);  // of 19 rows each
  EXPECT_EQ(plan_of(problem_of(1, 3, 50, 84), kHopper).num_slices, 6);    // of 9 rows of 84 cells: 823 hold no 10
  EXPECT_EQ(plan_of(problem_of(1, 3, 28, 28), kHopper).levels[0].num_cells, 28 * 28);
}

void test_pyramids() {
  RoIPoolProblem problem = problem_of(2, 256, 200, 336);
  problem.num_levels = 3;
  problem.levels[1].height = 0;
  problem.levels[1].width = 168;
  problem.levels[2].height = 50;
  problem.levels[2].width = 84;
  const BackwardPlan plan = plan_of(problem);
  EXPECT_EQ(plan.levels[2].begin, 0);  // the coarsest first
  EXPECT_EQ(plan.levels[2].end, 1);
  EXPECT_EQ(plan.levels[1].end, 1);  // without cells
  EXPECT_EQ(plan.levels[0].begin, 1);
  EXPECT_EQ(plan.levels[0].end, 12);
  EXPECT_EQ(plan.num_slices, 12);
  EXPECT_EQ(plan.warp_bytes, 2176 + 19 * 336 * 4);
}

void test_nothing_fits() {
  // The launch is refused, since it asks for more than there is.
  EXPECT_EQ(plan_of(problem_of(2, 3, 30, 30), {1024, 4}).levels[0].num_cells, 1);
  EXPECT_EQ(plan_of(problem_of(2, 3, 30, 30), {1024, 4}).warp_bytes, 2176 + 16);
}

}  // namespace

int main() {
  test_warps_of_a_block();
  test_slices_of_whole_rows();
  test_rows_that_do_not_fit();
  test_sums_are_wider_than_halves();
  test_warps_for_all_multiprocessors();
  test_pyramids();
  test_nothing_fits();
}
