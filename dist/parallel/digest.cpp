// SPDX-License-Identifier: Apache-2.0
// The digest's inner loop in vectors of eight words, compiled for three kinds of CPU.
#include "pinion/dist/parallel/digest.h"

#include <bit>
#include <cstring>
#include <vector>

#include "pinion/kernels/cpu/parallel.h"

namespace pinion::dist {
namespace {

using Lanes = uint64_t __attribute__((vector_size(64)));
constexpr uint64_t kStart = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
constexpr int64_t kBlock = 2 * sizeof(Lanes);
constexpr int64_t kPiece = 256 << 10;  // bytes

[[gnu::always_inline]] inline void step(const char* at, Lanes& h, Lanes& g) {
  Lanes q;
  std::memcpy(&q, at, sizeof q);
  h = ((h << 5) | (h >> 59)) + q;
  g = ((g << 11) | (g >> 53)) ^ (q + h);
}

[[gnu::always_inline]] inline uint64_t digest_piece(const char* data, int64_t bytes) {
  Lanes h0 = Lanes{} + kStart, h1 = h0, g0 = h0, g1 = h0;
  int64_t at = 0;
  for (; at + kBlock <= bytes; at += kBlock) {
    step(data + at, h0, g0);
    step(data + at + sizeof(Lanes), h1, g1);
  }
  if (at < bytes) {
    alignas(64) char last[kBlock] = {};
    std::memcpy(last, data + at, static_cast<size_t>(bytes - at));
    step(last, h0, g0);
    step(last + sizeof(Lanes), h1, g1);
  }
  uint64_t sum = static_cast<uint64_t>(bytes);  // zeros at the end count
  for (int lane = 0; lane < 8; ++lane)          // lanes are told apart by a rotation
    sum += std::rotl(h0[lane] ^ g0[lane], lane) + std::rotl(h1[lane] ^ g1[lane], lane + 8);
  return sum;
}

#ifdef __x86_64__
[[gnu::target("avx512f")]] uint64_t digest_avx512(const char* data, int64_t bytes) {
  return digest_piece(data, bytes);
}
[[gnu::target("avx2")]] uint64_t digest_avx2(const char* data, int64_t bytes) {
  return digest_piece(data, bytes);
}
#endif
uint64_t digest_baseline(const char* data, int64_t bytes) { return digest_piece(data, bytes); }

auto* best_for(Isa isa) {
#ifdef __x86_64__
  if (isa >= Isa::avx512) return digest_avx512;
  if (isa == Isa::avx2) return digest_avx2;
#endif
  (void)isa;
  return digest_baseline;
}

}  // namespace

uint64_t digest_of(const void* data, int64_t bytes) {
  const CpuContext& ctx = cpu_context();
  const auto digest = best_for(ctx.isa);
  const auto* begin = static_cast<const char*>(data);
  if (bytes <= kPiece) return digest(begin, bytes);
  std::vector<uint64_t> parts(static_cast<size_t>(kernels::chunk_count(bytes, kPiece)));
  kernels::for_chunks(ctx, bytes, kPiece, [&](int64_t from, int64_t to, int64_t chunk) {
    parts[static_cast<size_t>(chunk)] = digest(begin + from, to - from);
  });
  return digest(reinterpret_cast<const char*>(parts.data()),
                static_cast<int64_t>(parts.size() * sizeof parts[0]));
}

uint64_t digest_of(const Tensor& x) {
  PINION_CHECK(x.device() == Device{}, "digest: expected a tensor on the CPU, got one on ",
               x.device().name());
  const ConstView view = x.view();
  return digest_of(view.data, view.numel() * size_of(view.dtype));
}

}  // namespace pinion::dist
