// SPDX-License-Identifier: Apache-2.0
#include "pinion/nn/fused_mlp.h"

#include <cmath>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/ops_support.h"

namespace pinion::nn {
namespace {

using kernels::FusedMlpArgs;
using kernels::MlpLoss;

// The operands of one call, in the dtype the kernel is to work in. Parameters are f32; a bf16 copy
// comes from autocast's cache, and its gradient is the parameter's.
struct Operands {
  Tensor x;
  std::vector<Tensor> weight;
};

Operands operands(const char* op, const Mlp& mlp, const Tensor& x) {
  check_floating(op, "x", x);
  check_rank(op, "x", x, 2);
  PINION_CHECK(x.size(1) == mlp.layers[0].weight.size(1), op, ": x ", x.shape(),
               " does not fit the first weight ", mlp.layers[0].weight.shape());
  PINION_CHECK(Autocast::current() != Precision::fp16 && x.dtype() != DType::f16, op,
               ": expected f32 or bf16, got fp16; the fused MLP has no fp16 form, use nn::Mlp");
  PINION_CHECK(x.dtype() == DType::f32 || x.dtype() == DType::bf16, op,
               ": expected x of type f32 or bf16, got ", x.dtype());
  const DType dtype = Autocast::current() == Precision::bf16 ? DType::bf16 : x.dtype();
  const NoGrad no_grad;
  Operands out{cast(x, dtype), {}};
  for (const Linear& layer : mlp.layers) {
    check_device(op, "weight", layer.weight, x);
    PINION_CHECK(layer.weight.dtype() == DType::f32, op, ": expected f32 parameters, got ",
                 layer.weight.dtype());
    out.weight.push_back(amp::detail::cast_operand(layer.weight, dtype));
  }
  return out;
}

FusedMlpArgs arguments(const Mlp& mlp, const Operands& from) {
  FusedMlpArgs args;
  args.layers = static_cast<int>(mlp.layers.size());
  args.rows = from.x.size(0);
  args.x = from.x;
  args.activation = mlp.activation;
  args.width[0] = from.x.size(1);
  for (size_t l = 0; l < mlp.layers.size(); ++l) {
    args.width[l + 1] = from.weight[l].size(0);
    args.weight[l] = from.weight[l];
    if (mlp.layers[l].bias.defined()) args.bias[l] = mlp.layers[l].bias;
  }
  return args;
}

// Every gradient is made in the forward pass, so backward only scales them by dy.
struct FusedBackward {
  std::vector<Tensor> gradients;  // in the order of the inputs

  Tensors operator()(const Tensor& dy) {
    Tensors out;
    const bool scale = dy.device().kind != Device::Kind::cpu || dy.item() != 1;
    for (Tensor& g : gradients) {
      if (scale && g.defined())
        on(dy.device(), [&](auto& ctx) { kernels::scale_by(ctx, g, dy, g.mut()); });
      out.push_back(std::move(g));
    }
    return out;
  }
};

Tensor fused_loss(const char* op, const Mlp& mlp, const Tensor& x, const Tensor& target,
                  MlpLoss kind) {
  const Operands from = operands(op, mlp, x);
  PINION_CHECK(x.size(0) > 0, op, ": expected at least one row, got x ", x.shape());
  FusedMlpArgs args = arguments(mlp, from);
  args.loss = kind;
  args.target = target;
  Tensor loss({}, DType::f32, x.device());
  args.loss_value = loss.mut();

  Tensors inputs{x};
  FusedBackward backward;
  const bool wants_dx = grad_enabled() && x.requires_grad();
  Tensor dx = wants_dx ? Tensor(x.shape(), DType::f32, x.device()) : Tensor();
  if (wants_dx) args.dx = dx.mut();
  backward.gradients.push_back(dx);
  for (size_t l = 0; l < mlp.layers.size(); ++l) {
    const Linear& layer = mlp.layers[l];
    inputs.push_back(layer.weight);
    backward.gradients.push_back(Tensor::like(layer.weight));
    args.dweight[l] = backward.gradients.back().mut();
    if (!layer.bias.defined()) continue;
    inputs.push_back(layer.bias);
    backward.gradients.push_back(Tensor::like(layer.bias));
    args.dbias[l] = backward.gradients.back().mut();
  }
  on(x.device(), [&](auto& ctx) { kernels::fused_mlp_train(ctx, args); });
  if (wants_dx && x.dtype() != DType::f32) {
    const NoGrad no_grad;
    backward.gradients[0] = cast(dx, x.dtype());
  }
  return record(op, std::move(loss), inputs, std::move(backward));
}

}  // namespace

FusedMlp::FusedMlp(const std::vector<int64_t>& widths, Activation between) : Mlp(widths, between) {
  PINION_CHECK(widths.size() >= 2 && widths.size() <= FusedMlpArgs::kMaxLayers + 1,
               "FusedMlp: expected 2 to ", FusedMlpArgs::kMaxLayers + 1, " widths, got ",
               widths.size());
  for (size_t i = 1; i < widths.size(); ++i)
    PINION_CHECK(widths[i] <= FusedMlpArgs::kMaxWidth, "FusedMlp: expected widths up to ",
                 FusedMlpArgs::kMaxWidth, " after the first, got ", widths[i]);
  PINION_CHECK(between != Activation::none, "FusedMlp: expected ReLU or GELU, got none");
}

Tensor FusedMlp::operator()(const Tensor& x) const {
  bool wanted = x.requires_grad();
  for (const Linear& layer : layers) wanted = wanted || layer.weight.requires_grad();
  if ((grad_enabled() && wanted) || x.rank() != 2) return Mlp::operator()(x);
  const Operands from = operands("FusedMlp", *this, x);
  FusedMlpArgs args = arguments(*this, from);
  Tensor y({x.size(0), args.width[args.layers]}, DType::f32, x.device());
  args.y = y.mut();
  on(x.device(), [&](auto& ctx) { kernels::fused_mlp_forward(ctx, args); });
  return cast(y, from.x.dtype());
}

Tensor FusedMlp::mse_loss(const Tensor& x, const Tensor& target) const {
  check_like("FusedMlp::mse_loss", "target", target, DType::f32, x);
  check_shape("FusedMlp::mse_loss", "target", target, {x.size(0), layers.back().weight.size(0)});
  return fused_loss("FusedMlp::mse_loss", *this, x, target, MlpLoss::mse);
}

Tensor FusedMlp::cross_entropy(const Tensor& x, const Tensor& target) const {
  check_like("FusedMlp::cross_entropy", "target", target, DType::i64, x);
  check_shape("FusedMlp::cross_entropy", "target", target, {x.size(0)});
  Tensor loss = fused_loss("FusedMlp::cross_entropy", *this, x, target, MlpLoss::cross_entropy);
  if (x.device().kind != Device::Kind::cpu || !std::isnan(loss.item())) return loss;
  const int64_t* ids = target.view().as<int64_t>();
  for (int64_t i = 0; i < target.numel(); ++i)
    PINION_CHECK(ids[i] >= 0 && ids[i] < layers.back().weight.size(0),
                 "FusedMlp::cross_entropy: expected targets in [0, ", layers.back().weight.size(0),
                 "), got ", ids[i], " at position ", i);
  return loss;
}

}  // namespace pinion::nn
