// SPDX-License-Identifier: Apache-2.0
#include "pinion/optim/fused_run.h"

#include <cmath>
#include <limits>

#include "pinion/kernels/kernels.h"
#include "pinion/kernels/permutation.h"
#include "pinion/nn/ops_support.h"

namespace pinion::optim {
namespace {

// The generator's stream of these orders ("fuse" in ASCII).
constexpr uint32_t kOrderStream = 0x66757365;

constexpr const char* kOp = "train_fused";

// The same parameter of all models as one block [M, shape]: the parameter itself where there is one
// model, else a copy that is handed back when the models are trained.
class Stack {
 public:
  explicit Stack(std::vector<Tensor> parts) : parts_(std::move(parts)) {
    const Shape& shape = parts_[0].shape();
    const auto models = static_cast<int64_t>(parts_.size());
    const Shape all =
        shape.rank() == 2 ? Shape{models, shape[0], shape[1]} : Shape{models, shape[0]};
    whole_ = parts_.size() == 1 ? parts_[0].detach() : Tensor(all, DType::f32, parts_[0].device());
    view_ = nn::with_shape(whole_.mut(), all);
    if (parts_.size() == 1) return;
    for (size_t i = 0; i < parts_.size(); ++i)
      on(whole_.device(), [&](auto& ctx) { kernels::cast(ctx, parts_[i], part(i)); });
  }
  View view() const { return view_; }
  void hand_back() {
    if (parts_.size() == 1) return;
    for (size_t i = 0; i < parts_.size(); ++i)
      on(whole_.device(), [&](auto& ctx) { kernels::cast(ctx, part(i), parts_[i].mut()); });
  }

 private:
  View part(size_t i) const {
    const int64_t bytes = parts_[i].numel() * size_of(DType::f32);
    return {static_cast<char*>(view_.data) + static_cast<int64_t>(i) * bytes, parts_[i].shape(),
            DType::f32};
  }

  std::vector<Tensor> parts_;
  Tensor whole_;
  View view_;
};

void check_layer(const char* name, const nn::Linear& layer, const Shape& shape, const Tensor& x) {
  nn::check_like(kOp, name, layer.weight, DType::f32, x);
  nn::check_shape(kOp, name, layer.weight, shape);
  PINION_CHECK(layer.bias.defined(), kOp, ": expected layers with a bias, got ", name, " without");
  nn::check_like(kOp, name, layer.bias, DType::f32, x);
}

void check_model(const FusedModel& model, const FusedModel& like, const Tensor& x) {
  PINION_CHECK(std::isfinite(model.lr) && model.lr >= 0, kOp, ": expected a finite lr >= 0, got ",
               model.lr);
  PINION_CHECK(model.seed <= uint64_t{std::numeric_limits<int64_t>::max()}, kOp,
               ": expected a seed below 2^63, got ", model.seed);
  const int64_t hidden = like.first->weight.size(0), classes = like.second->weight.size(0);
  check_layer("the first layer", *model.first, {hidden, x.size(1)}, x);
  check_layer("the second layer", *model.second, {classes, hidden}, x);
}

void check(const std::vector<FusedModel>& models, const Tensor& x, const Tensor& target,
           const FusedRunOptions& o) {
  nn::check_defined(kOp, "x", x);
  nn::check_like(kOp, "x", x, DType::f32, x);
  nn::check_rank(kOp, "x", x, 2);
  PINION_CHECK(x.size(0) > 0 && x.size(0) < kernels::Permutation::kMost, kOp,
               ": expected 1 to 2^31 samples, got x ", x.shape());
  nn::check_like(kOp, "target", target, DType::i64, x);
  nn::check_shape(kOp, "target", target, {x.size(0)});
  PINION_CHECK(o.epochs >= 0, kOp, ": expected epochs >= 0, got ", o.epochs);
  PINION_CHECK(o.batch_size > 0, kOp, ": expected batch_size > 0, got ", o.batch_size);
  PINION_CHECK(!o.adam.amsgrad, kOp, ": expected Adam without amsgrad, got amsgrad");
  for (const FusedModel& model : models) check_model(model, models[0], x);
}

kernels::AdamStep adam_of(const FusedRunOptions& o) {
  kernels::AdamStep adam;
  adam.beta1 = o.adam.beta1, adam.beta2 = o.adam.beta2, adam.eps = o.adam.eps;
  adam.weight_decay = o.adam.weight_decay;
  adam.decoupled = o.decoupled;
  return adam;
}

}  // namespace

PhiloxKey fused_run_order(uint64_t seed, int64_t epoch) {
  return {seed, kOrderStream, static_cast<uint64_t>(epoch)};
}

std::vector<std::vector<FusedEpoch>> train_fused(const std::vector<FusedModel>& models,
                                                 const Tensor& x, const Tensor& target,
                                                 const FusedRunOptions& options) {
  if (models.empty()) return {};
  check(models, x, target, options);
  const auto count = static_cast<int64_t>(models.size());
  std::vector<Tensor> w1, b1, w2, b2;
  std::vector<double> lr;
  std::vector<int64_t> seed;
  for (const FusedModel& model : models) {
    w1.push_back(model.first->weight), b1.push_back(model.first->bias);
    w2.push_back(model.second->weight), b2.push_back(model.second->bias);
    lr.push_back(model.lr), seed.push_back(static_cast<int64_t>(model.seed));
  }
  Stack stacks[] = {Stack(w1), Stack(b1), Stack(w2), Stack(b2)};
  const Tensor lrs = Tensor::of(lr, {count}).to(x.device());
  const Tensor seeds = Tensor::of(seed, {count}).to(x.device());
  Tensor loss({count, options.epochs}, DType::f64, x.device());
  Tensor correct({count, options.epochs}, DType::i64, x.device());

  kernels::ToyTrainArgs args;
  args.x = x, args.target = target;
  args.w1 = stacks[0].view(), args.b1 = stacks[1].view();
  args.w2 = stacks[2].view(), args.b2 = stacks[3].view();
  args.lr = lrs, args.seed = seeds;
  args.stream = kOrderStream;
  args.epochs = options.epochs, args.batch = options.batch_size;
  args.adam = adam_of(options);
  args.loss = loss.mut(), args.correct = correct.mut();
  on(x.device(), [&](auto& ctx) { kernels::toy_train(ctx, args); });
  for (Stack& stack : stacks) stack.hand_back();

  const std::vector<double> losses = loss.to(Device{}).values<double>();
  const std::vector<int64_t> right = correct.to(Device{}).values<int64_t>();
  std::vector<std::vector<FusedEpoch>> out(models.size());
  for (size_t i = 0; i < losses.size(); ++i)
    out[i / static_cast<size_t>(options.epochs)].push_back(
        {losses[i], static_cast<double>(right[i]) / static_cast<double>(x.size(0))});
  return out;
}

std::vector<FusedEpoch> train_fused(nn::Linear& first, nn::Linear& second, const Tensor& x,
                                    const Tensor& target, const FusedRunOptions& options) {
  return train_fused({{&first, &second, options.adam.lr, options.seed}}, x, target, options)[0];
}

}  // namespace pinion::optim
