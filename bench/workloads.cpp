// SPDX-License-Identifier: Apache-2.0
// Everything goes through the ordinary API: tensors, recorded operations, modules and optimizers.
#include "pinion/bench/workloads.h"

#include <cmath>
#include <memory>

#include "pinion/accel/data/data_loader.h"
#include "pinion/kernels/kernels.h"
#include "pinion/nn/fused_mlp.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/adam.h"
#include "pinion/runtime/autograd.h"

namespace pinion::bench {
namespace {

using Run = std::function<void()>;
using Unary = Tensor (*)(const Tensor&);

Tensor noise(const Shape& shape, uint32_t stream, DType dtype = DType::f32) {
  Tensor t(shape);
  on({}, [&](auto& ctx) { kernels::normal(ctx, t.mut(), {17, stream, 0}, 0, 1); });
  return dtype == DType::f32 ? t : nn::cast(t, dtype);
}

Tensor class_ids(int64_t n, int64_t classes) {
  std::vector<int64_t> ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i * 7919 % size_t(classes));
  return Tensor::of(ids, {n});
}

struct Size {
  const char* name;
  int64_t floats;
};
constexpr Size kSizes[] = {
    {"64KiB", 1 << 14}, {"1MiB", 1 << 18}, {"16MiB", 1 << 22}, {"64MiB", 1 << 24}};

void add_unary(std::vector<Workload>& list, const char* name, Unary f) {
  for (const Size& s : kSizes)
    list.push_back({std::string(name) + "/" + s.name, 8.0 * double(s.floats), 0, [f, s]() -> Run {
                      return [f, x = noise({s.floats}, 1)] {
                        const NoGrad no_grad;
                        f(x);
                      };
                    }});
}

void add_elementwise(std::vector<Workload>& list) {
  add_unary(list, "relu", nn::relu);
  add_unary(list, "exp", nn::exp);
  add_unary(list, "gelu", [](const Tensor& x) { return nn::gelu(x); });
  add_unary(list, "gelu_tanh", [](const Tensor& x) { return nn::gelu(x, nn::GeluForm::tanh); });
  add_unary(list, "sigmoid", nn::sigmoid);
  add_unary(list, "tanh", nn::tanh);
  add_unary(list, "sum", [](const Tensor& x) { return nn::sum(x); });
  add_unary(list, "softmax", [](const Tensor& x) {
    return nn::softmax(x.alias({x.numel() / 512, 512}));
  });
  for (const Size& s : kSizes)
    list.push_back({std::string("add/") + s.name, 12.0 * double(s.floats), 0, [s]() -> Run {
                      return [a = noise({s.floats}, 1), b = noise({s.floats}, 2)] {
                        const NoGrad no_grad;
                        a + b;
                      };
                    }});
}

void add_rows(std::vector<Workload>& list) {
  for (const Size& s : kSizes) {
    const Shape shape{s.floats / 512, 512};
    list.push_back(
        {std::string("layer_norm/") + s.name, 8.0 * double(s.floats), 0, [shape]() -> Run {
           return [x = noise(shape, 1), g = noise({512}, 2), b = noise({512}, 3)] {
             const NoGrad no_grad;
             nn::layer_norm(x, g, b);
           };
         }});
    list.push_back(
        {std::string("layer_norm_fwd_bwd/") + s.name, 24.0 * double(s.floats), 0, [shape]() -> Run {
           return [x = noise(shape, 1).requires_grad(true), g = noise({512}, 2).requires_grad(true),
                   b = noise({512}, 3).requires_grad(true), dy = noise(shape, 4)]() mutable {
             backward(nn::layer_norm(x, g, b), dy);
             x.set_grad({}), g.set_grad({}), b.set_grad({});
           };
         }});
    list.push_back({std::string("adam/") + s.name, 28.0 * double(s.floats), 0, [s]() -> Run {
                      Tensor w = noise({s.floats}, 1).requires_grad(true);
                      auto adam = std::make_shared<optim::Adam>(
                          std::vector<nn::NamedTensor>{{"w", w}}, optim::AdamOptions{});
                      w.set_grad(noise({s.floats}, 2));
                      return [w, adam] { adam->step(); };
                    }});
  }
  for (const int64_t vocabulary : {761, 5000})
    list.push_back({"cross_entropy/960x" + std::to_string(vocabulary),
                    8.0 * 960 * double(vocabulary), 0, [vocabulary]() -> Run {
                      return [x = noise({960, vocabulary}, 1).requires_grad(true),
                              t = class_ids(960, vocabulary)]() mutable {
                        backward(nn::cross_entropy(x, t));
                        x.set_grad({});
                      };
                    }});
}

void add_gemm(std::vector<Workload>& list) {
  struct Gemm {
    int64_t m, k, n;
  };
  for (const auto& [dtype, label] : {std::pair{DType::f32, "f32"}, {DType::bf16, "bf16"}})
    for (const Gemm g : {Gemm{32, 10, 32},
                         {32, 32, 2},
                         {256, 64, 64},
                         {512, 512, 512},
                         {960, 512, 512},
                         {960, 512, 2048},
                         {1024, 1024, 1024},
                         {2048, 2048, 2048}})
      list.push_back({std::string("linear_") + label + "/" + std::to_string(g.m) + "x" +
                          std::to_string(g.k) + "x" + std::to_string(g.n),
                      0, 2.0 * double(g.m * g.k * g.n), [g, d = dtype]() -> Run {
                        return [x = noise({g.m, g.k}, 1, d), w = noise({g.n, g.k}, 2, d)] {
                          const NoGrad no_grad;
                          nn::linear(x, w);
                        };
                      }});
}

void add_engine(std::vector<Workload>& list) {
  list.push_back({"tiny_op_no_grad/1000", 0, 0, []() -> Run {
                    return [x = noise({4}, 1)] {
                      const NoGrad no_grad;
                      for (int i = 0; i < 1000; ++i) nn::relu(x);
                    };
                  }});
  // What of the next row are kernels: the rest is the engine.
  list.push_back({"tiny_kernels/100", 0, 0, []() -> Run {
                    return [x = noise({4}, 1), y = noise({4}, 2)]() mutable {
                      for (int i = 0; i < 200; ++i)
                        on({}, [&](auto& ctx) { kernels::affine(ctx, x, 1.01, 0, y.mut()); });
                    };
                  }});
  list.push_back({"tiny_op_fwd_bwd/100", 0, 0, []() -> Run {
                    return [x = noise({4}, 1).requires_grad(true), dy = noise({4}, 2)]() mutable {
                      Tensor y = x * 1.01;
                      for (int i = 1; i < 100; ++i) y = y * 1.01;
                      backward(y, dy);
                      x.set_grad({});
                    };
                  }});
}

struct SimpleNet : nn::Module {
  nn::Linear fc1{10, 32}, fc2{32, 2};
  Tensor operator()(const Tensor& x) const { return fc2(fc1(x, Activation::relu)); }
  void fields(nn::Fields& f) override { f("fc1", fc1), f("fc2", fc2); }
};

struct Toy {
  SimpleNet model;
  optim::Adam adam{model.named_parameters()};
  Tensor x = noise({1000, 10}, 1), y = class_ids(1000, 2);
  accel::DataLoader<accel::TensorDataset> loader{accel::TensorDataset(x, y),
                                                 {.batch_size = 32, .shuffle = true}};
  double loss_sum = 0;

  void step(const Tensor& inputs, const Tensor& labels) {
    const Tensor loss = nn::cross_entropy(model(inputs), labels);
    backward(loss);
    adam.step();
    adam.zero_grad();
    loss_sum += loss.item();
  }
};

void add_toy(std::vector<Workload>& list) {
  list.push_back({"toy_rows/160_steps", 0, 0, []() -> Run {
                    return [toy = std::make_shared<Toy>()] {
                      for (int i = 0; i < 160; ++i) {
                        const int64_t at = i % 32 * 32, end = std::min<int64_t>(1000, at + 32);
                        toy->step(toy->x.rows(at, end), toy->y.rows(at, end));
                      }
                    };
                  }});
  list.push_back({"toy_loader/160_steps", 0, 0, []() -> Run {
                    return [toy = std::make_shared<Toy>()] {
                      for (int epoch = 0; epoch < 5; ++epoch)
                        for (auto& [x, y] : toy->loader) toy->step(x, y);
                    };
                  }});
}

// 4 hidden ReLU layers of `width`, 16 outputs, MSE, batch 65536: training without the optimizer.
void add_fused_mlp(std::vector<Workload>& list) {
  for (const int64_t width : {64, 128})
    for (const auto& [dtype, label] : {std::pair{DType::f32, "f32"}, {DType::bf16, "bf16"}}) {
      const double weights = 4.0 * double(width * width) + 16.0 * double(width);
      const double flops = 2.0 * 65536 * (3 * weights - double(width * width));
      list.push_back({std::string("fused_mlp_") + label + "/" + std::to_string(width), 0, flops,
                      [width, d = dtype]() -> Run {
                        auto model = std::make_shared<nn::FusedMlp>(
                            std::vector<int64_t>{width, width, width, width, width, 16});
                        return [model, x = noise({65536, width}, 1, d), t = noise({65536, 16}, 2)] {
                          backward(model->mse_loss(x, t));
                          for (Tensor& p : model->parameters()) p.set_grad({});
                        };
                      }});
    }
}

}  // namespace

const std::vector<Workload>& workloads() {
  static const std::vector<Workload> list = [] {
    std::vector<Workload> all;
    add_engine(all);
    add_toy(all);
    add_elementwise(all);
    add_rows(all);
    add_gemm(all);
    add_fused_mlp(all);
    add_report_steps(all);
    return all;
  }();
  return list;
}

}  // namespace pinion::bench
