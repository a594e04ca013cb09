// Tests how the backward is shared out on a CUDA device. The numbers were worked out by hand from the sizes.
//
// Beside its sums of cells, a warp has 2432 bytes in shared memory (1536 of runs, 192 given gradients and 32 sums of no
// use), or 3328 where sums are double. Of its 232448 bytes, kHopper leaves 57088 to each of 4 blocks. With 2 warps in a
// block, a warp has room for 28544 - 16 - 2432 bytes: 6524 float sums, or 3150 double ones.
//
// Where lanes are channels, a cell has 32 sums, and there are 1664 bytes beside them (1536 of runs, 32 sums of no use):
// room for (28544 - 16 - 1664) / 128 = 209 cells, or for (28544 - 16 - 1792) / 256 = 104 with double sums.
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

void expect_tiles(const LevelTiles& tiles, int32_t height, int32_t width, int64_t num_tiles) {
  EXPECT_EQ(tiles.height, height);
  EXPECT_EQ(tiles.width, width);
  EXPECT_EQ(tiles.end - tiles.begin, num_tiles);
}

void test_warps_of_a_block() {
  const BackwardPlan contiguous = plan_of(problem_of(2, 256, 50, 84));
  EXPECT_EQ(contiguous.warp_channels, 1);
  EXPECT_EQ(contiguous.num_warps, 2);
  EXPECT_EQ(contiguous.num_groups, 128);
  EXPECT_EQ(plan_of(problem_of(2, 1, 50, 84)).num_warps, 1);
  EXPECT_EQ(plan_of(problem_of(2, 3, 50, 84)).num_groups, 2);
  const BackwardPlan adjacent = plan_of(channels_last(problem_of(2, 256, 50, 84)));
  EXPECT_EQ(adjacent.warp_channels, 32);
  EXPECT_EQ(adjacent.num_warps, 2);
  EXPECT_EQ(adjacent.num_groups, 4);
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 33, 50, 84))).num_groups, 1);
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 16, 50, 84))).num_warps, 1);
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 16, 50, 84))).warp_channels, 32);
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 15, 50, 84))).warp_channels, 1);  // too few for lanes
}

void test_tiles() {
  const BackwardPlan whole = plan_of(problem_of(2, 256, 50, 84));  // 4200 cells
  expect_tiles(whole.levels[0], 50, 84, 1);
  EXPECT_EQ(whole.num_tiles, 1);
  EXPECT_EQ(whole.warp_bytes, 2432 + 4200 * 4);
  // The root of 6524 is 80: 336 columns make 5 tiles of 68, of which 6524 / 68 = 95 rows fit, so that 200 make 3.
  const BackwardPlan large = plan_of(problem_of(2, 256, 200, 336));
  expect_tiles(large.levels[0], 67, 68, 15);
  EXPECT_EQ(large.levels[0].num_across, 5);
  EXPECT_EQ(large.warp_bytes, divide_up(2432 + 67 * 68 * 4, 16) * 16);
  // The root of 209 is 14: 336 columns make 24 tiles of 14, of which 14 rows fit, so that 200 make 15.
  const BackwardPlan adjacent = plan_of(channels_last(problem_of(2, 256, 200, 336)));
  expect_tiles(adjacent.levels[0], 14, 14, 24 * 15);
  EXPECT_EQ(adjacent.warp_bytes, 1664 + 14 * 14 * 128);
  // Tiles of low maps are wide, and those of narrow maps are high.
  expect_tiles(plan_of(problem_of(2, 256, 2, 10000)).levels[0], 2, 2500, 4);
  expect_tiles(plan_of(problem_of(2, 256, 10000, 2)).levels[0], 2500, 2, 4);
  // A block with a single warp has room for 13660 sums.
  expect_tiles(plan_of(problem_of(1, 1, 1, INT32_MAX)).levels[0], 1, 13660, 157210);
}

void test_sums_are_wider_than_halves() {
  RoIPoolProblem problem = problem_of(2, 256, 50, 84);
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    problem.dtype = dtype;
    EXPECT_EQ(plan_of(problem).warp_bytes, 2432 + 4200 * 4);
  }
  problem.dtype = DType::kFloat64;
  expect_tiles(plan_of(problem).levels[0], 50, 42, 2);
  EXPECT_EQ(plan_of(problem).warp_bytes, 3328 + 2100 * 8);
  expect_tiles(plan_of(channels_last(problem)).levels[0], 10, 10, 5 * 9);
}

// 132 multiprocessors want 792 warps. The limit of a tile is halved until there are so many, or it is below 1024 cells.
void test_warps_for_all_multiprocessors() {
  expect_tiles(plan_of(problem_of(2, 256, 50, 84), kHopper).levels[0], 50, 42, 2);  // 512 warps would be too few
  EXPECT_EQ(plan_of(problem_of(2, 396, 50, 84), kHopper).num_tiles, 1);             // 792 warps
  expect_tiles(plan_of(problem_of(1, 512, 38, 63), kHopper).levels[0], 38, 32, 2);
  expect_tiles(plan_of(problem_of(1, 3, 28, 28), kHopper).levels[0], 28, 28, 1);
  // 384 warps with 14 x 14 cells would be too few. 104 cells are too few to be halved.
  expect_tiles(plan_of(channels_last(problem_of(2, 256, 50, 84)), kHopper).levels[0], 10, 10, 45);
  // 6524 is halved three times: 815 cells, a tile 28 wide and 28 high.
  expect_tiles(plan_of(problem_of(1, 4, 50, 84), kHopper).levels[0], 25, 28, 6);
}

void test_limit() {
  expect_tiles(plan_backward(problem_of(2, 256, 50, 84), kFewMultiprocessors, 1024).levels[0], 25, 28, 6);
}

void test_pyramids() {
  RoIPoolProblem problem = problem_of(2, 256, 200, 336);
  problem.num_levels = 3;
  problem.levels[1].height = 0;
  problem.levels[1].width = INT64_MAX;
  problem.levels[2].height = 50;
  problem.levels[2].width = 84;
  const BackwardPlan plan = plan_of(problem);
  EXPECT_EQ(plan.levels[2].begin, 0);  // the coarsest first
  EXPECT_EQ(plan.levels[2].end, 1);
  EXPECT_EQ(plan.levels[1].end, 1);  // without cells
  EXPECT_EQ(plan.levels[0].begin, 1);
  EXPECT_EQ(plan.levels[0].end, 16);
  EXPECT_EQ(plan.num_tiles, 16);
  EXPECT_EQ(plan.warp_bytes, divide_up(2432 + 67 * 68 * 4, 16) * 16);
}

void test_nothing_fits() {
  // The launch is refused, since it asks for more than there is.
  expect_tiles(plan_of(problem_of(2, 3, 30, 30), {1024, 4}).levels[0], 1, 1, 900);
  EXPECT_EQ(plan_of(problem_of(2, 3, 30, 30), {1024, 4}).warp_bytes, 2432 + 16);
}

void test_rows_of_cells() {
  for (const int64_t width : {1, 2, 3, 7, 84, 336, 641, 46341, 65536, 1 << 30, (1 << 30) + 1, INT32_MAX}) {
    const RowFinder rows(width);
    for (int64_t y = 0; y < INT32_MAX / width; y += 1 + y / 3) {
      EXPECT_EQ(rows.row_of(static_cast<uint32_t>(y * width)), static_cast<uint32_t>(y));
      EXPECT_EQ(rows.row_of(static_cast<uint32_t>(y * width + width - 1)), static_cast<uint32_t>(y));
    }
    const int64_t last = INT32_MAX - 1;
    EXPECT_EQ(rows.row_of(static_cast<uint32_t>(last)), static_cast<uint32_t>(last / width));
  }
}

}  // namespace

int main() {
  test_warps_of_a_block();
  test_tiles();
  test_sums_are_wider_than_halves();
  test_warps_for_all_multiprocessors();
  test_limit();
  test_pyramids();
  test_nothing_fits();
  test_rows_of_cells();
}
