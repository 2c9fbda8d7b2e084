// SPDX-License-Identifier: Apache-2.0
// y[i] = f(x[i]...) over flat arrays: the loop behind every element-wise kernel.
#pragma once

#include "pinion/kernels/cpu/packet.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

// Elements [0, n). Whoever asks for streaming calls end_streaming() after the last range. The last
// n % lanes elements are the end of a full register that is computed first and stored last, so that
// y may be one of the inputs.
template <class T, class F, class... In>
[[gnu::noinline]] void map_range(int64_t n, bool stream, F f, T* y, In... x) {
  constexpr int64_t L = kPacket<T>;
  if (n < L) return store_part(y, f(load_part(x, n)...), n);
  const int64_t last = n - L;
  const Packet<T> end = f(load_packet(x + last)...);
  if (stream && !std::is_same_v<T, double>) {
    for (int64_t i = 0; i < last; i += L) stream_packet(y + i, f(load_packet(x + i)...));
    // A line that is half streamed and half stored costs two trips to memory.
    put_packet(y + last, end, last % L == 0);
  } else {
    for (int64_t i = 0; i < last; i += L) store_packet(y + i, f(load_packet(x + i)...));
    store_packet(y + last, end);
  }
}

template <class T>
PINION_INLINE const void* address_of(const T* p) {
  return p;
}
template <class A>
PINION_INLINE const void* address_of(MaskCursor<A> m) {
  return m.p;
}

// The same over all n elements, in chunks of the pool.
template <class T, class F, class... In>
PINION_INLINE void map(const CpuContext& ctx, int64_t n, F f, T* y, In... x) {
  const bool in_place = ((static_cast<const void*>(y) == address_of(x)) || ...);
  const bool stream = !in_place && worth_streaming(y, 1, n);
  for_chunks(ctx, n, kParallelGrain, [=](int64_t begin, int64_t end, int64_t) {
    map_range(end - begin, stream, f, y + begin, (x + begin)...);
    if (stream) end_streaming();
  });
}

// One and two inputs of one floating dtype.
template <class F>
PINION_INLINE void map1(const CpuContext& ctx, const char* who, F f, const ConstView& x,
                        const View& y) {
  for_float(y.dtype, who, [&]<class T>() { map(ctx, y.numel(), f, y.as<T>(), x.as<T>()); });
}
template <class F>
PINION_INLINE void map2(const CpuContext& ctx, const char* who, F f, const ConstView& a,
                        const ConstView& b, const View& y) {
  for_float(y.dtype, who,
            [&]<class T>() { map(ctx, y.numel(), f, y.as<T>(), a.as<T>(), b.as<T>()); });
}

}  // namespace
}  // namespace pinion::kernels::PINION_RUNG
