// SPDX-License-Identifier: Apache-2.0
// What both directions of layer normalisation share: the arguments with types, for the device.
#pragma once

#include "pinion/kernels/cuda/recording.h"
#include "pinion/kernels/cuda/rows.cuh"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

// LayerNormArgs with types, for the device; no delta is null.
template <class T>
struct Norm {
  using A = Accumulator<T>;
  LayerNormForm form;
  A eps;
  int64_t n;
  const T *x, *gamma, *beta, *delta_gamma, *delta_beta, *dy;
  A *mean, *spread;
  T *y, *dx, *ddelta_gamma;

  explicit Norm(const LayerNormArgs& args)
      : form(args.form),
        eps(static_cast<A>(args.eps)),
        n(args.x.cols()),
        x(args.x.as<T>()),
        gamma(args.gamma.as<T>()),
        beta(optional(args.beta)),
        delta_gamma(optional(args.delta_gamma)),
        delta_beta(optional(args.delta_beta)),
        dy(optional(args.dy)),
        mean(args.mean.as<A>()),
        spread(args.spread.as<A>()),
        y(optional(args.y)),
        dx(optional(args.dx)),
        ddelta_gamma(optional(args.ddelta_gamma)) {}

  // What one row's elements are multiplied by and what is added then: the shared vector's element,
  // and the row's own where there is one.
  __device__ __forceinline__ A scale(const T& shared, const T& own) const {
    return delta_gamma ? static_cast<A>(shared) + static_cast<A>(own) : static_cast<A>(shared);
  }
  __device__ __forceinline__ A shift(const T& shared, const T& own) const {
    return delta_beta ? static_cast<A>(shared) + static_cast<A>(own) : static_cast<A>(shared);
  }
  // What differences from the mean are multiplied by, given the row's spread: rstd, or the standard
  // deviation.
  __device__ __forceinline__ A factor(A spread_of_row) const {
    return form == LayerNormForm::torch ? spread_of_row : A(1) / (spread_of_row + eps);
  }
  // What the sum of g xhat is multiplied by. std moves by d / ((n - 1) std) per x, d being its
  // difference from the mean, and not at all where all elements are equal.
  __device__ __forceinline__ A share(A spread_of_row) const {
    if (form == LayerNormForm::torch) return A(1) / static_cast<A>(n);
    const bool flat = !(spread_of_row > 0);
    return flat ? A(0) : (spread_of_row + eps) / (static_cast<A>(n - 1) * spread_of_row);
  }

 private:
  template <class Void>
  static auto* optional(const BasicView<Void>& v) {
    return v ? v.template as<T>() : nullptr;
  }
};

// Whether dropout keeps each element of a row, as an array that is drawn instead of read.
struct Kept {
  using Element = bool;
  bool draws;
  PhiloxKey key;
  uint32_t threshold;
  int64_t row;  // the element that the row begins with

  template <int N>
  __device__ __forceinline__ Pack<bool, N> load(int64_t i) const {
    Pack<bool, N> kept;
#pragma unroll
    for (int j = 0; j < N; j += 4) {
      const int64_t first = row + i + j;
      const Philox4 words = draws ? philox(key, static_cast<uint64_t>(first) / 4) : Philox4{};
      if constexpr (N == 1)
        kept.v[0] = word_of(words, static_cast<int>(first % 4)) < threshold;
      else
#pragma unroll
        for (int w = 0; w < 4; ++w) kept.v[j + w] = words.v[w] < threshold;
    }
    return kept;
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t, const Pack<bool, N>&) const {}
};

// ResidualArgs with types, for the device; what is not asked for is null.
template <class T>
struct Residual {
  using A = Accumulator<T>;
  const T *x, *branch;
  T* sum;
  const T* dsum;
  T* dbranch;
  bool draws;
  ReplayedKey key;
  uint32_t threshold;
  formulas::Dropout drop;

  explicit Residual(const ResidualArgs& r)
      : x(r.branch ? r.x.template as<T>() : nullptr),
        branch(r.branch ? r.branch.template as<T>() : nullptr),
        sum(r.branch ? r.sum.template as<T>() : nullptr),
        dsum(r.dsum ? r.dsum.template as<T>() : nullptr),
        dbranch(r.dbranch ? r.dbranch.template as<T>() : nullptr),
        draws(r.dropout > 0 && (branch || dbranch)),
        key(draws ? ReplayedKey(r.key) : ReplayedKey()),
        threshold(bernoulli_threshold(1 - r.dropout)),
        drop{1 / (1 - r.dropout)} {}

  __device__ __forceinline__ Kept kept(int64_t row) const {
    return {draws, key.now(), threshold, row};
  }
  __device__ __forceinline__ T dropped(T v, bool kept) const {
    return T(drop(static_cast<A>(v), kept));
  }
};

// Row `row` of an array that may be missing.
template <class T>
__device__ __forceinline__ T* at(T* p, int64_t row) {
  return p ? p + row : nullptr;
}

}  // namespace
}  // namespace pinion::kernels::cuda
