// SPDX-License-Identifier: Apache-2.0
// Planted races and accesses out of bounds: each is found in every schedule and named with both
// lines, and the same kernel without the bug passes. Built where kernels report their accesses.
#include <memory>

#include "pinion/kernels/cuda/mma.cuh"
#include "sim_testing.h"

namespace cudasim::testing {
namespace {

using pinion::kernels::cuda::block_shared;
using pinion::kernels::cuda::copy_async16;
using pinion::kernels::cuda::dynamic_shared;
using pinion::kernels::cuda::last_block;

constexpr unsigned kAll = 0xffffffffu;

// Every schedule finds the bug, and none finds one in the kernel without it.
template <class... P>
void expect_in_every_schedule(void (*good)(P...), void (*bad)(P...), const LaunchShape& shape,
                              Fault fault, const char* text, P... arguments) {
  for_schedules([&] {
    EXPECT_NO_THROW(run_kernel(good, shape, arguments...));
    std::optional<Error> found;
    try {
      run_kernel(bad, shape, arguments...);
    } catch (const Error& e) {
      found = e;
    }
    expect_found(found, fault, text);
  });
}

template <bool kBug>
void exchange(int* y) {
  int* shared = dynamic_shared<int>();
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (!kBug) __syncthreads();
  y[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}
TEST(Races, ExchangeWithoutABarrier) {
  const DeviceArray<int> y(256);
  expect_in_every_schedule(exchange<false>, exchange<true>, {dim3(1), dim3(256), 1024}, Fault::race,
                           "on shared memory at byte", y.get());
}
TEST(Races, BothLinesAreNamed) {
  const DeviceArray<int> y(256);
  const auto found = found_by([&] {
    run_kernel(exchange<true>, {dim3(1), dim3(256), 1024}, y.get());
  });
  ASSERT_TRUE(found);
  const std::string text = found->what();
  const size_t first = text.find("races_test.cpp:");
  ASSERT_NE(first, std::string::npos) << text;
  EXPECT_NE(text.find("races_test.cpp:", first + 1), std::string::npos) << text;
  EXPECT_NE(text.find("block 0 thread "), std::string::npos) << text;
}

// A stage that is filled again while others may still read it.
template <bool kBug>
void refill(int* y) {
  int* shared = dynamic_shared<int>();
  for (int round = 0; round < 2; ++round) {
    shared[threadIdx.x] = round;
    __syncthreads();
    y[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
    if (!kBug) __syncthreads();
  }
}
TEST(Races, StageRefilledWithoutABarrier) {
  const DeviceArray<int> y(64);
  expect_in_every_schedule(refill<false>, refill<true>, {dim3(1), dim3(64), 256}, Fault::race,
                           "on shared memory at byte", y.get());
}

// A shuffle orders no memory.
template <bool kBug>
void hand_over_in_a_warp(int* y) {
  int* shared = dynamic_shared<int>();
  shared[threadIdx.x] = 1;
  kBug ? void(__shfl_xor_sync(kAll, 1, 1)) : __syncwarp();
  y[threadIdx.x] = shared[31 - threadIdx.x];
}
TEST(Races, ShuffleUsedAsAFence) {
  const DeviceArray<int> y(32);
  expect_in_every_schedule(hand_over_in_a_warp<false>, hand_over_in_a_warp<true>,
                           {dim3(1), dim3(32), 128}, Fault::race, "read after write", y.get());
}

// Halves of a warp meet among themselves.
template <bool kBug>
void hand_over_in_half_a_warp(int* y) {
  int* shared = dynamic_shared<int>();
  shared[threadIdx.x] = 1;
  __syncwarp(threadIdx.x < 16 ? 0xffffu : 0xffff0000u);
  y[threadIdx.x] = shared[threadIdx.x ^ (kBug ? 16 : 8)];
}
TEST(Races, HalfAWarpReadsTheOther) {
  const DeviceArray<int> y(32);
  expect_in_every_schedule(hand_over_in_half_a_warp<false>, hand_over_in_half_a_warp<true>,
                           {dim3(1), dim3(32), 128}, Fault::race, "on shared memory", y.get());
}

template <bool kBug>
void count(int* y) {
  if (kBug)
    ++*y;
  else
    atomicAdd(y, 1);
}
TEST(Races, PlainAdditionOfManyBlocks) {
  const DeviceArray<int> y(std::vector<int>(1));
  expect_in_every_schedule(count<false>, count<true>, {dim3(4), dim3(1)}, Fault::race,
                           "on device memory at byte 0", y.get());
}

// Neighbouring bytes of a word are no conflict.
template <bool kBug>
void write_halves(uint16_t* y) {
  y[kBug ? threadIdx.x / 2 : threadIdx.x] = static_cast<uint16_t>(threadIdx.x);
}
TEST(Races, SixteenBitNeighbours) {
  const DeviceArray<uint16_t> y(64);
  expect_in_every_schedule(write_halves<false>, write_halves<true>, {dim3(1), dim3(64)},
                           Fault::race, "write after write", y.get());
}

// The last block to arrive reads what the others left, which a fence must have published.
template <bool kBug>
void sum_by_the_last_block(int* parts, uint32_t* arrivals, int* y) {
  if (threadIdx.x == 0) parts[blockIdx.x] = 1;
  bool last;
  if constexpr (kBug) {
    int& shared = *dynamic_shared<int>();
    __syncthreads();
    if (threadIdx.x == 0) shared = atomicInc(arrivals, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    last = shared != 0;
  } else {
    last = last_block(arrivals);
  }
  if (!last || threadIdx.x != 0) return;
  *y = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) *y += parts[b];
}
TEST(Races, LastBlockWithoutAFence) {
  const DeviceArray<int> parts(9), y(1);
  const DeviceArray<uint32_t> arrivals(std::vector<uint32_t>(1));
  expect_in_every_schedule(
      sum_by_the_last_block<false>, sum_by_the_last_block<true>, {dim3(9), dim3(64), 16},
      Fault::race, "read after write on device memory", parts.get(), arrivals.get(), y.get());
  EXPECT_EQ(y.values()[0], 9);
}

template <bool kBug>
void pass_through_the_grid(int* y) {
  y[blockIdx.x * 32 + threadIdx.x] = 1;
  if (kBug)
    __syncthreads();
  else
    grid_barrier(Site::here());
  y[64 + blockIdx.x * 32 + threadIdx.x] = y[(1 - blockIdx.x) * 32 + threadIdx.x];
}
TEST(Races, BlockBarrierInPlaceOfTheGrids) {
  const DeviceArray<int> y(std::vector<int>(128));
  expect_in_every_schedule(pass_through_the_grid<false>, pass_through_the_grid<true>,
                           {dim3(2), dim3(32), 0, true}, Fault::race, "on device memory", y.get());
}

// Each thread waits for its own copies; a barrier shows them to the others.
template <bool kBug>
void copy_and_exchange(const float4* x, float4* y) {
  float4* shared = dynamic_shared<float4>();
  copy_async16(shared + threadIdx.x, x + threadIdx.x);
  pinion::kernels::cuda::commit_async();
  pinion::kernels::cuda::wait_async<0>();
  if (!kBug) __syncthreads();
  y[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}
TEST(Races, AsynchronousCopyWithoutABarrier) {
  const DeviceArray<float4> x(64), y(64);
  expect_in_every_schedule(copy_and_exchange<false>, copy_and_exchange<true>,
                           {dim3(1), dim3(64), 1024}, Fault::race, "on shared memory",
                           static_cast<const float4*>(x.get()), y.get());
}

template <bool kBug>
void load_fragments(int* y) {
  auto* x = dynamic_shared<pinion::BFloat16>();
  for (int i = static_cast<int>(threadIdx.x); i < 16 * 16; i += 32) x[i] = pinion::BFloat16(1.0f);
  if (!kBug) __syncwarp();
  y[threadIdx.x] = static_cast<int>(pinion::kernels::cuda::fragment_a<false>(x, 16, 0, 0).v[0]);
}
TEST(Races, FragmentLoadedBeforeItsWarpHasWritten) {
  const DeviceArray<int> y(32);
  expect_in_every_schedule(load_fragments<false>, load_fragments<true>, {dim3(1), dim3(32), 512},
                           Fault::race, "read after write on shared memory", y.get());
}

// --- bounds ---

template <bool kBug>
void read_to_the_end(int* y) {
  y[0] = y[kBug ? 100 : 99];
}
template <bool kBug>
void write_to_the_end(int* y) {
  for (unsigned i = threadIdx.x; kBug ? i <= 100 : i < 100; i += blockDim.x) y[i] = 7;
}
template <bool kBug>
void write_shared_to_the_end(int*) {
  dynamic_shared<int>()[threadIdx.x + (kBug ? 1 : 0)] = 7;
}
TEST(Races, AccessesPastTheEnd) {
  const DeviceArray<int> y(std::vector<int>(100));
  const LaunchShape shape{dim3(1), dim3(64), 256};
  expect_in_every_schedule(
      read_to_the_end<false>, read_to_the_end<true>, {dim3(1), dim3(1)}, Fault::bounds,
      "read of 4 bytes at byte 400 of a device allocation of 400 bytes", y.get());
  expect_in_every_schedule(write_to_the_end<false>, write_to_the_end<true>, shape, Fault::bounds,
                           "write of 4 bytes at byte 400 of a device allocation of 400 bytes",
                           y.get());
  expect_in_every_schedule(
      write_shared_to_the_end<false>, write_shared_to_the_end<true>, shape, Fault::bounds,
      "write of 4 bytes at byte 256 of a shared allocation of 256 bytes", y.get());
}

struct Box {
  int* p;
};
void write_through(Box box) { *box.p = 1; }
TEST(Races, HostMemoryInAStructOfArguments) {
  const DeviceArray<int> y(1);
  auto on_host = std::make_unique<int>();
  EXPECT_FALSE(found_by([&] { run_kernel(write_through, {dim3(1), dim3(1)}, Box{y.get()}); }));
  const auto found = found_by([&] {
    run_kernel(write_through, {dim3(1), dim3(1)}, Box{on_host.get()});
  });
  ASSERT_TRUE(found);
  EXPECT_EQ(found->fault(), Fault::bounds) << found->what();
}

struct Loan {
  int* p[2];
};
void read_a_neighbours_local(int* y) {
  volatile int own = static_cast<int>(threadIdx.x);
  Loan& loan = block_shared<Loan>();
  loan.p[threadIdx.x] = const_cast<int*>(&own);
  __syncthreads();
  y[threadIdx.x] = *loan.p[1 - threadIdx.x];
  __syncthreads();
}
TEST(Races, AnotherThreadsLocalMemory) {
  const DeviceArray<int> y(2);
  expect_found(found_by([&] {
                 run_kernel(read_a_neighbours_local, {dim3(1), dim3(2)}, y.get());
               }),
               Fault::pointer, "another thread's local memory");
}

}  // namespace
}  // namespace cudasim::testing
