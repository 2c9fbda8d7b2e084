// SPDX-License-Identifier: Apache-2.0
// Pooling of [N,H,W,C] images. Gradients are gathered: every element of dx looks at the windows
// that cover it, in their order, so that rows are independent.
#include "pinion/kernels/cpu/row.h"
#include "pinion/kernels/cpu/scratch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

// f(n, row, scratch) over the rows of n images with `rows` rows each, `cost` elements a row.
template <class F>
PINION_INLINE void for_image_rows(const CpuContext& ctx, int64_t images, int64_t rows, int64_t cost,
                                  const F& f) {
  for_rows(ctx, images * rows, larger(cost, int64_t{1}), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t at = begin; at < end; ++at) f(at / rows, at % rows);
  });
}

// best = max(best, x), NaN winning and the first of equals kept; index follows.
template <class T>
PINION_INLINE void take_larger(const T* x, int64_t c, int32_t at, Accumulator<T>* best,
                               int32_t* index) {
  for (int64_t i = 0; i < c; ++i) {
    const auto v = static_cast<Accumulator<T>>(x[i]);
    const bool wins = v > best[i] || (v != v && best[i] == best[i]);
    best[i] = wins ? v : best[i];
    index[i] = wins ? at : index[i];
  }
}

template <class T>
void max_forward(const CpuContext& ctx, const ConstView& x, const Pool2d& m, const View& y,
                 uint8_t* index) {
  using A = Accumulator<T>;
  const int64_t h = x.shape[1], w = x.shape[2], c = x.shape[3], p = y.shape[1], q = y.shape[2];
  const T* in = x.as<T>();
  T* out = y.as<T>();
  const int64_t cost = m.window * m.window * q * c;
  for_image_rows(ctx, x.shape[0], p, cost, [&](int64_t n, int64_t i) {
    const Scratch scratch(c * int64_t{sizeof(A) + sizeof(int32_t)});
    A* best = scratch.as<A>();
    auto* where = reinterpret_cast<int32_t*>(best + c);
    const Range rows = covered_by(m, i, h, p);
    const int64_t top = i * m.stride - m.padding;
    for (int64_t j = 0; j < q; ++j) {
      const Range cols = covered_by(m, j, w, q);
      const int64_t left = j * m.stride - m.padding;
      for (int64_t k = 0; k < c; ++k) best[k] = static_cast<A>(-kInfinity), where[k] = -1;
      for (int64_t r = rows.begin; r < rows.end; ++r)
        for (int64_t s = cols.begin; s < cols.end; ++s) {
          const auto at = static_cast<int32_t>((r - top) * m.window + s - left);
          const T* from = in + ((n * h + r) * w + s) * c;
          if (r == rows.begin && s == cols.begin)  // -infinity would not be larger than itself
            for (int64_t k = 0; k < c; ++k) best[k] = static_cast<A>(from[k]), where[k] = at;
          else
            take_larger(from, c, at, best, where);
        }
      const int64_t to = ((n * p + i) * q + j) * c;
      for (int64_t k = 0; k < c; ++k) out[to + k] = T(best[k]);
      for (int64_t k = 0; index && k < c; ++k) index[to + k] = static_cast<uint8_t>(where[k]);
    }
  });
}

// dx = the sum of `add(sums, from, r, s)` over the windows that cover each element.
template <class T, class Add>
PINION_INLINE void gather_gradient(const CpuContext& ctx, const Pool2d& m, const ConstView& dy,
                                   const View& dx, const Add& add) {
  using A = Accumulator<T>;
  const int64_t h = dx.shape[1], w = dx.shape[2], c = dx.shape[3];
  const int64_t p = dy.shape[1], q = dy.shape[2];
  T* out = dx.as<T>();
  for_image_rows(ctx, dx.shape[0], h, 4 * w * c, [&](int64_t n, int64_t i) {
    const Scratch scratch(c * int64_t{sizeof(A)});
    A* sums = scratch.as<A>();
    const Range rows = covering(m, i, h, p);
    for (int64_t j = 0; j < w; ++j) {
      const Range cols = covering(m, j, w, q);
      for (int64_t k = 0; k < c; ++k) sums[k] = 0;
      for (int64_t r = rows.begin; r < rows.end; ++r)
        for (int64_t s = cols.begin; s < cols.end; ++s)
          add(sums, ((n * p + r) * q + s) * c, Range{i, r}, Range{j, s});
      T* to = out + ((n * h + i) * w + j) * c;
      for (int64_t k = 0; k < c; ++k) to[k] = T(sums[k]);
    }
  });
}

// What a window's sum is multiplied by.
PINION_INLINE double share_of(const Pool2d& m, int64_t i, int64_t h, int64_t p, int64_t j,
                              int64_t w, int64_t q) {
  if (m.window > 0) return 1.0 / static_cast<double>(m.window * m.window);
  const Range rows = covered_by(m, i, h, p), cols = covered_by(m, j, w, q);
  return 1.0 / static_cast<double>((rows.end - rows.begin) * (cols.end - cols.begin));
}

template <class T>
void average(const CpuContext& ctx, const ConstView& x, const Pool2d& m, const View& y) {
  using A = Accumulator<T>;
  const int64_t h = x.shape[1], w = x.shape[2], c = x.shape[3], p = y.shape[1], q = y.shape[2];
  const T* in = x.as<T>();
  T* out = y.as<T>();
  const int64_t cost = larger(m.window * m.window * q, h * w / larger(p, int64_t{1})) * c;
  for_image_rows(ctx, x.shape[0], p, cost, [&](int64_t n, int64_t i) {
    const Scratch scratch(c * int64_t{sizeof(A)});
    A* sums = scratch.as<A>();
    const Range rows = covered_by(m, i, h, p);
    for (int64_t j = 0; j < q; ++j) {
      const Range cols = covered_by(m, j, w, q);
      for (int64_t k = 0; k < c; ++k) sums[k] = 0;
      for (int64_t r = rows.begin; r < rows.end; ++r)
        for (int64_t s = cols.begin; s < cols.end; ++s) {
          const T* from = in + ((n * h + r) * w + s) * c;
          for (int64_t k = 0; k < c; ++k) sums[k] += static_cast<A>(from[k]);
        }
      const A share = static_cast<A>(share_of(m, i, h, p, j, w, q));
      T* to = out + ((n * p + i) * q + j) * c;
      for (int64_t k = 0; k < c; ++k) to[k] = T(sums[k] * share);
    }
  });
}

}  // namespace

void max_pool_forward(const CpuContext& ctx, ConstView x, Pool2d p, View y, View index) {
  uint8_t* const at = index ? index.as<uint8_t>() : nullptr;
  for_float(x.dtype, "max_pool_forward", [&]<class T>() { max_forward<T>(ctx, x, p, y, at); });
}

void max_pool_backward(const CpuContext& ctx, ConstView index, ConstView dy, Pool2d p, View dx) {
  const auto* where = index.as<uint8_t>();
  const int64_t c = dy.shape[3];
  for_float(dy.dtype, "max_pool_backward", [&]<class T>() {
    const T* from = dy.as<T>();
    gather_gradient<T>(
        ctx, p, dy, dx,
        [&](Accumulator<T> * sums, int64_t at, Range i, Range j) __attribute__((always_inline)) {
          // .begin is the element, .end the window that covers it
          const int64_t r = i.begin - i.end * p.stride + p.padding;
          const int64_t s = j.begin - j.end * p.stride + p.padding;
          const auto mine = static_cast<uint8_t>(r * p.window + s);
          for (int64_t k = 0; k < c; ++k)
            sums[k] += where[at + k] == mine ? static_cast<Accumulator<T>>(from[at + k]) : 0;
        });
  });
}

void avg_pool_forward(const CpuContext& ctx, ConstView x, Pool2d p, View y) {
  for_float(x.dtype, "avg_pool_forward", [&]<class T>() { average<T>(ctx, x, p, y); });
}

void avg_pool_backward(const CpuContext& ctx, ConstView dy, Pool2d p, View dx) {
  const int64_t h = dx.shape[1], w = dx.shape[2], c = dx.shape[3];
  const int64_t rows = dy.shape[1], cols = dy.shape[2];
  for_float(dy.dtype, "avg_pool_backward", [&]<class T>() {
    using A = Accumulator<T>;
    const T* from = dy.as<T>();
    gather_gradient<T>(
        ctx, p, dy, dx, [&](A * sums, int64_t at, Range i, Range j) __attribute__((always_inline)) {
          const A share = static_cast<A>(share_of(p, i.end, h, rows, j.end, w, cols));
          for (int64_t k = 0; k < c; ++k) sums[k] += share * static_cast<A>(from[at + k]);
        });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
