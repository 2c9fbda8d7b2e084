// SPDX-License-Identifier: Apache-2.0
// Softmax and log-softmax over the last dimension. A row is read a few times, but from cache.
#include "pinion/kernels/cpu/row.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

template <class T>
inline constexpr bool kStoredExactly = std::is_same_v<T, Accumulator<T>>;

// sum of e^(x - top); the terms are left in y when y can hold them exactly.
template <bool kKeep, class T>
PINION_INLINE Accumulator<T> sum_exp(const T* x, int64_t n, Accumulator<T> top, T* y) {
  using A = Accumulator<T>;
  Packet<T> acc[2] = {};
  for_packets<2, T>(
      n,
      [&](int64_t i, int u) __attribute__((always_inline)) {
        const Packet<T> e = math::exp_nonpositive(load_packet(x + i) - top);
        if constexpr (kKeep) store_packet(y + i, e);
        acc[u] += e;
      },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        const Packet<T> v = load_part(x + i, count, static_cast<A>(-kInfinity));
        const Packet<T> e = math::exp_nonpositive(v - top);
        if constexpr (kKeep) store_part(y + i, e, count);
        acc[1] += e;
      });
  return lane_sum<A>(acc[0] + acc[1]);
}

// f(packets of a..., ...) -> packet of y along one row.
template <class T, class F, class... In>
PINION_INLINE void map_row(int64_t n, bool stream, F f, T* y, In... x) {
  for_packets<2, T>(
      n,
      [&](int64_t i, int)
          __attribute__((always_inline)) { put_packet(y + i, f(load_packet(x + i)...), stream); },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        store_part(y + i, f(load_part(x + i, count)...), count);
      });
}

template <class T>
PINION_INLINE void softmax_row(const T* x, int64_t n, T* y) {
  using A = Accumulator<T>;
  const A top = row_max(x, n);
  const A scale = A(1) / sum_exp<kStoredExactly<T>>(x, n, top, y);
  if constexpr (kStoredExactly<T>) {
    map_row(
        n, false, [=](Packet<T> e) __attribute__((always_inline)) { return e * scale; }, y, y);
  } else {
    const auto f = [=](Packet<T> v) __attribute__((always_inline)) {
      return math::exp_nonpositive(v - top) * scale;
    };
    map_row(n, false, f, y, x);
  }
}

template <class T>
PINION_INLINE void log_softmax_row(const T* x, int64_t n, T* y, bool stream) {
  const auto top = row_max(x, n);
  const auto log_sum = math::log(sum_exp<false>(x, n, top, y));
  const auto f = [=](Packet<T> v) __attribute__((always_inline)) { return (v - top) - log_sum; };
  map_row(n, stream, f, y, x);
}

template <class T>
PINION_INLINE Accumulator<T> dot(const T* a, const T* b, int64_t n) {
  Packet<T> acc[4] = {};
  for_packets<4, T>(
      n,
      [&](int64_t i, int u)
          __attribute__((always_inline)) { acc[u] += load_packet(a + i) * load_packet(b + i); },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        acc[1] += load_part(a + i, count) * load_part(b + i, count);
      });
  return lane_sum<Accumulator<T>>(sum_of(acc));
}

}  // namespace

void softmax_forward(const CpuContext& ctx, ConstView x, View y) {
  const int64_t n = x.cols();
  for_float(x.dtype, "softmax_forward", [&]<class T>() {
    const T* from = x.as<T>();
    T* to = y.as<T>();
    for_rows(ctx, x.rows(), 4 * n, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t r = begin; r < end; ++r) softmax_row(from + r * n, n, to + r * n);
    });
  });
}

void softmax_backward(const CpuContext& ctx, ConstView y, ConstView dy, View dx) {
  const int64_t n = y.cols();
  for_float(y.dtype, "softmax_backward", [&]<class T>() {
    const T *py = y.as<T>(), *pdy = dy.as<T>();
    T* pdx = dx.as<T>();
    const bool stream = pdx != py && pdx != pdy && worth_streaming(pdx, y.rows(), n);
    for_rows(ctx, y.rows(), 2 * n, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t at = begin * n; at < end * n; at += n) {
        const auto mean = dot(py + at, pdy + at, n);
        const auto f = [=](Packet<T> p, Packet<T> g) __attribute__((always_inline)) {
          return p * (g - mean);
        };
        map_row(n, stream, f, pdx + at, py + at, pdy + at);
      }
      if (stream) end_streaming();
    });
  });
}

void log_softmax_forward(const CpuContext& ctx, ConstView x, View y) {
  const int64_t n = x.cols();
  for_float(x.dtype, "log_softmax_forward", [&]<class T>() {
    const T* from = x.as<T>();
    T* to = y.as<T>();
    const bool stream = from != to && worth_streaming(to, x.rows(), n);
    for_rows(ctx, x.rows(), 4 * n, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t r = begin; r < end; ++r) log_softmax_row(from + r * n, n, to + r * n, stream);
      if (stream) end_streaming();
    });
  });
}

void log_softmax_backward(const CpuContext& ctx, ConstView y, ConstView dy, View dx) {
  const int64_t n = y.cols();
  for_float(y.dtype, "log_softmax_backward", [&]<class T>() {
    const T *py = y.as<T>(), *pdy = dy.as<T>();
    T* pdx = dx.as<T>();
    const bool stream = pdx != py && pdx != pdy && worth_streaming(pdx, y.rows(), n);
    for_rows(ctx, y.rows(), 4 * n, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t at = begin * n; at < end * n; at += n) {
        const auto sum = row_sum(pdy + at, n);
        const auto f = [=](Packet<T> v, Packet<T> g) __attribute__((always_inline)) {
          return g - math::exp_nonpositive(v) * sum;
        };
        map_row(n, stream, f, pdx + at, py + at, pdy + at);
      }
      if (stream) end_streaming();
    });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
