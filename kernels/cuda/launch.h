// SPDX-License-Identifier: Apache-2.0
// launch(kernel, {grid, block}, ctx, arguments...): a kernel launch as a call, converted to the
// kernel's parameter types and checked.
#pragma once

#include "pinion/kernels/cuda/context.cuh"
#include "pinion/kernels/cuda/device.cuh"

namespace pinion::kernels::cuda {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;   // what dynamic_shared() gives
  bool cooperative = false;  // all blocks are resident, so that they may wait for one another
};

// On the stream of the context.
template <class... P, class... A>
void launch(void (*kernel)(P...), const LaunchShape& shape, const CudaContext& ctx,
            A&&... arguments) {
  constexpr size_t kWithoutAsking = 48 << 10;  // bytes of shared memory that every kernel may have
  if (shape.shared_bytes > kWithoutAsking)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          "cudaFuncSetAttribute");
  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = ctx.stream;
  config.attrs = &cooperative;
  config.numAttrs = shape.cooperative ? 1 : 0;
  ctx.counts->count_launch();
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...), "launch");
}

// A grid of one block for each of so many pieces of work.
inline unsigned one_block_each(int64_t pieces) {
  PINION_REQUIRE(device, pieces <= INT32_MAX, "launch: expected at most 2147483647 blocks, got ",
                 pieces);
  return static_cast<unsigned>(pieces);
}

// Blocks for `items` pieces of work in grid-stride loops: enough to fill a large device a few times
// over, and no more than there is work.
inline unsigned blocks_for(int64_t items, int threads) {
  constexpr int64_t kMost = 132 * 16;  // 16 blocks on each of the 132 multiprocessors of an H100
  const int64_t wanted = (items + threads - 1) / threads;
  return static_cast<unsigned>(wanted < kMost ? wanted : kMost);
}

}  // namespace pinion::kernels::cuda
