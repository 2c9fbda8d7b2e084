// SPDX-License-Identifier: Apache-2.0
// Cross-entropy over class ids, the loss and its gradient together: a row is read while it is in
// cache, and e^(x - max) is computed once where the gradient's storage can hold it.
#include "pinion/kernels/cpu/row.h"
#include "pinion/kernels/cpu/scratch.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int64_t kFewClasses = 16;  // so few that rows, not classes, fill the lanes

template <class T>
struct Loss {
  using A = Accumulator<T>;
  static constexpr int64_t L = kPacket<T>;
  const T* x;             // [rows, classes]
  const int64_t* target;  // [rows]
  const float* weight;    // [rows] or null
  int64_t ignore_index, classes;
  A smoothing;
  double total;  // sum of weights
  T* dx;         // [rows, classes] or null

  // What row r counts for: nothing when ignored or when its target is no class, which shows in
  // total.
  PINION_INLINE double weight_of(int64_t r) const {
    if (static_cast<uint64_t>(target[r]) >= static_cast<uint64_t>(classes) ||
        target[r] == ignore_index)
      return 0;
    return weight ? weight[r] : 1;
  }

  PINION_INLINE double sum_of_weights(int64_t rows) const {
    int64_t counted = 0, wrong = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const bool outside = (target[r] < 0) | (target[r] >= classes);
      const bool ignored = target[r] == ignore_index;
      counted += !(outside | ignored);
      wrong += outside & !ignored;
    }
    if (wrong) return __builtin_nan("");
    if (!weight) return static_cast<double>(counted);
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) sum += weight_of(r);
    return sum;
  }

  // The weighted loss of one row.
  PINION_INLINE double row(int64_t r) const {
    constexpr bool keep = std::is_same_v<T, A>;
    const T* px = x + r * classes;
    T* pdx = dx ? dx + r * classes : nullptr;
    const double w = weight_of(r);
    if (w == 0) {
      if (pdx)
        for (int64_t c = 0; c < classes; ++c) pdx[c] = T(A(0));
      return 0;
    }
    const A hit = static_cast<A>(px[target[r]]), top = row_max(px, classes);
    const A mean = smoothing != 0 ? row_sum(px, classes) / static_cast<A>(classes) : A(0);
    const A sum = keep && pdx ? exp_sum<keep>(px, top, pdx) : exp_sum<false>(px, top, pdx);
    const A lse = top + math::log(sum);
    if (pdx) {
      const A share = static_cast<A>(w / total);
      const A scale = share / sum, base = share * smoothing / static_cast<A>(classes);
      const A at_target = share * (1 - smoothing);
      const A own = keep ? static_cast<A>(pdx[target[r]]) : math::exp_nonpositive(hit - top);
      gradient<keep>(px, top, scale, base, pdx);
      pdx[target[r]] = T(own * scale - base - at_target);
    }
    return w * ((1 - smoothing) * (lse - hit) + smoothing * (lse - mean));
  }

  template <bool kKeep>
  PINION_INLINE A exp_sum(const T* px, A top, T* pdx) const {
    Packet<T> acc[2] = {};
    for_packets<2, T>(
        classes,
        [&](int64_t i, int u) __attribute__((always_inline)) {
          const Packet<T> e = math::exp_nonpositive(load_packet(px + i) - top);
          if constexpr (kKeep) store_packet(pdx + i, e);
          acc[u] += e;
        },
        [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          const Packet<T> v = load_part(px + i, count, static_cast<A>(-kInfinity));
          const Packet<T> e = math::exp_nonpositive(v - top);
          if constexpr (kKeep) store_part(pdx + i, e, count);
          acc[1] += e;
        });
    return lane_sum<A>(acc[0] + acc[1]);
  }

  // dx = e^(x - top) scale - base; with kKeep the exponentials lie in dx already.
  template <bool kKeep>
  PINION_INLINE void gradient(const T* px, A top, A scale, A base, T* pdx) const {
    const auto value = [&](Packet<T> v) __attribute__((always_inline)) {
      if constexpr (kKeep) return v * scale - base;
      return math::exp_nonpositive(v - top) * scale - base;
    };
    const T* from = kKeep ? pdx : px;
    for_packets<4, T>(
        classes,
        [&](int64_t i, int)
            __attribute__((always_inline)) { store_packet(pdx + i, value(load_packet(from + i))); },
        [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          store_part(pdx + i, value(load_part(from + i, count)), count);
        });
  }

  // The weighted loss of `count` <= L rows of few classes, one row per lane.
  PINION_INLINE double few(int64_t r, int64_t count) const {
    Packet<T> v[kFewClasses];
    int64_t at[L];
    for (int64_t l = 0; l < L; ++l) at[l] = (r + (l < count ? l : count - 1)) * classes;
    A w[L], hits[L];
    for (int64_t l = 0; l < L; ++l) {
      w[l] = l < count ? static_cast<A>(weight_of(r + l)) : A(0);
      hits[l] = w[l] != 0 ? static_cast<A>(x[at[l] + target[r + l]]) : A(0);
    }
    Packet<T> top = splat(static_cast<A>(-kInfinity)), plain = {}, sum = {};
    for (int64_t c = 0; c < classes; ++c) {
      A column[L];
      for (int64_t l = 0; l < L; ++l) column[l] = static_cast<A>(x[at[l] + c]);
      v[c] = load(column);
      top = larger(v[c], top);
      plain += v[c];
    }
    for (int64_t c = 0; c < classes; ++c) {
      v[c] = math::exp_nonpositive(v[c] - top);
      sum += v[c];
    }
    const Packet<T> lse = top + math::log(sum), weights = load(w);
    Packet<T> losses = (1 - smoothing) * (lse - load(hits));
    if (smoothing != 0) losses += smoothing * (lse - plain / static_cast<A>(classes));
    losses *= weights;
    A each[L];
    store(each, weights != A(0) ? losses : Packet<T>{});
    if (dx) {
      const Packet<T> share = weights / static_cast<A>(total);
      const Packet<T> base = share * (smoothing / static_cast<A>(classes));
      const Packet<T> scale = share / sum, at_target = share * (1 - smoothing);
      A which[L];  // the target of each lane
      for (int64_t l = 0; l < L; ++l) which[l] = static_cast<A>(w[l] != 0 ? target[r + l] : -1);
      for (int64_t c = 0; c < classes; ++c) {
        const auto own = load(which) == static_cast<A>(c);
        const Packet<T> d = v[c] * scale - base - (own ? at_target : Packet<T>{});
        A column[L];
        store(column, weights != A(0) ? d : Packet<T>{});
        for (int64_t l = 0; l < count; ++l) dx[at[l] + c] = T(column[l]);
      }
    }
    double loss = 0;
    for (int64_t l = 0; l < count; ++l) loss += each[l];
    return loss;
  }

  PINION_INLINE double rows(int64_t begin, int64_t end) const {
    double loss = 0;
    if (classes <= kFewClasses) {
      for (int64_t r = begin; r < end; r += L) loss += few(r, smaller(L, end - r));
    } else {
      for (int64_t r = begin; r < end; ++r) loss += row(r);
    }
    return loss;
  }
};

}  // namespace

void cross_entropy(const CpuContext& ctx, ConstView x, ConstView target, ConstView weight,
                   int64_t ignore_index, double smoothing, View loss, View total, View dx) {
  const int64_t rows = x.rows(), classes = x.cols();
  for_float(x.dtype, "cross_entropy", [&]<class T>() {
    using A = Accumulator<T>;
    Loss<T> f{x.as<T>(),
              target.as<int64_t>(),
              weight ? weight.as<float>() : nullptr,
              ignore_index,
              classes,
              static_cast<A>(smoothing),
              0,
              dx ? dx.as<T>() : nullptr};
    f.total = f.sum_of_weights(rows);
    double sum = 0;
    const int64_t grain = larger(kParallelGrain / (4 * larger(classes, int64_t{1})), kPacket<T>);
    if (rows <= grain) {
      sum = f.rows(0, rows);
    } else {
      const Scratch scratch(chunk_count(rows, grain) * static_cast<int64_t>(sizeof(double)));
      double* parts = scratch.as<double>();
      for_chunks(ctx, rows, grain, [=](int64_t begin, int64_t end, int64_t chunk) {
        parts[chunk] = f.rows(begin, end);
      });
      for (int64_t c = 0; c < chunk_count(rows, grain); ++c) sum += parts[c];
    }
    *loss.as<A>() = static_cast<A>(sum / f.total);
    *total.as<A>() = static_cast<A>(f.total);
  });
}

}  // namespace pinion::kernels::PINION_RUNG
