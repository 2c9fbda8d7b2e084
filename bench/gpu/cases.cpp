// SPDX-License-Identifier: Apache-2.0
// Kernels are called by themselves, on operands made once; the steps of training go through the
// ordinary API.
#include "pinion/bench/gpu/cases.h"

#include <algorithm>
#include <memory>

#include "pinion/kernels/cuda/context.cuh"
#include "pinion/kernels/kernels.h"
#include "pinion/kernels/relational_memory.h"
#include "pinion/nn/fused_mlp.h"
#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/adam.h"
#include "pinion/runtime/autograd.h"

namespace pinion::bench {
namespace {

using Run = std::function<void()>;
using Make = std::function<Run()>;

constexpr Device kGpu{Device::Kind::cuda, 0};
const CudaContext& gpu() { return cuda_context(0); }

Tensor noise(const Shape& shape, uint32_t stream, DType dtype = DType::f32) {
  Tensor t(shape, DType::f32, kGpu);
  kernels::normal(gpu(), t.mut(), {17, stream, 0}, 0, 1);
  if (dtype == DType::f32) return t;
  Tensor narrow(shape, dtype, kGpu);
  kernels::cast(gpu(), t, narrow.mut());
  return narrow;
}

Tensor room(const Shape& shape, DType dtype = DType::f32) { return Tensor(shape, dtype, kGpu); }

Tensor class_ids(int64_t n, int64_t classes) {
  std::vector<int64_t> ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int64_t>(i * 7919 % static_cast<size_t>(classes));
  return Tensor::of(ids, {n}).to(kGpu);
}

// The list under construction.
struct Cases {
  std::vector<GpuCase> all;
  int64_t most;  // every extent is clipped to this

  int64_t clipped(int64_t extent) const { return std::min(extent, most); }
  Shape clipped(const Shape& shape) const {
    Shape out = shape;
    for (int i = 0; i < shape.rank(); ++i) out = out.with(i, clipped(shape[i]));
    return out;
  }
  // Of extents that multiply the work of others: a few in a miniature.
  int64_t few(int64_t extent) const { return std::min(extent, std::max<int64_t>(most / 32, 1)); }
  void push_back(GpuCase c) { all.push_back(std::move(c)); }
};

std::string id_of(const std::string& what, DType dtype, const Shape& shape) {
  std::string id = what + "/" + name_of(dtype) + "/";
  for (int i = 0; i < shape.rank(); ++i) id += (i ? "x" : "") + std::to_string(shape[i]);
  return id;
}

// A kernel that moves memory: `moved` blocks of this shape at least, `held` of them in a set.
void add_mover(Cases& list, const std::string& what, DType dtype, const Shape& shape, double moved,
               int held, Make make) {
  const int64_t block = shape.numel() * size_of(dtype);
  list.push_back({id_of(what, dtype, shape), moved * static_cast<double>(block), 0, held * block,
                  std::move(make)});
}

void add_elementwise(Cases& list) {
  const Shape shape{list.clipped(int64_t{1} << 26)};
  for (const DType t : {DType::f32, DType::bf16}) {
    add_mover(list, "add", t, shape, 3, 3, [=]() -> Run {
      return [a = noise(shape, 1, t), b = noise(shape, 2, t), y = room(shape, t)]() mutable {
        kernels::add(gpu(), a, b, y.mut());
      };
    });
    add_mover(list, "gelu_forward", t, shape, 2, 2, [=]() -> Run {
      return [x = noise(shape, 1, t), y = room(shape, t)]() mutable {
        kernels::gelu_forward(gpu(), x, false, y.mut());
      };
    });
    add_mover(list, "dropout", t, shape, 2, 2, [=]() -> Run {
      return [x = noise(shape, 1, t), y = room(shape, t)]() mutable {
        kernels::dropout(gpu(), x, 0.1, {17, 3, 0}, y.mut());
      };
    });
  }
}

void add_rows(Cases& list) {
  for (const DType t : {DType::f32, DType::bf16})
    for (const Shape whole : {Shape{65536, 512}, Shape{4096, 8192}}) {
      const Shape shape = list.clipped(whole);
      const int64_t n = shape[1];
      add_mover(list, "softmax_forward", t, shape, 2, 2, [=]() -> Run {
        return [x = noise(shape, 1, t), y = room(shape, t)]() mutable {
          kernels::softmax_forward(gpu(), x, y.mut());
        };
      });
      add_mover(list, "layer_norm_forward", t, shape, 2, 2, [=]() -> Run {
        return [x = noise(shape, 1, t), g = noise({n}, 2, t), b = noise({n}, 3, t),
                y = room(shape, t), mean = room({shape[0]}), rstd = room({shape[0]})]() mutable {
          kernels::LayerNormArgs args{.eps = 1e-5, .x = x, .gamma = g, .beta = b};
          args.y = y.mut(), args.mean = mean.mut(), args.spread = rstd.mut();
          kernels::layer_norm_forward(gpu(), args);
        };
      });
      add_mover(list, "layer_norm_backward", t, shape, 3, 3, [=]() -> Run {
        return [x = noise(shape, 1, t), g = noise({n}, 2, t),
                mean = Tensor::zeros({shape[0]}, DType::f32, kGpu),
                rstd = Tensor::full({shape[0]}, 1, DType::f32, kGpu), dy = noise(shape, 4, t),
                dx = room(shape, t), dg = room({n}, t), db = room({n}, t)]() mutable {
          kernels::LayerNormArgs args{.x = x, .gamma = g};
          args.mean = mean.mut(), args.spread = rstd.mut();
          args.dy = dy, args.dx = dx.mut(), args.dgamma = dg.mut(), args.dbeta = db.mut();
          kernels::layer_norm_backward(gpu(), args);
        };
      });
    }
  struct Logits {
    int64_t tokens, classes;
    DType dtype;
  };
  for (const Logits& of : {Logits{8192, 32768, DType::bf16}, Logits{944, 761, DType::f32}}) {
    const int64_t n = list.clipped(of.tokens), classes = list.clipped(of.classes);
    add_mover(list, "cross_entropy", of.dtype, {n, classes}, 2, 2, [=, t = of.dtype]() -> Run {
      return [x = noise({n, classes}, 1, t), ids = class_ids(n, classes), loss = room({}),
              total = room({}), dx = room({n, classes}, t)]() mutable {
        kernels::cross_entropy(gpu(), x, ids, {}, -100, 0, loss.mut(), total.mut(), dx.mut());
      };
    });
  }
}

void add_reductions(Cases& list) {
  const Shape shape{list.clipped(int64_t{1} << 26)};
  add_mover(list, "sum", DType::f32, shape, 1, 1, [=]() -> Run {
    return [x = noise(shape, 1), y = room({})]() mutable {
      const ConstView folded(x.view().data, {1, x.numel(), 1}, x.dtype());
      kernels::sum_axis(gpu(), folded, 1, View(y.mut().data, {1, 1}, y.dtype()));
    };
  });
  add_mover(list, "squares_and_nonfinite", DType::f32, shape, 1, 1, [=]() -> Run {
    return [x = noise(shape, 1), out = room({2}, DType::f64)]() mutable {
      kernels::squares_and_nonfinite(gpu(), x, out.mut());
    };
  });
}

// Reads w, dw, m, v (and vmax); writes all but dw.
void add_adam(Cases& list) {
  const Shape shape{list.clipped(78'500'000)};  // parameters of the report generator
  for (const bool amsgrad : {false, true})
    add_mover(list, amsgrad ? "adam_amsgrad" : "adam", DType::f32, shape, amsgrad ? 9 : 7,
              amsgrad ? 5 : 4, [=]() -> Run {
                const auto zeros = [&] { return Tensor::zeros(shape, DType::f32, kGpu); };
                return [w = noise(shape, 1), dw = noise(shape, 2), m = zeros(), v = zeros(),
                        vmax = amsgrad ? zeros() : Tensor(), step = int64_t{0}]() mutable {
                  kernels::adam_step(gpu(), w.mut(), dw, m.mut(), v.mut(),
                                     vmax.defined() ? vmax.mut() : View{}, {.step = ++step});
                };
              });
}

void add_products(Cases& list) {
  struct Product {
    int64_t m, k, n;
    DType dtype;
  };
  for (const Product& of : {Product{8192, 8192, 8192, DType::bf16},
                            {4096, 4096, 4096, DType::bf16},
                            {944, 512, 512, DType::bf16},
                            {4096, 4096, 4096, DType::f32}}) {
    const Product p{list.clipped(of.m), list.clipped(of.k), list.clipped(of.n), of.dtype};
    const auto size = static_cast<double>(size_of(p.dtype));
    const int64_t elements = p.m * p.k + p.n * p.k + p.m * p.n;
    list.push_back({id_of("linear", p.dtype, {p.m, p.k, p.n}), size * static_cast<double>(elements),
                    2.0 * static_cast<double>(p.m) * static_cast<double>(p.k * p.n),
                    elements * size_of(p.dtype), [p]() -> Run {
                      return [x = noise({p.m, p.k}, 1, p.dtype), w = noise({p.n, p.k}, 2, p.dtype),
                              y = room({p.m, p.n}, p.dtype)]() mutable {
                        kernels::linear_forward(gpu(), x, w, {}, Activation::none, y.mut(), {});
                      };
                    }});
  }
}

// Five hidden layers of `width` and 16 outputs without biases, mean squared error, bf16: all
// gradients, or the outputs alone.
struct MlpCase {
  int64_t width, rows;
  bool train;

  static constexpr int kLayers = 6;
  static constexpr int64_t kOut = 16;
  int64_t weights() const { return (kLayers - 1) * width * width + width * kOut; }
  // Forward, weight gradients, and gradients of all inputs but the first layer's.
  double flops() const {
    const int64_t products = train ? 3 * weights() - width * width : weights();
    return 2.0 * static_cast<double>(rows) * static_cast<double>(products);
  }
  int64_t bytes() const { return rows * (width * 2 + kOut * 4); }  // x, and target or y in f32
};

Run make_mlp(const MlpCase& c) {
  kernels::FusedMlpArgs args;
  args.layers = MlpCase::kLayers;
  args.rows = c.rows;
  std::vector<Tensor> kept{noise({c.rows, c.width}, 1, DType::bf16), noise({c.rows, 16}, 2),
                           room({})};
  args.width[0] = c.width;
  args.x = kept[0];
  if (c.train) {
    args.target = kept[1];
    args.loss_value = kept[2].mut();
  } else {
    args.y = kept[1].mut();
  }
  for (int l = 0; l < args.layers; ++l) {
    const int64_t out = l + 1 < args.layers ? c.width : MlpCase::kOut;
    args.width[l + 1] = out;
    kept.push_back(noise({out, c.width}, static_cast<uint32_t>(3 + l), DType::bf16));
    args.weight[l] = kept.back();
    if (!c.train) continue;
    kept.push_back(room({out, c.width}));
    args.dweight[l] = kept.back().mut();
  }
  return [args, kept = std::move(kept), train = c.train] {
    train ? kernels::fused_mlp_train(gpu(), args) : kernels::fused_mlp_forward(gpu(), args);
  };
}

void add_fused_mlp(Cases& list) {
  for (MlpCase c : {MlpCase{64, 1 << 20, true}, MlpCase{64, 1 << 14, true},
                    MlpCase{128, 1 << 20, true}, MlpCase{64, 1 << 20, false}}) {
    c.rows = list.clipped(c.rows);
    list.push_back(
        {id_of(c.train ? "fused_mlp_train" : "fused_mlp_forward", DType::bf16, {c.rows, c.width}),
         static_cast<double>(c.bytes()), c.flops(), c.bytes(), [c] { return make_mlp(c); }});
  }
}

struct SimpleNet : nn::Module {
  nn::Linear fc1{10, 32}, fc2{32, 2};
  Tensor operator()(const Tensor& x) const { return fc2(fc1(x, Activation::relu)); }
  void fields(nn::Fields& f) override { f("fc1", fc1), f("fc2", fc2); }
};

// One step of the toy: batch 32, Adam, cross-entropy, through autograd; nobody waits for the loss.
struct ToyStep {
  SimpleNet model;
  std::unique_ptr<optim::Adam> adam;
  Tensor x = noise({1000, 10}, 1), y = class_ids(1000, 2);
  int64_t at = 0;

  ToyStep() {
    model.to(kGpu);
    adam = std::make_unique<optim::Adam>(model.named_parameters());
  }
  void operator()() {
    backward(nn::cross_entropy(model(x.rows(at, at + 32)), y.rows(at, at + 32)));
    adam->step();
    adam->zero_grad();
    at = at + 64 <= 1000 ? at + 32 : 0;
  }
};

// Batch norm with what follows it in a residual block, y = relu(norm(x) + residual), both ways. x
// is read once more when its statistics are known; x, y and dy when the sums of the gradients are.
void add_batch_norm(Cases& list) {
  const Shape shape{list.few(32), list.few(56), list.few(56), list.clipped(256)};
  const DType t = DType::bf16;
  add_mover(list, "batch_norm_step", t, shape, 1 + 3 + 3 + 5, 6, [=]() -> Run {
    const int64_t channels = shape[3];
    const auto each = [&](double value) {
      return Tensor::full({1, channels}, value, DType::f32, kGpu);
    };
    return [x = noise(shape, 1, t), residual = noise(shape, 2, t), y = room(shape, t),
            dy = noise(shape, 3, t), dx = room(shape, t), dresidual = room(shape, t),
            mean = each(0), var = each(1), gamma = each(1), beta = each(0), dgamma = each(0),
            dbeta = each(0), sums = room({2, 1, channels})]() mutable {
      const kernels::BatchNorm b{.relu = true};
      const auto flat = [](View v) { return View(v.data, {v.numel()}, v.dtype); };
      kernels::batch_norm_statistics(gpu(), x, b, mean.mut(), var.mut(), {}, {}, {});
      kernels::batch_norm_apply(gpu(), x, mean, var, flat(gamma.mut()), flat(beta.mut()), residual,
                                b, y.mut());
      kernels::batch_norm_backward_sums(gpu(), x, mean, var, y, dy, b, sums.mut(),
                                        flat(dgamma.mut()), flat(dbeta.mut()));
      kernels::batch_norm_backward(gpu(), x, mean, var, flat(gamma.mut()), y, dy, sums, b, dx.mut(),
                                   dresidual.mut());
    };
  });
}

// Self-attention of 16 reports: 8 heads 64 wide, dropout, a projection's q, k and v in one block.
Run make_attention(int64_t batch, int64_t tokens, bool causal, bool train) {
  constexpr int64_t kHeads = 8, kWidth = 64, kRow = 3 * kHeads * kWidth;
  const DType t = DType::bf16;
  const Shape packed{batch, tokens, kRow}, single{batch, tokens, kHeads * kWidth};
  return [=, qkv = noise(packed, 1, t), y = room(single, t), dy = noise(single, 2, t),
          dqkv = room(packed, t),
          lse = Tensor::full({batch, kHeads, tokens}, 5, DType::f32, kGpu)]() mutable {
    const auto part = [&](const Tensor& x, int64_t which) {
      const int64_t at = which * kHeads * kWidth * size_of(t);
      return kernels::BasicHeads<const void>{
          {static_cast<const char*>(x.view().data) + at, single, t}, kRow};
    };
    const auto result = [&](Tensor& x, int64_t which) {
      const int64_t at = which * kHeads * kWidth * size_of(t);
      return kernels::BasicHeads<void>{{static_cast<char*>(x.mut().data) + at, single, t}, kRow};
    };
    kernels::AttentionArgs args{.batch = batch, .heads = kHeads, .queries = tokens, .keys = tokens};
    args.width = kWidth, args.causal = causal, args.scale = 0.125, args.dropout = 0.1;
    args.key = {17, 3, 0};
    args.q = part(qkv, 0), args.k = part(qkv, 1), args.v = part(qkv, 2);
    args.y = {y.mut(), kHeads * kWidth}, args.lse = lse.mut();
    if (!train) return kernels::attention_forward(gpu(), args);
    args.dy = {dy, kHeads * kWidth};
    args.dq = result(dqkv, 0), args.dk = result(dqkv, 1), args.dv = result(dqkv, 2);
    kernels::attention_backward(gpu(), args);
  };
}

// Over patches of images, and over words, which see those before them.
void add_attention(Cases& list) {
  for (const int64_t whole : {98, 60})
    for (const bool train : {false, true}) {
      const int64_t batch = list.few(16), tokens = list.clipped(whole);
      const Shape shape{batch, tokens, 512};
      const int64_t block = shape.numel() * size_of(DType::bf16);
      const double product = 2.0 * static_cast<double>(batch * tokens) * static_cast<double>(512);
      list.push_back({id_of(train ? "attention_backward" : "attention_forward", DType::bf16, shape),
                      static_cast<double>((train ? 8 : 4) * block),
                      (train ? 5 : 2) * product * static_cast<double>(tokens), 8 * block,
                      [=] { return make_attention(batch, tokens, whole == 60, train); }});
    }
}

// The relational memory's walk through the words of reports, and back where it trains.
Run make_memory(const Shape& shape, bool train) {
  constexpr int64_t kHeads = 8;
  const int64_t batch = shape[0], steps = shape[1], slots = shape[2], width = shape[3];
  const int64_t rows = steps * batch * slots;
  std::vector<Tensor> kept;
  const auto filled = [&](const Shape& s) {
    kept.push_back(Tensor::full(s, 0.01, DType::f32, kGpu));
    return kept.back().mut();
  };
  const auto linear = [&](int64_t out) {
    return kernels::RelationalMemoryArgs::Linear{filled({out, width}), filled({out})};
  };
  kernels::RelationalMemoryArgs args{batch, steps, slots, kHeads, width, 0.1, {17, 3, 0}};
  args.in = linear(3 * width), args.out = linear(width), args.first = linear(width);
  args.second = linear(width), args.gates = linear(2 * width);
  args.words = filled({batch, steps, 4 * width}), args.y = filled({batch, steps, slots * width});
  args.memory = filled({rows + batch * slots, width}), args.projected = filled({rows, 3 * width});
  args.gated = filled({rows, 2 * width});
  args.probabilities = filled({rows, 2 * kHeads * (slots + 1)});
  for (View* view :
       {&args.attended, &args.sum, &args.hidden, &args.extra, &args.tanh_memory, &args.tanh_next})
    *view = filled({rows, width});
  kernels::RelationalMemoryArgs back = args;
  if (train) {
    back.dy = filled({batch, steps, slots * width}), back.dwords = filled(args.words.shape);
    back.dhidden = filled({rows, width});
  }
  return [args, back, train, kept = std::move(kept)] {
    kernels::relational_memory_forward(gpu(), args);
    if (train) kernels::relational_memory_backward(gpu(), back);
  };
}

// Of 16 reports of 59 words, 3 slots of 512 features. Of the memory's rows 12 widths are kept, each
// way moves them once; what limits it is that words follow each other.
void add_relational_memory(Cases& list) {
  const Shape shape{list.few(16), list.few(59), 3, 8 * list.few(64)};
  const auto words = static_cast<double>(shape[0] * shape[1]),
             width = static_cast<double>(shape[3]);
  const double rows = words * 3, products = 8 * width * width;
  for (const bool train : {false, true}) {
    const double ways = train ? 2 : 1;
    const double bytes = ways * 4 * (products + words * 4 * width + rows * 13 * width);
    list.push_back(
        {id_of(train ? "relational_memory_step" : "relational_memory_forward", DType::f32, shape),
         bytes, ways * 2 * rows * products, static_cast<int64_t>(bytes),
         [=] { return make_memory(shape, train); }});
  }
}

// Whole runs of the toy in one launch: 5 epochs of 1000 samples in batches of 32, 160 steps of each
// model. A run goes on with the weights that the last one left.
void add_toy_runs(Cases& list) {
  for (const int64_t whole : {int64_t{1}, int64_t{1056}}) {
    const int64_t models = list.few(whole);
    const int64_t samples = list.clipped(1000), epochs = 5;
    list.push_back(
        {id_of("toy_train", DType::f32, {models, epochs, samples, 10}), 0, 0, 0, [=]() -> Run {
           const Tensor rates = Tensor::full({models}, 1e-3, DType::f64, kGpu);
           return [=, x = noise({samples, 10}, 1), target = class_ids(samples, 2),
                   w1 = noise({models, 32, 10}, 2), b1 = noise({models, 32}, 3),
                   w2 = noise({models, 2, 32}, 4), b2 = noise({models, 2}, 5),
                   seeds = class_ids(models, models), loss = room({models, epochs}, DType::f64),
                   correct = room({models, epochs}, DType::i64)]() mutable {
             kernels::ToyTrainArgs args{.x = x, .target = target, .w1 = w1.mut(), .b1 = b1.mut()};
             args.w2 = w2.mut(), args.b2 = b2.mut(), args.lr = rates, args.seed = seeds;
             args.epochs = epochs, args.batch = 32;
             args.loss = loss.mut(), args.correct = correct.mut();
             kernels::toy_train(gpu(), args);
           };
         }});
  }
}

// What the machine can do: the same bytes by the driver, and the shortest kernel.
void add_ceilings(Cases& list) {
  const Shape shape{list.clipped(int64_t{1} << 28)};
  add_mover(list, "ceiling_copy", DType::f32, shape, 2, 2, [=]() -> Run {
    return [x = noise(shape, 1), y = room(shape)]() mutable {
      PINION_REQUIRE(device,
                     cudaMemcpyAsync(y.mut().data, x.view().data,
                                     static_cast<size_t>(x.numel() * size_of(x.dtype())),
                                     cudaMemcpyDeviceToDevice, gpu().stream) == cudaSuccess,
                     "ceiling_copy: expected a copy on the device, got an error");
    };
  });
  list.push_back({id_of("ceiling_launch", DType::f32, {1}), 0, 0, 0, []() -> Run {
                    return [x = room({1})]() mutable { kernels::fill(gpu(), x.mut(), 0); };
                  }});
}

}  // namespace

std::string GpuCase::dtype() const {
  const size_t begin = id.find('/') + 1;
  return id.substr(begin, id.rfind('/') - begin);
}
std::string GpuCase::shape() const { return id.substr(id.rfind('/') + 1); }

std::vector<GpuCase> gpu_cases(int64_t most) {
  Cases list{{}, most};
  add_ceilings(list);
  add_elementwise(list);
  add_rows(list);
  add_reductions(list);
  add_adam(list);
  add_products(list);
  add_fused_mlp(list);
  add_batch_norm(list);
  add_attention(list);
  add_relational_memory(list);
  add_toy_runs(list);
  list.push_back({id_of("toy_step", DType::f32, {32, 10}), 0, 0, 0,
                  []() -> Run { return [toy = std::make_shared<ToyStep>()] { (*toy)(); }; }});
  return std::move(list.all);
}

}  // namespace pinion::bench
