// SPDX-License-Identifier: Apache-2.0
// Planted bugs: every check of the simulator finds the one it is for, and names the line. The same
// kernel without the bug passes, so that it is the bug that was found.
#include <cmath>

#include "pinion/kernels/cuda/mma.cuh"
#include "sim_testing.h"

namespace cudasim::testing {
namespace {

using pinion::kernels::cuda::block_shared;
using pinion::kernels::cuda::dynamic_shared;

constexpr unsigned kAll = 0xffffffffu;

// Runs a kernel over one int array in several schedules.
std::optional<Error> found_in(void (*kernel)(int*), const LaunchShape& shape) {
  return found_by([&] {
    const DeviceArray<int> y(std::vector<int>(2048, 0));
    run_kernel(kernel, shape, y.get());
  });
}
const LaunchShape kTwoWarps{dim3(1), dim3(64)};

// --- warps ---

template <bool kBug>
void shuffle_with_half_mask(int* y) {
  const unsigned mask = kBug ? 0xffffu : kAll;
  y[threadIdx.x] = __shfl_xor_sync(mask, 1, 1);
}
TEST(Detectors, CallerNotInItsMask) {
  EXPECT_FALSE(found_in(shuffle_with_half_mask<false>, kTwoWarps));
  const auto found = found_in(shuffle_with_half_mask<true>, kTwoWarps);
  expect_found(found, Fault::mask, "not in its own mask 0x0000ffff, at detectors_test.cpp:");
  EXPECT_GE(found->thread().x % 32, 16u);
}

void shuffle_of_full_warp(int* y) { y[threadIdx.x] = __shfl_xor_sync(kAll, 1, 1); }
TEST(Detectors, MaskNamesLanesThatDoNotExist) {
  expect_found(found_in(shuffle_of_full_warp, {dim3(1), dim3(40)}), Fault::mask,
               "names lanes that do not exist; the warp has 0x000000ff");
}

template <bool kBug>
void leave_before_shuffle(int* y) {
  const bool outside = threadIdx.x >= 50;
  if (kBug && outside) return;
  const int v = __shfl_xor_sync(kAll, 1, 1);
  if (!outside) y[threadIdx.x] = v;
}
TEST(Detectors, LaneLeavesBeforeAWarpOperation) {
  EXPECT_FALSE(found_in(leave_before_shuffle<false>, kTwoWarps));
  const auto found = found_in(leave_before_shuffle<true>, kTwoWarps);
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->fault() == Fault::mask || found->fault() == Fault::divergence);
}

void shuffle_in_both_branches(int* y) {
  if (threadIdx.x % 2)
    y[threadIdx.x] = __shfl_sync(kAll, 1, 0);
  else
    y[threadIdx.x] = __shfl_sync(kAll, 2, 0);
}
TEST(Detectors, WarpDiverges) {
  expect_found(found_in(shuffle_in_both_branches, kTwoWarps), Fault::divergence,
               "waits in __shfl_sync (mask 0xffffffff) at detectors_test.cpp:");
}

void shuffle_from_outside(int* y) {
  const unsigned mask = threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u;
  y[threadIdx.x] = __shfl_sync(mask, 1, 3);
}
TEST(Detectors, ShuffleReadsALaneOutsideItsMask) {
  expect_found(found_in(shuffle_from_outside, kTwoWarps), Fault::mask,
               "reads lane 3, which is not in the mask");
}

// --- blocks ---

template <bool kBug>
void exchange(int* y) {
  int* shared = dynamic_shared<int>();
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (!kBug) __syncthreads();
  y[threadIdx.x] = shared[255 - threadIdx.x];
}
#ifndef __SANITIZE_THREAD__  // where it is reported as a race (races_test.cpp)
TEST(Detectors, MissingBarrierShowsInTheResult) {
  const auto wrong = [](void (*kernel)(int*)) {
    int runs = 0;
    for_schedules([&] {
      const DeviceArray<int> y(256);
      run_kernel(kernel, {dim3(1), dim3(256), 1024}, y.get());
      for (int i = 0; i < 256; ++i) {
        if (y.values()[static_cast<size_t>(i)] == 255 - i) continue;
        ++runs;
        break;
      }
    });
    return runs;
  };
  EXPECT_EQ(wrong(exchange<false>), 0);
  EXPECT_EQ(wrong(exchange<true>), 10);  // in every schedule
}
#endif

void barrier_in_both_branches(int*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
template <bool kBug>
void leave_before_barrier(int* y) {
  const bool outside = threadIdx.x >= 40;
  if (kBug && outside) return;
  __syncthreads();
  if (!outside) y[threadIdx.x] = 1;
}
void barrier_in_uneven_loop(int*) {
  for (unsigned i = 0; i <= threadIdx.x / 32; ++i) __syncthreads();
}
void named_barriers_disagree(int*) {
  const int threads = threadIdx.x < 32 ? 64 : 32;
  block_barrier(3, threads, false, "bar.sync", Site::here());
}
TEST(Detectors, BlockDiverges) {
  expect_found(found_in(barrier_in_both_branches, kTwoWarps), Fault::divergence,
               "__syncthreads: other threads of the block wait at detectors_test.cpp:");
  EXPECT_FALSE(found_in(leave_before_barrier<false>, kTwoWarps));
  expect_found(found_in(leave_before_barrier<true>, kTwoWarps), Fault::divergence, "exit");
  expect_found(found_in(barrier_in_uneven_loop, kTwoWarps), Fault::divergence, "exit");
}
TEST(Detectors, NamedBarriersDisagree) {
  Options forward = options();
  forward.order = Order::forward;
  const OptionsScope scope(forward);
  try {
    run_kernel(named_barriers_disagree, kTwoWarps, static_cast<int*>(nullptr));
    FAIL() << "nothing was found";
  } catch (const Error& e) {
    expect_found(e, Fault::divergence, "expects 32 threads, but those that wait at");
  }
}

void wait_for_nobody(int*) {
  if (threadIdx.x < 32) block_barrier(1, 64, false, "bar.sync", Site::here());
}
void spin_for_other_block(int* y) {
  if (blockIdx.x == 0)
    while (atomicAdd(y, 0) == 0) __nanosleep(20);
  else
    atomicExch(y, 1);
}
TEST(Detectors, Deadlocks) {
  // With 64 of 96 threads expected, the exit of the others is not what is wrong.
  expect_found(found_in(wait_for_nobody, {dim3(1), dim3(96)}), Fault::deadlock,
               "no thread can run\n  block (0,0,0) thread (0,0,0) waits in bar.sync at");
  expect_found(found_in(spin_for_other_block, {dim3(2), dim3(1)}), Fault::deadlock,
               "no other resident thread can run");
  EXPECT_FALSE(found_in(spin_for_other_block, {dim3(2), dim3(1), 0, true}));
}
void sync_grid(int*) { grid_barrier(Site::here()); }
TEST(Detectors, GridBarrierInAPlainLaunch) {
  expect_found(found_in(sync_grid, {dim3(2), dim3(32)}), Fault::launch, "not cooperative");
}

// --- memory ---

template <bool kBug>
void load_float4(const float* x, float* y) {
  const auto v = pinion::kernels::cuda::load_pack<4>(x + (kBug ? 1 : 0));
  y[0] = v.v[0];
}
TEST(Detectors, MisalignedVectorAccess) {
  const auto run = [](auto kernel) {
    return found_by([&] {
      const DeviceArray<float> x(std::vector<float>(8, 1.0f)), y(1);
      run_kernel(kernel, {dim3(1), dim3(1)}, x.get(), y.get());
    });
  };
  EXPECT_FALSE(run(load_float4<false>));
  expect_found(run(load_float4<true>), Fault::alignment,
               "an access of 16 bytes is not on their boundary");
}

template <bool kBug>
void load_matrix_rows(int*) {
  // Rows of 12 elements begin between the boundaries.
  const auto* x = dynamic_shared<pinion::BFloat16>();
  uint32_t v[4];
  pinion::kernels::cuda::load_matrices<false>(v, x + threadIdx.x * (kBug ? 12 : 16));
}
TEST(Detectors, MisalignedMatrixRows) {
  const LaunchShape shape{dim3(1), dim3(32), 1024};
  EXPECT_FALSE(found_in(load_matrix_rows<false>, shape));
  expect_found(found_in(load_matrix_rows<true>, shape), Fault::alignment,
               "an access of 16 bytes is not on their boundary");
}

template <bool kBug>
void load_matrices_of_some_lanes(int*) {
  const auto* x = dynamic_shared<pinion::BFloat16>();
  uint32_t v[4];
  if (!kBug || threadIdx.x < 16)
    pinion::kernels::cuda::load_matrices<false>(v, x + threadIdx.x * 16);
}
TEST(Detectors, TensorCoreInstructionWithoutItsWarp) {
  const LaunchShape shape{dim3(1), dim3(32), 1024};
  EXPECT_FALSE(found_in(load_matrices_of_some_lanes<false>, shape));
  expect_found(found_in(load_matrices_of_some_lanes<true>, shape), Fault::divergence,
               "a lane exits while lane 0 waits for it in ldmatrix at detectors_test.cpp:");
}

template <bool kBug>
void write_one_too_far(int* y) {
  for (unsigned i = threadIdx.x; kBug ? i <= 100 : i < 100; i += blockDim.x) y[i] = 7;
}
template <bool kBug>
void write_shared_too_far(int*) {
  dynamic_shared<int>()[threadIdx.x + (kBug ? 1 : 0)] = 7;
}
#if !defined(__SANITIZE_THREAD__)
void read_one_too_far(int* y) { y[0] = y[100]; }
#endif
#if defined(__SANITIZE_ADDRESS__)
TEST(DetectorsDeathTest, AccessesPastTheEnd) {
  const DeviceArray<int> y(100);
  const LaunchShape shape{dim3(1), dim3(64), 256};
  run_kernel(write_one_too_far<false>, shape, y.get());
  EXPECT_DEATH(run_kernel(write_one_too_far<true>, shape, y.get()), "heap-buffer-overflow");
  EXPECT_DEATH(run_kernel(read_one_too_far, shape, y.get()), "heap-buffer-overflow");
  run_kernel(write_shared_too_far<false>, shape, y.get());
  EXPECT_DEATH(run_kernel(write_shared_too_far<true>, shape, y.get()), "heap-buffer-overflow");
}
#elif !defined(__SANITIZE_THREAD__)
TEST(Detectors, WritesPastTheEnd) {
  const auto run = [](void (*kernel)(int*)) {
    return found_by([&] {
      const DeviceArray<int> y(100);
      run_kernel(kernel, {dim3(1), dim3(64)}, y.get());
    });
  };
  EXPECT_FALSE(run(write_one_too_far<false>));
  expect_found(run(write_one_too_far<true>), Fault::bounds, "a device allocation of 400 bytes");
  EXPECT_FALSE(run(write_one_too_far<false>));  // reported once
  EXPECT_FALSE(run(read_one_too_far));          // for the sanitizer to find
  EXPECT_FALSE(found_in(write_shared_too_far<false>, {dim3(1), dim3(64), 256}));
  expect_found(found_in(write_shared_too_far<true>, {dim3(1), dim3(64), 256}), Fault::bounds,
               "dynamic shared memory of 256 bytes");
}
#endif

struct Kept {
  float v[32];
};
void read_what_an_earlier_block_left(int* y) {
  Kept& kept = block_shared<Kept>();
  y[blockIdx.x * 32 + threadIdx.x] = std::isnan(kept.v[threadIdx.x]);
  kept.v[threadIdx.x] = 1;
}
TEST(Detectors, SharedMemoryIsNotANumberInEveryBlock) {
  const DeviceArray<int> y(96);
  run_kernel(read_what_an_earlier_block_left, {dim3(3), dim3(32)}, y.get());
  EXPECT_EQ(y.values(), std::vector<int>(96, 1));
  EXPECT_TRUE(std::isnan(DeviceArray<float>(1).values()[0]));
}

template <int kMayRemain>
void copy_two_groups(const float4* x, float* y) {
  float4* shared = dynamic_shared<float4>();
  for (int group = 0; group < 2; ++group) {
    pinion::kernels::cuda::copy_async16(shared + group, x + group);
    pinion::kernels::cuda::commit_async();
  }
  pinion::kernels::cuda::wait_async<kMayRemain>();
  y[0] = shared[0].x;
  y[1] = shared[1].x;
}
TEST(Detectors, AsynchronousCopyNotWaitedFor) {
  const auto run = [](auto kernel) {
    const DeviceArray<float4> x(std::vector<float4>(2, float4{3, 3, 3, 3}));
    const DeviceArray<float> y(2);
    run_kernel(kernel, {dim3(1), dim3(1), 32}, x.get(), y.get());
    return y.values();
  };
  EXPECT_EQ(run(copy_two_groups<0>), (std::vector<float>{3, 3}));
  const std::vector<float> one = run(copy_two_groups<1>), none = run(copy_two_groups<2>);
  EXPECT_TRUE(one[0] == 3 && std::isnan(one[1]));
  EXPECT_TRUE(std::isnan(none[0]) && std::isnan(none[1]));
}
void copy_off_boundary(int* y) {
  pinion::kernels::cuda::copy_async16(dynamic_shared<float>(), y + 1);
}
TEST(Detectors, AsynchronousCopyOffItsBoundary) {
  expect_found(found_in(copy_off_boundary, {dim3(1), dim3(1), 64}), Fault::alignment, "16 bytes");
}

// --- launches ---

void nothing(int*) {}
TEST(Detectors, LaunchesThatNoDeviceTakes) {
  const LaunchShape wrong[] = {{dim3(1), dim3(1025)},       {dim3(1), dim3(0)},
                               {dim3(1), dim3(1, 1, 65)},   {dim3(0), dim3(32)},
                               {dim3(1, 65536), dim3(1)},   {dim3(1), dim3(32), (227 << 10) + 1},
                               {dim3(1, 1, 65536), dim3(1)}};
  for (const LaunchShape& shape : wrong)
    expect_found(found_in(nothing, shape), Fault::launch, "launch: ");
  EXPECT_FALSE(found_in(nothing, {dim3(2), dim3(16, 1, 64), 227 << 10}));
}
TEST(Detectors, HostPointerAsArgument) {
  int local = 0;
  expect_found(found_by([&] {
                 run_kernel(nothing, {dim3(1), dim3(1)}, &local);
               }),
               Fault::pointer, "no pointer to device memory");
}
struct Large {
  char bytes[200 << 10];
};
void too_much_shared(int*) { block_shared<Large>().bytes[0] = 1; }
TEST(Detectors, SharedMemoryOverTheLimit) {
  expect_found(found_in(too_much_shared, {dim3(1), dim3(1), 64 << 10}), Fault::shared,
               "the block wants 270336 bytes");
  EXPECT_FALSE(found_in(too_much_shared, {dim3(1), dim3(1), 16 << 10}));
}
void trap(int*) { __trap(); }
void launch_again(int* y) { run_kernel(nothing, {dim3(1), dim3(1)}, y); }
TEST(Detectors, TrapsAndLaunchesWithinKernels) {
  expect_found(found_in(trap, {dim3(1), dim3(1)}), Fault::trap, "__trap(), at detectors_test.cpp:");
  expect_found(found_in(launch_again, {dim3(1), dim3(1)}), Fault::launch, "cannot launch");
}

}  // namespace
}  // namespace cudasim::testing
