// SPDX-License-Identifier: Apache-2.0
// What the device language of include/cuda_runtime.h is made of: calls from a kernel into the
// simulator.
#pragma once

#include <array>

#include "cudasim.h"

namespace cudasim {

[[noreturn]] void fail(Fault fault, const std::string& text, Site site);

int lane();  // of the calling thread

// A warp operation: lane l publishes a pointer to its operand; the last lane of the mask to arrive
// runs `execute` over all of them. `execute` may be null.
struct WarpOperation {
  const char* name;
  void (*execute)(void* const* operands, uint32_t mask) = nullptr;
  bool orders_memory = false;
};
void warp_operation(const WarpOperation& op, uint32_t mask, void* operand, Site site);

// Waits for `threads` threads (0: all of the block) at barrier `id`; how many said `predicate`.
int block_barrier(int id, int threads, bool predicate, const char* what, Site site);
void grid_barrier(Site site);
void fence();
void touch_atomically(const void* p, size_t bytes, Site site);
void pause(Site site);  // lets others run: what a spin loop calls

void* dynamic_shared(size_t alignment, Site site);
void* named_shared(const void* tag, size_t bytes, size_t alignment, Site site);
template <class T>
inline char shared_tag = 0;

void check_alignment(const void* p, size_t alignment, Site site);
// An access of `bytes` at once, on their boundary.
void touch_pack(const void* p, size_t bytes, bool writes, Site site);

void copy_async(void* shared, const void* global, size_t bytes, size_t zeros, Site site);
void commit_copies();
void wait_copies(int may_remain);

// ldmatrix.x4 and mma.m16n8k16 of 16-bit elements, which `widen` makes floats.
void load_matrices(uint32_t* v, const void* row, bool transpose, Site site);
void multiply_matrices(float* c, const uint32_t* a, const uint32_t* b, float (*widen)(uint16_t),
                       Site site);

// --- sm_90a: tiles.cpp, warp_group.cpp ---

uint32_t shared_address(const void* p, Site site);  // within dynamic shared memory
void init_barrier(uint64_t* barrier, int arrivals, Site site);
void publish_barriers();
void arrive_at_barrier(uint64_t* barrier, int expected_bytes, Site site);
void wait_for_phase(uint64_t* barrier, int parity, Site site);
// `map` is a CUtensorMap; `at` has its column, line and matrix.
void load_tile(void* shared, const void* map, const std::array<int, 3>& at, uint64_t* barrier,
               Site site);

struct TileProduct {
  float* sums;  // of the calling lane
  int columns;
  uint64_t a, b;  // matrix descriptors
  bool down_a, down_b;
  float (*widen)(uint16_t);
};
void begin_products(Site site);
void multiply_tiles(const TileProduct& product, Site site);
void commit_products();
void wait_products(int may_remain, Site site);

// Calls f(lane) for the lanes of a mask, in order.
template <class F>
void for_lanes(uint32_t mask, F&& f) {
  for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
}

}  // namespace cudasim
