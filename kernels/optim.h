// SPDX-License-Identifier: Apache-2.0
// The arithmetic of optimizer steps, once for every device: the numbers of a step are computed in
// double where it is launched, the update works on numbers or on lanes of them.
#pragma once

#include "pinion/kernels/dispatch.h"
#include "pinion/kernels/lanes.h"

namespace pinion::kernels {

// What AdamStep describes, in the accumulator type A.
template <class A>
struct AdamUpdate {
  A grad_scale, coupled_decay, kept_weight, beta1_rest, beta2, beta2_rest, root_scale, eps, rate;

  PINION_INLINE explicit AdamUpdate(const AdamStep& s) {
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
    root_scale = static_cast<A>(1 / math::sqrt(1 - power2));
    eps = static_cast<A>(s.eps);
    rate = static_cast<A>(s.lr / (1 - power1));
  }

  template <class V>
  PINION_INLINE void operator()(V& w, V g, V& m, V& v) const {
    moments(w, g, m, v);
    descend(w, m, v);
  }
  template <class V>
  PINION_INLINE void operator()(V& w, V g, V& m, V& v, V& vmax) const {  // amsgrad
    moments(w, g, m, v);
    vmax = math::select((vmax >= v) | (vmax != vmax), vmax, v);
    descend(w, m, vmax);
  }

 private:
  template <class V>
  PINION_INLINE void moments(V w, V g, V& m, V& v) const {
    g = g * grad_scale + w * coupled_decay;
    m += (g - m) * beta1_rest;
    v = v * beta2 + g * g * beta2_rest;
  }
  template <class V>
  PINION_INLINE void descend(V& w, V m, V second) const {
    w = w * kept_weight - m * rate / (math::sqrt(second) * root_scale + eps);
  }
};

// What SgdStep describes.
template <class A>
struct SgdUpdate {
  A grad_scale, decay, momentum, fresh, look_ahead, rate;
  bool nesterov;

  PINION_INLINE explicit SgdUpdate(const SgdStep& s)
      : grad_scale(static_cast<A>(s.grad_scale)),
        decay(static_cast<A>(s.weight_decay)),
        momentum(static_cast<A>(s.first ? 0 : s.momentum)),
        fresh(static_cast<A>(s.first ? 1 : 1 - s.dampening)),
        look_ahead(static_cast<A>(s.momentum)),
        rate(static_cast<A>(s.lr)),
        nesterov(s.nesterov) {}

  template <class V>
  PINION_INLINE void operator()(V& w, V g) const {
    w -= (g * grad_scale + w * decay) * rate;
  }
  // b is 0, whatever the memory holds, in the first step.
  template <class V>
  PINION_INLINE void operator()(V& w, V g, V& b) const {
    g = g * grad_scale + w * decay;
    b = b * momentum + g * fresh;
    w -= (nesterov ? g + b * look_ahead : b) * rate;
  }
};

}  // namespace pinion::kernels
