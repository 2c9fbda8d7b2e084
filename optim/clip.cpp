// SPDX-License-Identifier: Apache-2.0
#include "pinion/optim/clip.h"

#include <cmath>
#include <limits>

#include "pinion/kernels/kernels.h"

namespace pinion::optim {
namespace {

constexpr double kNormEpsilon = 1e-6;  // of torch.nn.utils.clip_grad_norm_

void check_limit(const char* op, const char* name, double limit) {
  PINION_CHECK(limit >= 0, op, ": expected ", name, " >= 0, got ", limit);
}

double norm_of(const GradStats& stats, double factor, NonFinite policy) {
  if (stats.nonfinite > 0) {
    PINION_REQUIRE(non_finite, policy == NonFinite::allow,
                   "clip_grad_norm_: expected finite gradients,"
                   " got ",
                   static_cast<int64_t>(stats.nonfinite), " infinite or NaN elements");
    return std::numeric_limits<double>::quiet_NaN();
  }
  return std::sqrt(stats.squares) * std::fabs(factor);
}

// The factor that takes a gradient of this norm to the limit, 1 when it is there already.
double clip_factor(double norm, double max_norm) {
  const double factor = max_norm / (norm + kNormEpsilon);
  return factor < 1 ? factor : 1;  // NaN: 1
}

template <class F>
void for_each_gradient(const char* op, const std::vector<Tensor>& parameters, F&& f) {
  for (const Tensor& p : parameters) {
    PINION_CHECK(p.defined(), op, ": expected defined parameters, got an undefined one");
    if (Tensor g = p.grad(); g.defined()) f(g);
  }
}

}  // namespace

double clip_grad_norm_(Optimizer& optimizer, double max_norm, NonFinite policy) {
  check_limit("clip_grad_norm_", "max_norm", max_norm);
  const double norm = norm_of(optimizer.grad_stats(), optimizer.pending_scale(), policy);
  if (const double factor = clip_factor(norm, max_norm); factor < 1)
    optimizer.multiply_gradients(factor);
  return norm;
}

double clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm, NonFinite policy) {
  check_limit("clip_grad_norm_", "max_norm", max_norm);
  GradStats total;
  for_each_gradient("clip_grad_norm_", parameters, [&](Tensor& g) {
    Tensor found({2}, DType::f64, g.device());
    on(g.device(), [&](auto& ctx) { kernels::squares_and_nonfinite(ctx, g, found.mut()); });
    const std::vector<double> values = found.values<double>();
    total.squares += values[0];
    total.nonfinite += values[1];
  });
  const double norm = norm_of(total, 1, policy);
  const double factor = clip_factor(norm, max_norm);
  if (factor < 1)
    for_each_gradient("clip_grad_norm_", parameters, [&](Tensor& g) {
      on(g.device(), [&](auto& ctx) { kernels::affine(ctx, g, factor, 0, g.mut()); });
    });
  return norm;
}

void clip_grad_value_(Optimizer& optimizer, double limit) {
  check_limit("clip_grad_value_", "limit", limit);
  optimizer.apply_pending_scale();
  for (Arena* arena : optimizer.arenas())
    for (Arena::Part& part : arena->parts()) {
      Tensor& g = part.grads;  // what has no gradient is clipped in vain, but in the same pass
      on(g.device(), [&](auto& ctx) { kernels::clamp(ctx, g, -limit, limit, g.mut()); });
    }
}

void clip_grad_value_(const std::vector<Tensor>& parameters, double limit) {
  check_limit("clip_grad_value_", "limit", limit);
  for_each_gradient("clip_grad_value_", parameters, [&](Tensor& g) {
    on(g.device(), [&](auto& ctx) { kernels::clamp(ctx, g, -limit, limit, g.mut()); });
  });
}

}  // namespace pinion::optim
