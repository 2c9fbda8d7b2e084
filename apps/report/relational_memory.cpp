// SPDX-License-Identifier: Apache-2.0
// The memory's equations, one step after the other, and as one op around the kernels' loop.
#include "pinion/apps/report/relational_memory.h"

#include "pinion/kernels/kernels.h"
#include "pinion/kernels/relational_memory.h"
#include "pinion/nn/ops_support.h"
#include "pinion/runtime/autograd.h"

namespace pinion::report {

namespace {

using kernels::RelationalMemoryArgs;

// The parameters in the order of the op's inputs, behind the words.
enum Parameter : size_t {
  kQuery,
  kQueryBias,
  kKey,
  kKeyBias,
  kValue,
  kValueBias,
  kOut,
  kOutBias,
  kFirst,
  kFirstBias,
  kSecond,
  kSecondBias,
  kWord,
  kWordBias,
  kGates,
  kGatesBias,
};
constexpr int64_t kMostWords = 8192;                         // more than there are positions
constexpr size_t kJoined[] = {kQuery, kKey, kValue, kWord};  // what are rows of one matrix

// What one call of the op keeps until its backward pass.
struct Call {
  RelationalMemoryArgs args;
  Tensor words;         // [B,T,C]
  Tensors parameters;   // by Parameter
  Tensor weight, bias;  // [5C,C], [5C]: those of kJoined
  Tensor projected;     // [B,T,4C]: of the words
  Tensor block;         // the views of args

  int64_t rows() const { return args.steps * args.batch * args.slots; }
  template <class F>
  void run(const F& f) const {
    on(words.device(), f);
  }

  void join() {
    const int64_t width = args.width;
    weight = Tensor({5 * width, width}, words.dtype(), words.device());
    bias = Tensor({5 * width}, words.dtype(), words.device());
    const NoGrad no_grad;
    int64_t at = 0;
    for (const size_t i : kJoined) {
      const int64_t end = at + parameters[i].size(0);
      weight.rows(at, end).copy_(parameters[i]);
      bias.rows(at, end).copy_(parameters[i + 1]);
      at = end;
    }
  }

  // Memory for the views of args, each aligned as a tensor of its own would be.
  void allocate() {
    const int64_t n = rows(), width = args.width;
    const struct {
      View* view;
      int64_t rows, columns;
    } parts[] = {{&args.memory, n + args.batch * args.slots, width},
                 {&args.projected, n, 3 * width},
                 {&args.attended, n, width},
                 {&args.sum, n, width},
                 {&args.hidden, n, width},
                 {&args.extra, n, width},
                 {&args.tanh_memory, n, width},
                 {&args.gated, n, 2 * width},
                 {&args.tanh_next, n, width},
                 {&args.probabilities, n, 2 * args.heads * (args.slots + 1)}};
    constexpr int64_t kAlign = 64;
    int64_t total = 0;
    const auto take = [&](int64_t count) {
      total += (count + kAlign - 1) / kAlign * kAlign;
      return total;
    };
    for (const auto& part : parts) take(part.rows * part.columns);
    block = Tensor({total}, words.dtype(), words.device());
    total = 0;
    for (const auto& part : parts) {
      *part.view = {static_cast<char*>(block.mut().data) + total * size_of(words.dtype()),
                    {part.rows, part.columns},
                    words.dtype()};
      take(part.rows * part.columns);
    }
  }

  // The parameters, where they are now.
  void point() {
    const int64_t width = args.width;
    args.in = {weight.rows(0, 3 * width), bias.rows(0, 3 * width)};
    args.out = {parameters[kOut], parameters[kOutBias]};
    args.first = {parameters[kFirst], parameters[kFirstBias]};
    args.second = {parameters[kSecond], parameters[kSecondBias]};
    args.gates = {parameters[kGates], parameters[kGatesBias]};
    args.words = projected;
  }

  Tensor forward(const Tensor& initial) {
    const int64_t batch = args.batch, steps = args.steps, slots = args.slots, width = args.width;
    join();
    allocate();
    projected = Tensor({batch, steps, 4 * width}, words.dtype(), words.device());
    Tensor y({batch, steps, slots * width}, words.dtype(), words.device());
    point();
    args.y = y.mut();
    const View first = {args.memory.data, {batch * slots, width}, words.dtype()};
    run([&](auto& ctx) {
      kernels::cast(ctx, nn::with_shape(initial.view(), first.shape), first);
      kernels::linear_forward(ctx, nn::fold_rows(words.view()), weight.rows(width, 5 * width),
                              bias.rows(width, 5 * width), Activation::none,
                              nn::fold_rows(projected.mut()), {});
      kernels::relational_memory_forward(ctx, args);
    });
    return y;
  }

  // Of one linear layer: dw = dy^T x, db = sum of dy.
  void gradients(const ConstView& dy, const ConstView& x, Tensor dw, Tensor db) {
    run([&](auto& ctx) {
      kernels::matmul(ctx, dy, true, x, false, false, dw.mut());
      kernels::sum_rows(ctx, dy, db.mut());
    });
  }

  Tensors backward(const Tensor& dy) {
    const int64_t width = args.width;
    Tensor dwords = Tensor::like(projected);
    Tensor dhidden({rows(), width}, words.dtype(), words.device());
    point();
    args.dy = dy, args.dwords = dwords.mut(), args.dhidden = dhidden.mut();
    run([&](auto& ctx) { kernels::relational_memory_backward(ctx, args); });

    Tensors out{Tensor::like(words)};
    for (size_t i = 0; i < parameters.size(); ++i) out.push_back({});
    // A slot that is claimed must be written: those of the joined ones are left alone.
    const auto part = [&](size_t i, const View& d, const View& x) {
      for (const size_t p : {i, i + 1}) out[1 + p] = gradient_for(parameters[p]);
      gradients(d, x, out[1 + i], out[2 + i]);
    };
    part(kOut, args.tanh_next, args.attended);
    part(kFirst, args.dhidden, args.sum);
    part(kSecond, args.extra, args.hidden);
    part(kGates, args.gated, args.tanh_memory);
    joined_gradients(dwords, out);
    run([&](auto& ctx) {
      kernels::matmul(ctx, nn::fold_rows(dwords.view()), false, weight.rows(width, 5 * width),
                      false, false, nn::fold_rows(out[0].mut()));
    });
    return out;
  }

  // Rows of memory used queries, keys and values; words used keys, values and gates.
  void joined_gradients(const Tensor& dwords, Tensors& out) {
    const int64_t width = args.width;
    const Tensor dw = Tensor::like(weight), db = Tensor::like(bias);
    Tensor db_words({4 * width}, words.dtype(), words.device()), ours = db.rows(width, 5 * width);
    gradients(args.projected, {args.memory.data, {rows(), width}, words.dtype()},
              dw.rows(0, 3 * width), db.rows(0, 3 * width));
    run([&](auto& ctx) {
      kernels::fill(ctx, dw.rows(3 * width, 5 * width).mut(), 0);
      kernels::fill(ctx, db.rows(3 * width, 5 * width).mut(), 0);
      const ConstView d = nn::fold_rows(dwords.view());
      kernels::matmul(ctx, d, true, nn::fold_rows(words.view()), false, true,
                      dw.rows(width, 5 * width).mut());
      kernels::sum_rows(ctx, d, db_words.mut());
      kernels::add(ctx, ours, db_words, ours.mut());
    });
    int64_t at = 0;
    for (const size_t i : kJoined) {
      const int64_t end = at + parameters[i].size(0);
      out[1 + i] = dw.rows(at, end), out[2 + i] = db.rows(at, end);
      at = end;
    }
  }
};

}  // namespace

RelationalMemory::RelationalMemory(int64_t width, int64_t heads, int64_t slots)
    : attn(width, heads),
      mlp(width, width, width),
      W(width, 2 * width),
      U(width, 2 * width),
      slots_(slots),
      heads_(heads) {
  PINION_REQUIRE(usage, slots >= 1 && slots <= width,
                 "--rm_num_slots: expected from 1 to the width ", width, ", got ", slots);
}

Tensor RelationalMemory::initial(int64_t batch) const {
  const NoGrad no_grad;
  const int64_t width = W.weight.size(1);
  const auto filled = [&](const Shape& shape, double value) {
    return Tensor::full(shape, value, W.weight.dtype(), W.weight.device());
  };
  // A one in front of each row of zeros: read as rows that are one shorter, it moves right by one
  // from row to row.
  const Tensor shifted =
      nn::concat({filled({batch, slots_, 1}, 1), filled({batch, slots_, width}, 0)}, 2);
  const Tensor flat = nn::reshape(shifted, {batch, slots_ * (width + 1)});
  return nn::reshape(nn::slice(flat, 1, 0, slots_ * width), {batch, slots_, width});
}

Tensor RelationalMemory::step(const Tensor& memory, const Tensor& word) {
  const int64_t batch = memory.size(0), width = memory.size(2);
  const Tensor seen = nn::concat({memory, nn::reshape(word, {batch, 1, width})}, 1);
  Tensor next = memory + attn(memory, seen);
  next = next + mlp(next, Activation::relu);

  const Tensor of_word = nn::reshape(W(word), {batch, 1, 2 * width});
  Tensors each_slot;
  for (int64_t s = 0; s < slots_; ++s) each_slot.push_back(of_word);
  const Tensor gates = nn::concat(each_slot, 1) + U(nn::tanh(memory));
  const Tensor input = nn::sigmoid(nn::slice(gates, 2, 0, width));
  const Tensor forget = nn::sigmoid(nn::slice(gates, 2, width, 2 * width));
  return input * nn::tanh(next) + forget * memory;
}

Tensor RelationalMemory::operator()(const Tensor& words) {
  PINION_CHECK(words.rank() == 3 && words.size(1) > 0 && words.size(2) == W.weight.size(1) &&
                   words.size(1) <= kMostWords,
               "relational_memory: expected words [B,T,", W.weight.size(1), "], 1 to ", kMostWords,
               " a report, got ", words.shape());
  const DType dtype = W.weight.dtype();
  if (dtype != DType::f32 && dtype != DType::f64) return by_steps(words);
  // The same number of draws whatever the length: a checkpoint keeps one rank's count for all.
  const nn::AttentionOptions drawn = attn.draw(kMostWords);
  Call call;
  call.args = {.batch = words.size(0),
               .steps = words.size(1),
               .slots = slots_,
               .heads = heads_,
               .width = words.size(2),
               .dropout = drawn.dropout,
               .key = drawn.key,
               .keys = kMostWords};
  call.words = nn::cast(words, dtype);
  const nn::Linear* const layers[] = {&attn.linears[0],
                                      &attn.linears[1],
                                      &attn.linears[2],
                                      &attn.linears[3],
                                      &mlp.first,
                                      &mlp.second,
                                      &W,
                                      &U};
  Tensors inputs{call.words};
  for (const nn::Linear* layer : layers)
    for (const Tensor* parameter : {&layer->weight, &layer->bias}) {
      inputs.push_back(*parameter);
      call.parameters.push_back(*parameter);
    }
  Tensor y = call.forward(initial(words.size(0)));
  return record("relational_memory", std::move(y), inputs,
                [call = std::move(call)](const Tensor& dy) mutable { return call.backward(dy); });
}

Tensor RelationalMemory::by_steps(const Tensor& words) {
  const int64_t batch = words.size(0), steps = words.size(1), width = words.size(2);
  Tensor memory = initial(batch);
  Tensors all;
  for (int64_t t = 0; t < steps; ++t) {
    memory = step(memory, nn::reshape(nn::slice(words, 1, t, t + 1), {batch, width}));
    all.push_back(nn::reshape(memory, {batch, 1, slots_ * width}));
  }
  return nn::concat(all, 1);
}

void RelationalMemory::fields(nn::Fields& f) {
  f("attn", attn);
  f("mlp", mlp);
  f("W", W);
  f("U", U);
}

}  // namespace pinion::report
