// SPDX-License-Identifier: Apache-2.0
// Optimizer steps over flat arenas, one pass: every number is read once and written once.
#include "pinion/kernels/optim.h"

#include "pinion/kernels/cpu/row.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

// Calls f(load, store) for every packet of elements [begin, end): load(p) and store(p, packet) move
// that packet of an array; a store rounds to the array's type.
template <class T, class F>
PINION_INLINE void each_packet(int64_t begin, int64_t end, F f) {
  for_packets<1, T>(
      end - begin,
      [&](int64_t at, int) __attribute__((always_inline)) {
        const int64_t i = begin + at;
        f(
            [i](const T* p) __attribute__((always_inline)) { return load_packet(p + i); },
            [i](auto* p, Packet<T> v) __attribute__((always_inline)) { store_packet(p + i, v); });
      },
      [&](int64_t at, int64_t count) __attribute__((always_inline)) {
        const int64_t i = begin + at;
        f(
            [=](const T* p) __attribute__((always_inline)) { return load_part(p + i, count); }, [=
        ](auto* p, Packet<T> v) __attribute__((always_inline)) { store_part(p + i, v, count); });
      });
}

// Where new weights go besides: one of the two, or none.
struct Low {
  BFloat16* bf16;
  Half* f16;
  explicit Low(const View& v)
      : bf16(v && v.dtype == DType::bf16 ? v.as<BFloat16>() : nullptr),
        f16(v && !bf16 ? v.as<Half>() : nullptr) {}
};
template <class T, class Store>
PINION_INLINE void store_weights(T* w, const Low& low, Packet<T> v, Store store) {
  store(w, v);
  if constexpr (std::is_same_v<T, float>) {
    if (low.bf16) store(low.bf16, v);
    if (low.f16) store(low.f16, v);
  }
}

// vmax is null without amsgrad.
template <bool kAmsgrad, class T>
void adam(const CpuContext& ctx, T* w, const T* dw, T* m, T* v, T* vmax, int64_t n,
          const AdamStep& s) {
  const AdamUpdate<Accumulator<T>> update(s);
  const Low low(s.low);
  for_chunks(ctx, n, kParallelGrain, [=](int64_t begin, int64_t end, int64_t) {
    const auto packet = [=](auto load, auto store) __attribute__((always_inline)) {
      Packet<T> pw = load(w), pm = load(m), pv = load(v);
      if constexpr (kAmsgrad) {
        Packet<T> largest = load(vmax);
        update(pw, load(dw), pm, pv, largest);
        store(vmax, largest);
      } else {
        update(pw, load(dw), pm, pv);
      }
      store_weights(w, low, pw, store);
      store(m, pm);
      store(v, pv);
    };
    each_packet<T>(begin, end, packet);
  });
}

// Momentum may be uninitialised before the first step, so that step does not read it.
template <bool kMomentum, class T>
void sgd(const CpuContext& ctx, T* w, const T* dw, T* buffer, int64_t n, const SgdStep& s) {
  const SgdUpdate<Accumulator<T>> update(s);
  const Low low(s.low);
  const bool read = !s.first;
  for_chunks(ctx, n, kParallelGrain, [=](int64_t begin, int64_t end, int64_t) {
    const auto packet = [=](auto load, auto store) __attribute__((always_inline)) {
      Packet<T> pw = load(w);
      if constexpr (kMomentum) {
        Packet<T> b = {};
        if (read) b = load(buffer);
        update(pw, load(dw), b);
        store(buffer, b);
      } else {
        update(pw, load(dw));
      }
      store_weights(w, low, pw, store);
    };
    each_packet<T>(begin, end, packet);
  });
}

}  // namespace

void sgd_step(const CpuContext& ctx, View w, ConstView dw, View momentum, SgdStep s) {
  for_float(w.dtype, "sgd_step", [&]<class T>() {
    if (momentum) {
      sgd<true>(ctx, w.as<T>(), dw.as<T>(), momentum.as<T>(), w.numel(), s);
    } else {
      sgd<false, T>(ctx, w.as<T>(), dw.as<T>(), nullptr, w.numel(), s);
    }
  });
}

void adam_step(const CpuContext& ctx, View w, ConstView dw, View m, View v, View vmax, AdamStep s) {
  for_float(w.dtype, "adam_step", [&]<class T>() {
    if (vmax) {
      adam<true>(ctx, w.as<T>(), dw.as<T>(), m.as<T>(), v.as<T>(), vmax.as<T>(), w.numel(), s);
    } else {
      adam<false, T>(ctx, w.as<T>(), dw.as<T>(), m.as<T>(), v.as<T>(), nullptr, w.numel(), s);
    }
  });
}

}  // namespace pinion::kernels::PINION_RUNG
