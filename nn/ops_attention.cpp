// SPDX-License-Identifier: Apache-2.0
// Attention: one kernel forward and one backward, over separate operands or parts of one.
#include <cmath>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/ops.h"
#include "pinion/nn/ops_support.h"

namespace pinion::nn {
namespace {

using kernels::AttentionArgs;
using kernels::BasicHeads;

// The heads that `part` of `parts` holds in x, [B,T,H,d] or [B,T,parts,H,d].
template <class Void>
BasicHeads<Void> heads(const BasicView<Void>& x, int64_t parts = 1, int64_t part = 0) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  const int64_t each = x.shape[-2] * x.shape[-1];
  const int64_t before = part * each * size_of(x.dtype);
  return {{static_cast<Byte*>(x.data) + before, x.shape, x.dtype}, parts * each};
}

// Checks what is common to both forms; q [B,Tq,..,H,d].
AttentionArgs arguments(const char* op, const Tensor& q, int64_t keys,
                        const AttentionOptions& options) {
  AttentionArgs args;
  args.batch = q.size(0), args.queries = q.size(1), args.keys = keys;
  args.heads = q.size(-2), args.width = q.size(-1);
  PINION_CHECK(args.keys > 0 && args.width > 0, op, ": expected at least one key and one feature, ",
               "got ", args.keys, " keys of ", args.width, " features");
  PINION_CHECK(args.queries <= INT32_MAX && keys <= INT32_MAX, op,
               ": expected at most 2147483647 tokens, got ", args.queries, " queries and ", keys,
               " keys");
  PINION_CHECK(options.dropout >= 0 && options.dropout < 1, op,
               ": expected dropout in [0, 1), got ", options.dropout);
  PINION_CHECK(std::isfinite(options.scale) && options.scale >= 0, op,
               ": expected a finite scale above 0, or 0 for 1 / sqrt(d), got ", options.scale);
  const Tensor& mask = options.key_padding_mask;
  if (mask.defined()) {
    check_like(op, "key_padding_mask", mask, DType::boolean, q);
    check_shape(op, "key_padding_mask", mask, {args.batch, keys});
    args.hidden = mask;
  }
  args.causal = options.causal;
  args.scale = options.scale > 0 ? options.scale : 1 / std::sqrt(static_cast<double>(args.width));
  args.dropout = options.dropout, args.key = options.key;
  return args;
}

// The result, and the log-sum-exp that the backward pass reads; `args` will have the latter.
struct Output {
  Tensor y, lse;
  Output(AttentionArgs& args, const Tensor& like)
      : y({args.batch, args.queries, args.heads, args.width}, like.dtype(), like.device()),
        lse({args.batch, args.heads, args.queries},
            like.dtype() == DType::f64 ? DType::f64 : DType::f32, like.device()) {
    args.lse = lse.mut();
    AttentionArgs all = args;
    all.y = heads(y.mut());
    on(y.device(), [&](auto& ctx) { kernels::attention_forward(ctx, all); });
  }
};

void run_backward(AttentionArgs& args, const Tensor& dy) {
  args.dy = heads(dy.view());
  on(dy.device(), [&](auto& ctx) { kernels::attention_backward(ctx, args); });
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionOptions& options) {
  if (const amp::Casts to{amp::Op::attention, q, k, v})
    return attention(to(q), to(k), to(v), options);
  check_floating("attention", "q", q);
  check_like("attention", "k", k, q);
  check_like("attention", "v", v, q);
  check_rank("attention", "q", q, 4);
  check_rank("attention", "k", k, 4);
  check_shape("attention", "k", k, q.shape().with(1, k.size(1)));
  check_shape("attention", "v", v, k.shape());
  AttentionArgs args = arguments("attention", q, k.size(1), options);
  args.q = heads(q.view()), args.k = heads(k.view()), args.v = heads(v.view());
  const Output out(args, q);
  return record("attention", out.y, {&q, &k, &v},
                [to_q = Input(q), to_k = Input(k), to_v = Input(v), q, k, v, lse = out.lse,
                 mask = options.key_padding_mask, args](const Tensor& dy) -> Tensors {
                  // One kernel makes all three: what nobody wants is dropped.
                  Tensor dq = to_q.gradient(q), dk = to_k.gradient(k), dv = to_v.gradient(v);
                  AttentionArgs all = args;
                  all.dq = heads(dq.mut()), all.dk = heads(dk.mut()), all.dv = heads(dv.mut());
                  run_backward(all, dy);
                  return {std::move(dq), std::move(dk), std::move(dv)};
                });
}

Tensor self_attention(const Tensor& qkv, const AttentionOptions& options) {
  if (const amp::Casts to{amp::Op::attention, qkv}) return self_attention(to(qkv), options);
  check_floating("self_attention", "qkv", qkv);
  check_rank("self_attention", "qkv", qkv, 5);
  PINION_CHECK(qkv.size(2) == 3, "self_attention: expected qkv [B,T,3,H,d], got ", qkv.shape());
  AttentionArgs args = arguments("self_attention", qkv, qkv.size(1), options);
  args.q = heads(qkv.view(), 3, 0), args.k = heads(qkv.view(), 3, 1);
  args.v = heads(qkv.view(), 3, 2);
  const Output out(args, qkv);
  return record("self_attention", out.y, {&qkv},
                [to_qkv = Input(qkv), qkv, lse = out.lse, mask = options.key_padding_mask,
                 args](const Tensor& dy) -> Tensors {
                  Tensor dqkv = to_qkv.gradient(qkv);
                  AttentionArgs all = args;
                  all.dq = heads(dqkv.mut(), 3, 0), all.dk = heads(dqkv.mut(), 3, 1);
                  all.dv = heads(dqkv.mut(), 3, 2);
                  run_backward(all, dy);
                  return {std::move(dqkv)};
                });
}

}  // namespace pinion::nn
