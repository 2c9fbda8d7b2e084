// SPDX-License-Identifier: Apache-2.0
// The formulas of algebra.h.
#include "pinion/bench/dp_vs_ddp/algebra.h"

#include <algorithm>

namespace pinion::bench {
namespace {

double parameters(const Cell& cell) { return static_cast<double>(parameter_count(cell)); }

double logits_bytes(const Cell& cell) {
  return 4.0 * static_cast<double>(cell.per_device * classes_of(cell));
}

bool is_alone(Scheme s) {
  return s == Scheme::one || s == Scheme::one_all_cores || s == Scheme::one_share;
}

}  // namespace

Traffic traffic_of(const Cell& cell, Scheme scheme, int devices) {
  if (is_alone(scheme) || devices < 2) return {};
  const double n = devices, g = 4 * parameters(cell);
  if (!facts_of(scheme).ranks) {
    const double logits = scheme == Scheme::dp_pytorch ? 2 * (n - 1) * logits_bytes(cell) : 0;
    const double all = 2 * (n - 1) * g + logits;
    return {all, all};
  }
  const double factor = scheme == Scheme::zero3 ? 3 : scheme == Scheme::ddp_bf16 ? 1 : 2;
  return {factor * (n - 1) * g, 2 * factor * (n - 1) / n * g};
}

double state_bytes(const Cell& cell, Scheme scheme, int devices) {
  const double psi = parameters(cell), n = devices;
  const auto layer = static_cast<double>(largest_layer(cell));
  switch (scheme) {
    case Scheme::ddp_bf16: return 18 * psi;
    case Scheme::zero1: return 8 * psi + 8 * psi / n;
    case Scheme::zero2: return 4 * psi + 12 * psi / n + 4 * layer;
    case Scheme::zero3: return 16 * psi / n + 8 * layer;
    default: return 16 * psi;
  }
}

ModelConstants fit(const Link& link, int ranks, const Phases& share) {
  ModelConstants k{.share = share};
  const double n = ranks, sent = 2 * (n - 1) / n;
  k.beta = std::max(0.0, link.reduce_large - link.reduce_small) /
           (sent * static_cast<double>(link.large_bytes - link.small_bytes));
  k.alpha =
      std::max(0.0, link.reduce_small - sent * static_cast<double>(link.small_bytes) * k.beta) /
      (2 * (n - 1));
  k.copy = link.copy_large / static_cast<double>(link.large_bytes);
  k.wake = link.wake;
  return k;
}

double modelled_seconds(const Cell& cell, Scheme scheme, int devices, const ModelConstants& k) {
  const double n = devices, g = 4 * parameters(cell);
  const double f = k.share.forward + k.share.backward, u = k.share.update;
  const auto reduce = [&](double bytes) {
    return 2 * (n - 1) * k.alpha + 2 * (n - 1) / n * bytes * k.beta;
  };
  switch (scheme) {
    case Scheme::dp_tuned: return f + u + 2 * (n - 1) * g * k.copy + 2 * k.wake;
    case Scheme::dp_pytorch:
      return f + u + 2 * (n - 1) * (g + logits_bytes(cell)) * k.copy + 4 * k.wake;
    case Scheme::ddp: return f + u + reduce(g);
    case Scheme::ddp_bf16: return f + u + reduce(g / 2) + 1.5 * g * k.copy;
    case Scheme::zero1:
    case Scheme::zero2: return f + u / n + reduce(g);
    case Scheme::zero3: return f + u / n + 1.5 * reduce(g);
    default: return f + u;
  }
}

}  // namespace pinion::bench
