// SPDX-License-Identifier: Apache-2.0
// Autocast: matrix products run on 16-bit copies of f32 operands, what is sensitive to rounding
// runs in f32, and everything else takes what it gets. Parameters, gradients of leaves and
// optimizer state stay f32. fp16 is real on every device: operands and results are stored as f16,
// sums are f32; use optim::GradScaler with it.
//
//   { nn::Autocast guard(nn::Precision::bf16); loss = nn::cross_entropy(model(x), y); }
//   backward(loss);  // outside the guard: the graph knows the types of the forward pass
//
// A parameter is rounded once per version of its contents, where PyTorch does so in every guard:
// the 16-bit copy is kept across guards until the parameter is written, and dropped when an
// outermost guard ends in which nobody asked for it. Copies belong to the thread. An optimizer
// whose parameters autocast has asked for keeps a copy too, written by its step
// (nn/low_precision.h), so that in a steady training loop nothing is rounded.
#pragma once

#include <string_view>

#include "pinion/runtime/tensor.h"

namespace pinion::nn {

enum class Precision : uint8_t { no, bf16, fp16 };
const char* name_of(Precision p);                  // "no", "bf16", "fp16"
Precision parse_precision(std::string_view text);  // throws Error (usage)

// Sets the calling thread's precision while it lives. Guards nest; the innermost counts.
class Autocast {
 public:
  explicit Autocast(Precision precision);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;
  static Precision current();

 private:
  Precision previous_;
};

namespace amp {

// What autocast does with the floating operands of an operation. f64 operands are never cast.
enum class Rule : uint8_t {
  low,     // to the guard's 16-bit type
  full,    // from 16 bits to f32
  widest,  // to f32 where they differ
};

// The policy. Operations that are not here compute in the type of their operand.
// clang-format off
enum class Op : uint8_t {
    linear, matmul, bmm, conv2d, attention,                           // low
  softmax, log_softmax, layer_norm, cross_entropy, mse_loss,        // full
  exp, log, sum, mean,
  add, subtract, multiply, divide, add_bias, concat,                // widest
};
// clang-format on
constexpr Rule rule_of(Op op) {
  return op <= Op::attention ? Rule::low : op <= Op::mean ? Rule::full : Rule::widest;
}

// Drops the calling thread's 16-bit copies of parameters.
void clear_cache();

namespace detail {
inline constinit thread_local Precision precision = Precision::no;
inline constexpr DType kKeep{255};
DType target_of(Op op, std::initializer_list<const Tensor*> operands);
Tensor cast_operand(const Tensor& x, DType to);
}  // namespace detail

// The one line at the head of an operation that the policy names; it costs one load when autocast
// is off. After the casts nothing is left to cast, so the second entry goes on:
//   if (const amp::Casts to{amp::Op::matmul, a, b}) return matmul(to(a), to(b));
class Casts {
 public:
  template <class... T>
  PINION_INLINE explicit Casts(Op op, const T&... operands)
      : target_(detail::precision == Precision::no ? detail::kKeep
                                                   : detail::target_of(op, {&operands...})) {}
  PINION_INLINE explicit operator bool() const { return target_ != detail::kKeep; }
  // x in the type of the operation, differentiable; undefined and integer tensors come back as is.
  Tensor operator()(const Tensor& x) const { return detail::cast_operand(x, target_); }

 private:
  DType target_;
};

}  // namespace amp
}  // namespace pinion::nn
