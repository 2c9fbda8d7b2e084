// SPDX-License-Identifier: Apache-2.0
// The digest's inner loop over sixteen lanes, compiled for three kinds of CPU.
#include "pinion/dist/parallel/digest.h"

#include <bit>
#include <cstring>
#include <vector>

#include "pinion/kernels/cpu/parallel.h"

namespace pinion::dist {
namespace {

constexpr uint64_t kStart = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
constexpr int64_t kBlock = 128;                  // bytes: sixteen lanes of eight
constexpr int64_t kPiece = 256 << 10;            // bytes

// The lanes lie in vectors of the size that the CPU has: GCC keeps larger ones in memory.
using Vector16 = uint64_t __attribute__((vector_size(16)));
using Vector32 = uint64_t __attribute__((vector_size(32)));
using Vector64 = uint64_t __attribute__((vector_size(64)));

template <class Vector>
struct Lanes {
  static constexpr int kCount = kBlock / sizeof(Vector);
  Vector h[kCount], g[kCount];

  [[gnu::always_inline]] inline void step(const char* at) {
#pragma GCC unroll 8
    for (int v = 0; v < kCount; ++v) {
      Vector q;
      std::memcpy(&q, at + v * sizeof q, sizeof q);
      h[v] = ((h[v] << 5) | (h[v] >> 59)) + q;
      g[v] = ((g[v] << 11) | (g[v] >> 53)) ^ (q + h[v]);
    }
  }
};

template <class Vector>
[[gnu::always_inline]] inline uint64_t digest_piece(const char* data, int64_t bytes) {
  Lanes<Vector> lanes;
  for (int v = 0; v < lanes.kCount; ++v) lanes.g[v] = lanes.h[v] = Vector{} + kStart;
  int64_t at = 0;
  for (; at + kBlock <= bytes; at += kBlock) lanes.step(data + at);
  if (at < bytes) {
    alignas(64) char last[kBlock] = {};
    std::memcpy(last, data + at, static_cast<size_t>(bytes - at));
    lanes.step(last);
  }
  uint64_t h[kBlock / 8], g[kBlock / 8], sum = static_cast<uint64_t>(bytes);  // zeros count too
  std::memcpy(h, lanes.h, sizeof h);
  std::memcpy(g, lanes.g, sizeof g);
  for (size_t lane = 0; lane < kBlock / 8; ++lane)  // lanes are told apart by a rotation
    sum += std::rotl(h[lane] ^ g[lane], static_cast<int>(lane));
  return sum;
}

#ifdef __x86_64__
[[gnu::target("avx512f")]] uint64_t digest_avx512(const char* data, int64_t bytes) {
  return digest_piece<Vector64>(data, bytes);
}
[[gnu::target("avx2")]] uint64_t digest_avx2(const char* data, int64_t bytes) {
  return digest_piece<Vector32>(data, bytes);
}
#endif
uint64_t digest_baseline(const char* data, int64_t bytes) {
  return digest_piece<Vector16>(data, bytes);
}

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
