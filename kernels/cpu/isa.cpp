// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pinion::kernels {

#if defined(__x86_64__)
namespace {

// Register state components the operating system has enabled, Intel SDM vol. 1, 13.3.
uint64_t enabled_state() {
  uint32_t lo = 0, hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t{hi} << 32) | lo;
}

bool request_amx_permission() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

Isa detect_isa() {
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::scalar;
  const bool osxsave = c & (1u << 27), avx = c & (1u << 28), fma = c & (1u << 12),
             f16c = c & (1u << 29);
  if (!osxsave || !avx || !fma || !f16c) return Isa::scalar;
  const uint64_t state = enabled_state();
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  uint32_t b7, c7, d7;
  if ((state & kYmm) != kYmm || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return Isa::scalar;
  if (!(b7 & (1u << 5))) return Isa::scalar;                                  // AVX2
  const uint32_t avx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F, DQ, BW, VL
  if ((b7 & avx512) != avx512 || (state & kZmm) != kZmm) return Isa::avx2;
  const uint32_t amx = (1u << 22) | (1u << 24);  // AMX-BF16, AMX-TILE
  uint32_t a71, b71, c71, d71;
  const bool bf16 = __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71) && (a71 & (1u << 5));
  if ((d7 & amx) != amx || !bf16 || (state & kTiles) != kTiles || !request_amx_permission())
    return Isa::avx512;
  return Isa::amx;
}
#else
Isa detect_isa() { return Isa::scalar; }
#endif

}  // namespace pinion::kernels
