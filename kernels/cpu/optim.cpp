// SPDX-License-Identifier: Apache-2.0
// Optimizer steps over flat arenas, one pass: every number is read once and written once.
#include "pinion/kernels/cpu/row.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

// Bias corrections and the like, computed once in double.
template <class T>
struct Adam {
  using A = Accumulator<T>;
  A grad_scale, coupled_decay, kept_weight, beta1_rest, beta2, beta2_rest, root_scale, eps, rate;

  explicit Adam(const AdamStep& s) {
    // beta^t by squaring: a call of pow costs more than a step of a small layer.
    double power1 = 1, power2 = 1, square1 = s.beta1, square2 = s.beta2;
    for (int64_t t = s.step; t > 0; t /= 2) {
      if (t % 2) power1 *= square1, power2 *= square2;
      square1 *= square1, square2 *= square2;
    }
    grad_scale = static_cast<A>(s.grad_scale);
    coupled_decay = static_cast<A>(s.decoupled ? 0 : s.weight_decay);
    kept_weight = static_cast<A>(s.decoupled ? 1 - s.lr * s.weight_decay : 1);
    beta1_rest = static_cast<A>(1 - s.beta1);
    beta2 = static_cast<A>(s.beta2);
    beta2_rest = static_cast<A>(1 - s.beta2);
    root_scale = static_cast<A>(1 / __builtin_sqrt(1 - power2));
    eps = static_cast<A>(s.eps);
    rate = static_cast<A>(s.lr / (1 - power1));
  }

  template <bool kAmsgrad, class V>
  PINION_INLINE void update(V& w, V g, V& m, V& v, V& vmax) const {
    g = g * grad_scale + w * coupled_decay;
    m += (g - m) * beta1_rest;
    v = v * beta2 + g * g * beta2_rest;
    V second = v;
    if constexpr (kAmsgrad) second = vmax = ((vmax >= v) | (vmax != vmax)) ? vmax : v;
    w = w * kept_weight - m * rate / (math::sqrt(second) * root_scale + eps);
  }
};

template <bool kAmsgrad, class T>
void adam(const CpuContext& ctx, T* w, const T* dw, T* m, T* v, T* vmax, int64_t n,
          const AdamStep& s) {
  const Adam<T> step(s);
  for_chunks(ctx, n, kParallelGrain, [=](int64_t begin, int64_t end, int64_t) {
    for_packets<1, T>(
        end - begin,
        [&](int64_t i, int) __attribute__((always_inline)) {
          i += begin;
          Packet<T> pw = load_packet(w + i), pm = load_packet(m + i), pv = load_packet(v + i);
          Packet<T> largest = {};
          if constexpr (kAmsgrad) largest = load_packet(vmax + i);
          step.template update<kAmsgrad>(pw, load_packet(dw + i), pm, pv, largest);
          store_packet(w + i, pw);
          store_packet(m + i, pm);
          store_packet(v + i, pv);
          if constexpr (kAmsgrad) store_packet(vmax + i, largest);
        },
        [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          i += begin;
          Packet<T> pw = load_part(w + i, count), pm = load_part(m + i, count);
          Packet<T> pv = load_part(v + i, count), largest = {};
          if constexpr (kAmsgrad) largest = load_part(vmax + i, count);
          step.template update<kAmsgrad>(pw, load_part(dw + i, count), pm, pv, largest);
          store_part(w + i, pw, count);
          store_part(m + i, pm, count);
          store_part(v + i, pv, count);
          if constexpr (kAmsgrad) store_part(vmax + i, largest, count);
        });
  });
}

template <class T>
struct Sgd {
  using A = Accumulator<T>;
  A grad_scale, decay, momentum, fresh, rate;
  bool nesterov;

  explicit Sgd(const SgdStep& s)
      : grad_scale(static_cast<A>(s.grad_scale)),
        decay(static_cast<A>(s.weight_decay)),
        momentum(static_cast<A>(s.first ? 0 : s.momentum)),
        fresh(static_cast<A>(s.first ? 1 : 1 - s.dampening)),
        rate(static_cast<A>(s.lr)),
        nesterov(s.nesterov) {}
};

// Momentum may be uninitialised before the first step, so that step does not read it.
template <class T>
void sgd(const CpuContext& ctx, T* w, const T* dw, T* buffer, int64_t n, const SgdStep& s) {
  const Sgd<T> step(s);
  const Accumulator<T> look_ahead = static_cast<Accumulator<T>>(s.momentum);
  const bool read = buffer && !s.first;
  const auto update = [=](Packet<T> & pw, Packet<T> g, Packet<T> & b)
      __attribute__((always_inline)) {
    g = g * step.grad_scale + pw * step.decay;
    if (buffer) {
      b = b * step.momentum + g * step.fresh;
      g = step.nesterov ? g + b * look_ahead : b;
    }
    pw -= g * step.rate;
  };
  for_chunks(ctx, n, kParallelGrain, [=](int64_t begin, int64_t end, int64_t) {
    for_packets<1, T>(
        end - begin,
        [&](int64_t i, int) __attribute__((always_inline)) {
          i += begin;
          Packet<T> pw = load_packet(w + i), b = {};
          if (read) b = load_packet(buffer + i);
          update(pw, load_packet(dw + i), b);
          if (buffer) store_packet(buffer + i, b);
          store_packet(w + i, pw);
        },
        [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          i += begin;
          Packet<T> pw = load_part(w + i, count), b = {};
          if (read) b = load_part(buffer + i, count);
          update(pw, load_part(dw + i, count), b);
          if (buffer) store_part(buffer + i, b, count);
          store_part(w + i, pw, count);
        });
  });
}

}  // namespace

void sgd_step(const CpuContext& ctx, View w, ConstView dw, View momentum, SgdStep s) {
  for_float(w.dtype, "sgd_step", [&]<class T>() {
    sgd(ctx, w.as<T>(), dw.as<T>(), momentum ? momentum.as<T>() : nullptr, w.numel(), s);
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
