// SPDX-License-Identifier: Apache-2.0
// Decides casts by the policy, and keeps the 16-bit copies of parameters.
#include "pinion/nn/amp.h"

#include <unordered_map>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/low_precision.h"
#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/graph.h"

namespace pinion::nn {
namespace {

struct Copy {
  Tensor source;     // keeps its address from being used by another tensor
  uint64_t version;  // of the source when it was rounded
  Tensor low;        // outside the graph
  bool used;         // since the outermost guard began
};

struct Cache {
  std::unordered_map<const void*, Copy> copies;  // by the address of the source's contents
  int depth = 0;                                 // of guards
};

Cache& cache() {
  thread_local Cache of_thread;
  return of_thread;
}

DType low_type() { return amp::detail::precision == Precision::bf16 ? DType::bf16 : DType::f16; }

Tensor round_to(const Tensor& x, DType to) {
  const MemoryTagScope tag(MemoryTag::parameters);
  Tensor y(x.shape(), to, x.device());
  on(x.device(), [&](auto& ctx) { kernels::cast(ctx, x, y.mut()); });
  return y;
}

// w's optimizer may keep a copy; if not, the thread does. A recorded step rounds for itself: what
// is true of its memory now need not be so when it is replayed.
Tensor copy_of(const Tensor& w, DType to) {
  Copy* const copy = recording() ? nullptr : &cache().copies[w.view().data];
  if (!copy || !copy->low.defined() || !copy->source.same(w) || copy->version != w.version() ||
      copy->low.dtype() != to) {
    Tensor low = LowPrecisionCopy::find(w, to);
    if (!low.defined()) low = round_to(w, to);
    if (!copy) return low;
    *copy = {w, w.version(), std::move(low), true};
  }
  copy->used = true;
  return copy->low;
}

// The copy of parameter w, with a graph edge of its own: backward() spends edges, not the copy.
Tensor cached(const Tensor& w, DType to) {
  return record("cast", copy_of(w, to).detach(), {&w}, [w](const Tensor& dy) -> Tensors {
    Tensor dw = gradient_for(w);
    on(dy.device(), [&](auto& ctx) { kernels::cast(ctx, dy, dw.mut()); });
    return {std::move(dw)};
  });
}

}  // namespace

const char* name_of(Precision p) {
  switch (p) {
    case Precision::no: return "no";
    case Precision::bf16: return "bf16";
    case Precision::fp16: return "fp16";
  }
  return "?";
}

Precision parse_precision(std::string_view text) {
  for (Precision p : {Precision::no, Precision::bf16, Precision::fp16})
    if (text == name_of(p)) return p;
  fail(ErrorKind::usage, {"precision: expected no, bf16 or fp16, got '", text, "'"});
}

Autocast::Autocast(Precision precision) : previous_(amp::detail::precision) {
  PINION_CHECK(precision <= Precision::fp16, "Autocast: expected a Precision, got ",
               static_cast<int>(precision));
  amp::detail::precision = precision;
  ++cache().depth;
}

Autocast::~Autocast() {
  amp::detail::precision = previous_;
  if (--cache().depth > 0) return;
  auto& copies = cache().copies;
  for (auto at = copies.begin(); at != copies.end();)
    at = std::exchange(at->second.used, false) ? std::next(at) : copies.erase(at);
}

Precision Autocast::current() { return amp::detail::precision; }

namespace amp {

void clear_cache() { cache().copies.clear(); }

DType detail::target_of(Op op, std::initializer_list<const Tensor*> operands) {
  const Rule rule = rule_of(op);
  const DType target = rule == Rule::low ? low_type() : DType::f32;
  DType first = kKeep;
  bool differs_from_target = false, differ = false, narrow = false;
  for (const Tensor* x : operands) {
    if (!x->defined() || !is_floating(x->dtype())) continue;
    const DType t = x->dtype();
    if (t == DType::f64) return kKeep;
    if (first == kKeep) first = t;
    differs_from_target |= t != target;
    differ |= t != first;
    narrow |= t != DType::f32;
  }
  const bool cast = rule == Rule::low ? differs_from_target : rule == Rule::full ? narrow : differ;
  return cast ? target : kKeep;
}

Tensor detail::cast_operand(const Tensor& x, DType to) {
  if (!x.defined() || !is_floating(x.dtype()) || x.dtype() == to) return x;
  const bool parameter = x.requires_grad() && !x.node();
  return parameter && to != DType::f32 ? cached(x, to) : cast(x, to);
}

}  // namespace amp
}  // namespace pinion::nn
