// SPDX-License-Identifier: Apache-2.0
// The device language in the simulator: what correct kernels compute, in any schedule.
#include <cmath>
#include <limits>
#include <numeric>

#include "pinion/kernels/cuda/mma.cuh"
#include "sim_testing.h"

namespace cudasim::testing {
namespace {

using pinion::kernels::cuda::block_max;
using pinion::kernels::cuda::block_shared;
using pinion::kernels::cuda::block_sum;
using pinion::kernels::cuda::dynamic_shared;

constexpr unsigned kAll = 0xffffffffu;

std::vector<int> run_int_kernel(void (*kernel)(int*), const LaunchShape& shape, size_t n) {
  DeviceArray<int> y(n);
  run_kernel(kernel, shape, y.get());
  return y.values();
}

void write_indices(int* y) {
  const unsigned i = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned at = i * blockDim.x * blockDim.y * blockDim.z + t;
  y[at] = static_cast<int>(at);
}
TEST(DeviceLanguage, EveryThreadOfEveryBlockRunsOnce) {
  for_schedules([] {
    std::vector<int> expected(3 * 2 * 2 * 5 * 3 * 4);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(run_int_kernel(write_indices, {dim3(3, 2, 2), dim3(5, 3, 4)}, expected.size()),
              expected);
  });
}

void shuffles(int* y) {
  const int lane = static_cast<int>(threadIdx.x % 32), v = 100 + lane;
  int* row = y + threadIdx.x * 8;
  row[0] = __shfl_sync(kAll, v, 5);
  row[1] = __shfl_sync(kAll, v, lane + 1, 8);
  row[2] = __shfl_up_sync(kAll, v, 3);
  row[3] = __shfl_down_sync(kAll, v, 3, 16);
  row[4] = __shfl_xor_sync(kAll, v, 16);
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  row[5] = __reduce_add_sync(half, v);
  row[6] = static_cast<int>(__match_any_sync(half, lane % 4));
  row[7] = static_cast<int>(__ballot_sync(kAll, lane % 3 == 0));
}
TEST(DeviceLanguage, ShufflesVotesAndMatches) {
  for_schedules([] {
    const std::vector<int> y = run_int_kernel(shuffles, {dim3(1), dim3(64)}, 64 * 8);
    unsigned thirds = 0;
    for (int l = 0; l < 32; l += 3) thirds |= 1u << l;
    for (int t = 0; t < 64; ++t) {
      const int lane = t % 32;
      const int* row = y.data() + t * 8;
      EXPECT_EQ(row[0], 105);
      EXPECT_EQ(row[1], 100 + lane / 8 * 8 + (lane + 1) % 8);
      EXPECT_EQ(row[2], 100 + (lane < 3 ? lane : lane - 3));
      EXPECT_EQ(row[3], 100 + (lane % 16 + 3 >= 16 ? lane : lane + 3));
      EXPECT_EQ(row[4], 100 + (lane ^ 16));
      EXPECT_EQ(row[5], lane < 16 ? 16 * 100 + 120 : 16 * 100 + 376);
      EXPECT_EQ(static_cast<unsigned>(row[6]), 0x1111u << (lane % 4) << (lane / 16 * 16));
      EXPECT_EQ(static_cast<unsigned>(row[7]), thirds);
    }
  });
}

void reverse_block(int* y) {
  int* shared = dynamic_shared<int>();
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] =
      shared[blockDim.x - 1 - threadIdx.x] + 1000 * __syncthreads_count(threadIdx.x < 7);
}
TEST(DeviceLanguage, BarriersOrderSharedMemory) {
  for_schedules([] {
    const std::vector<int> y = run_int_kernel(reverse_block, {dim3(1), dim3(200), 800}, 200);
    for (int i = 0; i < 200; ++i) EXPECT_EQ(y[static_cast<size_t>(i)], 7199 - i);
  });
}

// Integers in [-4, 4], so that products and sums are exact in every type.
int small_number(int i) { return i * 7 % 9 - 4; }

constexpr int kRows = 40, kStride = 24;  // of the matrices, as they lie in shared memory

// y [16,16] = A [16,16] B [16,16], with A and B or their transposes at (16, 8) of what is stored.
template <class T, bool kTransposedA, bool kTransposedB>
void multiply_fragments(float* y) {
  using namespace pinion::kernels::cuda;
  T* a = dynamic_shared<T>();
  T* b = a + kRows * kStride;
  for (int e = static_cast<int>(threadIdx.x); e < kRows * kStride; e += 32) {
    a[e] = T(static_cast<float>(small_number(e)));
    b[e] = T(static_cast<float>(small_number(e + 5)));
  }
  __syncthreads();
  const FragmentA left =
      kTransposedA ? fragment_a<true>(a, kStride, 8, 16) : fragment_a<false>(a, kStride, 16, 8);
  const PairB right =
      kTransposedB ? fragments_b<true>(b, kStride, 8, 16) : fragments_b<false>(b, kStride, 16, 8);
  for (int half = 0; half < 2; ++half) {
    FragmentC c{{1, 1, 1, 1}};
    multiply_add<T>(c, left, half ? right.right : right.left);
    const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
    for (int e = 0; e < 4; ++e) y[(g + e / 2 * 8) * 16 + half * 8 + t * 2 + e % 2] = c.v[e];
  }
}
template <class T, bool kTransposedA, bool kTransposedB>
void expect_product() {
  DeviceArray<float> y(256);
  run_kernel(multiply_fragments<T, kTransposedA, kTransposedB>,
             {dim3(1), dim3(32), 2 * kRows * kStride * sizeof(T)}, y.get());
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) {
      int sum = 1;
      for (int k = 0; k < 16; ++k) {
        const int a = kTransposedA ? (16 + k) * kStride + 8 + i : (16 + i) * kStride + 8 + k;
        const int b = kTransposedB ? (16 + j) * kStride + 8 + k : (16 + k) * kStride + 8 + j;
        sum += small_number(a) * small_number(b + 5);
      }
      EXPECT_EQ(y.values()[static_cast<size_t>(i * 16 + j)], sum) << i << ", " << j;
    }
}
TEST(DeviceLanguage, TensorCoresMultiplyAnyOrientation) {
  for_schedules([] {
    expect_product<pinion::BFloat16, false, false>();
    expect_product<pinion::BFloat16, false, true>();
    expect_product<pinion::Half, true, false>();
    expect_product<pinion::Half, true, true>();
  });
}

struct Handover {
  int v[64];
};
void two_named_barriers(int* y) {  // each half of the block meets at a barrier of its own
  const int half = static_cast<int>(threadIdx.x) / 64, at = static_cast<int>(threadIdx.x) % 64;
  Handover* shared = dynamic_shared<Handover>() + half;
  for (int round = 0; round <= half; ++round) {
    shared->v[at] = at + round;
    block_barrier(1 + half, 64, false, "bar.sync", Site::here());
    y[threadIdx.x] = shared->v[63 - at];
    block_barrier(1 + half, 64, false, "bar.sync", Site::here());
  }
}
TEST(DeviceLanguage, NamedBarriersServePartsOfABlock) {
  for_schedules([] {
    const std::vector<int> y =
        run_int_kernel(two_named_barriers, {dim3(1), dim3(128), 2 * sizeof(Handover)}, 128);
    for (int i = 0; i < 128; ++i) EXPECT_EQ(y[static_cast<size_t>(i)], 63 - i % 64 + i / 64);
  });
}

void sum_and_max(const float* x, float* y) {
  const float own = x[threadIdx.x];
  y[threadIdx.x] = block_sum<96>(own);
  y[96 + threadIdx.x] = block_max<96>(own);
}
TEST(DeviceLanguage, BlocksFoldInAFixedOrder) {
  std::vector<float> x(96);
  for (size_t i = 0; i < 96; ++i) x[i] = std::sin(static_cast<float>(i));
  std::vector<float> first;
  for_schedules([&] {
    const DeviceArray<float> from(x), to(2 * 96);
    run_kernel(sum_and_max, {dim3(1), dim3(96)}, from.get(), to.get());
    if (first.empty()) first = to.values();
    EXPECT_EQ(to.values(), first);
  });
  EXPECT_NEAR(first[0], std::accumulate(x.begin(), x.end(), 0.0), 1e-5);
  EXPECT_EQ(first[96], *std::max_element(x.begin(), x.end()));
  x[41] = std::numeric_limits<float>::quiet_NaN();
  const DeviceArray<float> from(x), to(2 * 96);
  run_kernel(sum_and_max, {dim3(1), dim3(96)}, from.get(), to.get());
  EXPECT_TRUE(std::isnan(to.values()[100]));
}

void count_atomically(int* y) {
  atomicAdd(y, 1);
  atomicMax(y + 1, static_cast<int>(blockIdx.x));
}
TEST(DeviceLanguage, AtomicsLoseNothing) {
  for_schedules([] {
    const DeviceArray<int> y(std::vector<int>{0, 0});
    run_kernel(count_atomically, {dim3(7), dim3(33)}, y.get());
    EXPECT_EQ(y.values(), (std::vector<int>{7 * 33, 6}));
  });
}

// Every block waits for every other: possible only where all are resident.
void rotate_over_grid(int* y) {
  y[blockIdx.x] = static_cast<int>(blockIdx.x);
  grid_barrier(Site::here());
  const int next = y[(blockIdx.x + 1) % gridDim.x];
  grid_barrier(Site::here());
  y[blockIdx.x] = next;
}
void wait_for_turn(int* y) {
  while (atomicAdd(y, 0) != static_cast<int>(blockIdx.x)) __nanosleep(20);
  atomicAdd(y, 1);
}
TEST(DeviceLanguage, CooperativeBlocksWaitForOneAnother) {
  for_schedules([] {
    const std::vector<int> y = run_int_kernel(rotate_over_grid, {dim3(5), dim3(1), 0, true}, 5);
    EXPECT_EQ(y, (std::vector<int>{1, 2, 3, 4, 0}));
    const DeviceArray<int> turn(std::vector<int>{0});
    run_kernel(wait_for_turn, {dim3(9), dim3(1), 0, true}, turn.get());
    EXPECT_EQ(turn.values()[0], 9);
  });
}

void copy_through_shared(const float4* x, float4* y) {
  float4* shared = dynamic_shared<float4>();
  pinion::kernels::cuda::copy_async16(shared + threadIdx.x, x + threadIdx.x);
  pinion::kernels::cuda::commit_async();
  pinion::kernels::cuda::wait_async<0>();
  __syncthreads();
  y[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}
TEST(DeviceLanguage, AsynchronousCopiesArrive) {
  for_schedules([] {
    std::vector<float4> x(64);
    for (size_t i = 0; i < 64; ++i) x[i].z = static_cast<float>(i);
    const DeviceArray<float4> from(x), to(64);
    run_kernel(copy_through_shared, {dim3(1), dim3(64), 64 * 16}, from.get(), to.get());
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(to.values()[i].z, static_cast<float>(63 - i));
  });
}

TEST(DeviceLanguage, ASeedFixesTheSchedule) {
  const auto racing = [](int* y) {
    atomicExch(y, static_cast<int>(threadIdx.x + 64 * blockIdx.x));
  };
  const auto last_writer = [&](uint64_t seed) {
    Options o = options();
    o.seed = seed;
    const OptionsScope scope(o);
    return run_int_kernel(racing, {dim3(9), dim3(64)}, 1)[0];
  };
  bool differ = false;
  for (uint64_t seed = 1; seed < 10; ++seed) {
    EXPECT_EQ(last_writer(seed), last_writer(seed));
    differ |= last_writer(seed) != last_writer(0);
  }
  EXPECT_TRUE(differ);
}

}  // namespace
}  // namespace cudasim::testing
