// SPDX-License-Identifier: Apache-2.0
// Layer normalisation, with and without weights of a row's own or a residual connection in front of
// it, in one kernel each way.
#include <cmath>
#include <memory>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/ops.h"
#include "pinion/nn/ops_support.h"

namespace pinion::nn {
namespace {

using kernels::LayerNormArgs;

void check_norm(const char* op, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                double eps, LayerNormForm form) {
  check_floating(op, "x", x);
  check_like(op, "gamma", gamma, x);
  check_like(op, "beta", beta, x);
  PINION_CHECK(x.rank() >= 1, op, ": expected x of at least one dimension, got ", x.shape());
  PINION_CHECK(std::isfinite(eps) && eps >= 0, op, ": expected eps of at least 0, got ", eps);
  PINION_CHECK(form <= LayerNormForm::unbiased_std, op, ": expected a LayerNormForm, got ",
               static_cast<int>(form));
  PINION_CHECK(form == LayerNormForm::torch || x.size(-1) >= 2, op,
               ": expected at least two features for an unbiased std, got x ", x.shape());
  check_shape(op, "gamma", gamma, {x.size(-1)});
  check_shape(op, "beta", beta, {x.size(-1)});
}

// The result, and the moments of rows that the backward pass reads; `args` will have the latter.
struct Output {
  Tensor y, mean, spread;
  Output(LayerNormArgs& args, const Tensor& x)
      : y(Tensor::like(x)),
        mean({x.view().rows()}, x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device()),
        spread(Tensor::like(mean)) {
    args.mean = mean.mut(), args.spread = spread.mut();
    LayerNormArgs all = args;
    all.y = y.mut();
    on(x.device(), [&](auto& ctx) { kernels::layer_norm_forward(ctx, all); });
  }
};

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps,
                  LayerNormForm form) {
  if (const amp::Casts to{amp::Op::layer_norm, x, gamma, beta})
    return layer_norm(to(x), to(gamma), to(beta), eps, form);
  check_norm("layer_norm", x, gamma, beta, eps, form);
  LayerNormArgs args;
  args.form = form, args.eps = eps;
  args.x = x, args.gamma = gamma, args.beta = beta;
  const Output out(args, x);
  return record("layer_norm", out.y, {&x, &gamma, &beta},
                [to_x = Input(x), to_gamma = Input(gamma), to_beta = Input(beta), x, gamma,
                 mean = out.mean, spread = out.spread, args](const Tensor& dy) -> Tensors {
                  // One kernel makes all three: what nobody wants goes to scratch.
                  Tensor dx = to_x.gradient(dy);
                  Tensor dgamma = to_gamma.gradient(gamma), dbeta = to_beta.gradient(gamma);
                  LayerNormArgs all = args;
                  all.gamma = gamma;  // whose memory may be another by now (ZeRO, stage 3)
                  all.beta = {};      // not kept
                  all.dy = dy, all.dx = dx.mut();
                  all.dgamma = dgamma.mut(), all.dbeta = dbeta.mut();
                  on(dy.device(), [&](auto& ctx) { kernels::layer_norm_backward(ctx, all); });
                  return {std::move(dx), std::move(dgamma), std::move(dbeta)};
                });
}

namespace {

// Of residual_layer_norm: the norm's backward pass makes the branch's gradient in the same kernel
// as that of the sum, and leaves it here for the sum's, which runs next.
struct ResidualGradients {
  Tensor dsum, dbranch;
};

// The sum as an op of its own, whose backward pass has nothing to compute when the norm's has run.
Tensor record_sum(Tensor sum, const Tensor& x, const Tensor& branch, double p, const PhiloxKey& key,
                  const std::shared_ptr<ResidualGradients>& made) {
  return record("residual", std::move(sum), {&x, &branch},
                [made, p, key, wanted = branch.requires_grad()](const Tensor& dy) -> Tensors {
                  if (p == 0 || !wanted) return {dy, dy};
                  if (made->dbranch.defined() && made->dsum.same(dy))
                    return {dy, std::move(made->dbranch)};
                  Tensor dbranch = Tensor::like(dy);
                  on(dy.device(),
                     [&](auto& ctx) { kernels::dropout(ctx, dy, p, key, dbranch.mut()); });
                  return {dy, std::move(dbranch)};
                });
}

}  // namespace

ResidualNorm residual_layer_norm(const Tensor& x, const Tensor& branch, const Tensor& gamma,
                                 const Tensor& beta, double p, const PhiloxKey& key, double eps,
                                 LayerNormForm form) {
  const char* const op = "residual_layer_norm";
  if (const amp::Casts to{amp::Op::layer_norm, x, branch, gamma, beta})
    return residual_layer_norm(to(x), to(branch), to(gamma), to(beta), p, key, eps, form);
  check_norm(op, x, gamma, beta, eps, form);
  check_like(op, "branch", branch, x);
  check_shape(op, "branch", branch, x.shape());
  PINION_CHECK(p >= 0 && p < 1, op, ": expected p in [0, 1), got ", p);
  Tensor sum = Tensor::like(x);
  LayerNormArgs args;
  args.form = form, args.eps = eps;
  args.x = sum, args.gamma = gamma, args.beta = beta;
  args.residual = {x, branch, sum.mut(), p, key, {}, {}};
  const Output out(args, x);
  const bool draws = p > 0 && branch.requires_grad();
  const auto made = std::make_shared<ResidualGradients>();
  const Tensor kept = sum.detach();
  sum = record_sum(std::move(sum), x, branch, p, key, made);
  Tensor y = record(op, out.y, {&sum, &gamma, &beta},
                    [to_gamma = Input(gamma), to_beta = Input(beta), kept, gamma, mean = out.mean,
                     spread = out.spread, args, made, draws](const Tensor& dy) -> Tensors {
                      Tensor dsum = Tensor::like(dy), dbranch = draws ? Tensor::like(dy) : Tensor();
                      Tensor dgamma = to_gamma.gradient(gamma), dbeta = to_beta.gradient(gamma);
                      const Tensor so_far = take_gradient_so_far(0);
                      LayerNormArgs all = args;
                      all.gamma = gamma;  // whose memory may be another by now (ZeRO, stage 3)
                      all.beta = {}, all.residual.x = all.residual.branch = {},
                      all.residual.sum = {};
                      if (so_far.defined()) all.residual.dsum = so_far;
                      if (draws) all.residual.dbranch = dbranch.mut();
                      all.dy = dy, all.dx = dsum.mut();
                      all.dgamma = dgamma.mut(), all.dbeta = dbeta.mut();
                      on(dy.device(), [&](auto& ctx) { kernels::layer_norm_backward(ctx, all); });
                      *made = {dsum, dbranch};
                      return {std::move(dsum), std::move(dgamma), std::move(dbeta)};
                    });
  return {std::move(sum), std::move(y)};
}

Tensor conditional_layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                              const Tensor& delta_gamma, const Tensor& delta_beta, double eps,
                              LayerNormForm form) {
  const char* const op = "conditional_layer_norm";
  if (const amp::Casts to{amp::Op::layer_norm, x, gamma, beta, delta_gamma, delta_beta})
    return conditional_layer_norm(to(x), to(gamma), to(beta), to(delta_gamma), to(delta_beta), eps,
                                  form);
  check_norm(op, x, gamma, beta, eps, form);
  check_like(op, "delta_gamma", delta_gamma, x);
  check_like(op, "delta_beta", delta_beta, x);
  check_shape(op, "delta_gamma", delta_gamma, x.shape());
  check_shape(op, "delta_beta", delta_beta, x.shape());
  LayerNormArgs args;
  args.form = form, args.eps = eps;
  args.x = x, args.gamma = gamma, args.beta = beta;
  args.delta_gamma = delta_gamma, args.delta_beta = delta_beta;
  const Output out(args, x);
  return record(
      op, out.y, {&x, &gamma, &beta, &delta_gamma, &delta_beta},
      [to_x = Input(x), to_gamma = Input(gamma), to_beta = Input(beta),
       to_delta = Input(delta_gamma), x, gamma, delta_gamma, mean = out.mean, spread = out.spread,
       args](const Tensor& dy) -> Tensors {
        Tensor dx = to_x.gradient(dy), ddelta = to_delta.gradient(dy);
        Tensor dgamma = to_gamma.gradient(gamma), dbeta = to_beta.gradient(gamma);
        LayerNormArgs all = args;
        all.gamma = gamma;               // whose memory may be another by now (ZeRO, stage 3)
        all.beta = all.delta_beta = {};  // not kept
        all.dy = dy, all.dx = dx.mut(), all.ddelta_gamma = ddelta.mut();
        all.dgamma = dgamma.mut(), all.dbeta = dbeta.mut();
        on(dy.device(), [&](auto& ctx) { kernels::layer_norm_backward(ctx, all); });
        return {std::move(dx), std::move(dgamma), std::move(dbeta), std::move(ddelta), dy};
      });
}

}  // namespace pinion::nn
