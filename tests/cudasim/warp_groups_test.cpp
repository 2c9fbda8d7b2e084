// SPDX-License-Identifier: Apache-2.0
// Planted mistakes with tiles, barriers in shared memory and products of warp groups: each check of
// the simulator finds the one it is for, and the same kernel without it passes.
#include <cmath>

#include "pinion/kernels/cuda/hopper.cuh"
#include "sim_testing.h"

namespace cudasim::testing {
namespace {

using pinion::BFloat16;
using pinion::kernels::cuda::arrive;
using pinion::kernels::cuda::arrive_expecting;
using pinion::kernels::cuda::begin_products;
using pinion::kernels::cuda::commit_products;
using pinion::kernels::cuda::describe_tile;
using pinion::kernels::cuda::dynamic_shared;
using pinion::kernels::cuda::init_barrier;
using pinion::kernels::cuda::kLineBytes;
using pinion::kernels::cuda::kTileAlignment;
using pinion::kernels::cuda::load_tile;
using pinion::kernels::cuda::map_tiles;
using pinion::kernels::cuda::multiply_tiles;
using pinion::kernels::cuda::publish_barriers;
using pinion::kernels::cuda::wait_for_phase;
using pinion::kernels::cuda::wait_products;

enum class Mistake : uint8_t {
  none,
  one_arrival_too_many,
  barrier_off_its_boundary,
  barrier_not_published,
  tile_off_its_boundary,
  tile_not_waited_for,
  products_not_begun,
  products_not_committed,
  plain_descriptor,
  operand_in_a_later_line,
  operand_beyond_memory,
  descriptors_differ,
  one_warp_short,
};
using M = Mistake;

constexpr int kTileBytes = 64 * kLineBytes;
struct Tiles {
  alignas(kTileAlignment) unsigned char a[kTileBytes], b[kTileBytes];
  uint64_t loaded[2];
};

// y = x x^T of a matrix [64, 64]; one warp group.
template <M kMistake>
void square(const CUtensorMap map, float* y) {
  Tiles& tiles = *dynamic_shared<Tiles>();
  const int thread = static_cast<int>(threadIdx.x);
  uint64_t* loaded = tiles.loaded;
  if (kMistake == M::barrier_off_its_boundary)
    loaded = reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(tiles.loaded) + 4);
  if (thread == 0) {
    init_barrier(loaded, 1);
    if (kMistake != M::barrier_not_published) publish_barriers();
    arrive_expecting(loaded, 2 * kTileBytes);
    if (kMistake == M::one_arrival_too_many) arrive(loaded);
    load_tile(tiles.a + (kMistake == M::tile_off_its_boundary ? 16 : 0), &map, 0, 0, 0, loaded);
    load_tile(tiles.b, &map, 0, 0, 0, loaded);
  }
  __syncthreads();
  if (kMistake == M::tile_not_waited_for) return;
  wait_for_phase(loaded, 0);
  float sums[32] = {};
  if (kMistake == M::one_warp_short && thread >= 96) return;
  if (kMistake != M::products_not_begun) begin_products(sums);
  for (int k = 0; k < 64; k += 16) {
    uint64_t a = describe_tile(tiles.a + k * 2, 0), b = describe_tile(tiles.b + k * 2, 0);
    if (kMistake == M::plain_descriptor) a &= ~(uint64_t{3} << 62);
    if (kMistake == M::operand_in_a_later_line) a += kLineBytes >> 4;
    if (kMistake == M::operand_beyond_memory) b += kTileBytes >> 4;
    if (kMistake == M::descriptors_differ) a += thread == 40 ? 2 : 0;
    multiply_tiles<BFloat16, 64, false, false>(sums, a, b);
  }
  if (kMistake != M::products_not_committed) commit_products();
  wait_products<0>(sums);
  for (int s = 0; s < 32; ++s) {
    const int row = thread / 32 * 16 + thread % 32 / 4 + s / 2 % 2 * 8;
    y[row * 64 + s / 4 * 8 + thread % 4 * 2 + s % 2] = sums[s];
  }
}

// The error, if there is one. Without a mistake the product is right.
template <M kMistake>
std::optional<Error> found() {
  return found_by([] {
    std::vector<BFloat16> x;
    for (int i = 0; i < 64 * 64; ++i) x.emplace_back(static_cast<float>((i * 40503 >> 5) % 5 - 2));
    const DeviceArray<BFloat16> dx(x);
    const DeviceArray<float> y(64 * 64);
    run_kernel(square<kMistake>, {dim3(1), dim3(128), sizeof(Tiles)},
               map_tiles({dx.get(), true, 1, 64, 64, 64, 64 * 64}, 64), y.get());
    if (kMistake != M::none) return;
    for (size_t i = 0; i < 64; ++i)
      for (size_t j = 0; j < 64; ++j) {
        float sum = 0;
        for (size_t k = 0; k < 64; ++k) sum += float{x[i * 64 + k]} * float{x[j * 64 + k]};
        ASSERT_EQ(y.get()[i * 64 + j], sum) << i << " " << j;
      }
  });
}

TEST(WarpGroups, NothingIsFoundWhereNothingIsWrong) {
  const auto none = found<M::none>();
  EXPECT_FALSE(none) << none->what();
}
TEST(WarpGroups, Barriers) {
  expect_found(found<M::one_arrival_too_many>(), Fault::async, "more than 1 arrivals in one phase");
  expect_found(found<M::barrier_off_its_boundary>(), Fault::alignment, "an access of 8 bytes");
  expect_found(found<M::barrier_not_published>(), Fault::async,
               "that no fence has shown to copies");
}
TEST(WarpGroups, Tiles) {
  expect_found(found<M::tile_off_its_boundary>(), Fault::alignment, "a boundary of 128 bytes");
  expect_found(found<M::tile_not_waited_for>(), Fault::async,
               "a block ends that has not waited for a tile, at warp_groups_test.cpp:");
}
TEST(WarpGroups, Products) {
  expect_found(found<M::products_not_begun>(), Fault::async, "a fence must come before the first");
  expect_found(found<M::products_not_committed>(), Fault::async, "before a product of its warp");
  expect_found(found<M::plain_descriptor>(), Fault::async, "swizzled by 128 bytes");
  expect_found(found<M::operand_in_a_later_line>(), Fault::async, "first line of 1024 bytes");
  expect_found(found<M::operand_beyond_memory>(), Fault::bounds, "dynamic shared memory");
  expect_found(found<M::descriptors_differ>(), Fault::divergence, "disagree on the descriptors");
  expect_found(found<M::one_warp_short>(), Fault::deadlock, "that other warps have not issued");
}

// What a driver refuses comes as an error of the host; what it cannot know, when a tile is loaded.
TEST(WarpGroups, TensorMaps) {
  const DeviceArray<BFloat16> x(64 * 64);
  const pinion::kernels::cuda::TiledMatrices good{x.get(), true, 1, 64, 64, 64, 64 * 64};
  EXPECT_NO_THROW(map_tiles(good, 64));
  auto odd = good;
  odd.line = 68;  // 136 bytes
  EXPECT_THROW(map_tiles(odd, 64), pinion::Error);
  odd = good;
  odd.data = x.get() + 4;
  EXPECT_THROW(map_tiles(odd, 64), pinion::Error);
  EXPECT_THROW(map_tiles(good, 257), pinion::Error);
  auto tall = good;
  tall.lines = 65;
  const DeviceArray<float> y(64 * 64);
  expect_found(found_by([&] {
                 run_kernel(square<M::none>, {dim3(1), dim3(128), sizeof(Tiles)},
                            map_tiles(tall, 64), y.get());
               }),
               Fault::bounds, "a tensor map reaches beyond");
}

}  // namespace
}  // namespace cudasim::testing
