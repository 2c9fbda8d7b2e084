// SPDX-License-Identifier: Apache-2.0
// Filling with a number, and conversion between any two element types.
#include "pinion/kernels/convert.h"
#include "pinion/kernels/cpu/map.h"

namespace pinion::kernels::PINION_RUNG {

void fill(const CpuContext& ctx, View x, double value) {
  for_any(x.dtype, "fill", [&]<class T>() {
    T* p = x.as<T>();
    const T v = convert<T>(value);
    if constexpr (std::is_floating_point_v<T>) {
      map(
          ctx, x.numel(), [v]() __attribute__((always_inline)) { return splat(v); }, p);
    } else {
      for_chunks(ctx, x.numel(), kParallelGrain, [=](int64_t begin, int64_t end, int64_t) {
        for (int64_t i = begin; i < end; ++i) p[i] = v;
      });
    }
  });
}

void cast(const CpuContext& ctx, ConstView x, View y) {
  for_any(x.dtype, "cast", [&]<class From>() {
    for_any(y.dtype, "cast", [&]<class To>() {
      const From* from = x.as<From>();
      To* to = y.as<To>();
      if (static_cast<const void*>(from) == to && std::is_same_v<To, From>) return;
      constexpr bool packets =
          std::is_same_v<Accumulator<From>, float> && std::is_same_v<Accumulator<To>, float>;
      if constexpr (packets) return map(ctx, y.numel(), formulas::Identity{}, to, from);
      for_chunks(ctx, y.numel(), kParallelGrain, [=](int64_t begin, int64_t end, int64_t) {
      // One block on top of the other is safe only where both have one element size.
#pragma GCC ivdep
        for (int64_t i = begin; i < end; ++i) to[i] = convert<To>(from[i]);
      });
    });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
