// SPDX-License-Identifier: Apache-2.0
// Collectives against sums done by hand, and training on all ranks against training on one.
#include "pinion/accel/launch/self_check.h"

#include <cmath>
#include <numeric>

#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"

namespace pinion::accel {

namespace {

using dist::ProcessGroup;
using dist::ReduceOp;

constexpr int64_t kElements = 1000;  // of each tensor that travels

void expect(const char* what, const Tensor& got, const std::function<double(int64_t)>& wanted) {
  const std::vector<float> values = nn::cast(got.to(Device{}), DType::f32).values<float>();
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = wanted(static_cast<int64_t>(i));
    PINION_REQUIRE(desync, std::abs(values[i] - value) <= 1e-5 * (1 + std::abs(value)), what,
                   ": expected ", value, " at ", i, ", got ", static_cast<double>(values[i]));
  }
}

// Element i of rank r is r + i: small whole numbers, exact in every order of adding.
Tensor numbers(const ProcessGroup& group, int64_t count, DType dtype, Device device) {
  std::vector<float> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), static_cast<float>(group.rank()));
  return nn::cast(Tensor::of<float>(values, {count}), dtype).to(device);
}

void check_reductions(ProcessGroup& group, Device device) {
  const double n = group.size(), sum_of_ranks = n * (n - 1) / 2;
  for (const DType dtype : {DType::f32, DType::f64}) {
    Tensor x = numbers(group, kElements, dtype, device);
    group.all_reduce(x).wait();
    expect("all_reduce sum", x, [&](int64_t i) { return sum_of_ranks + n * double(i); });
    x = numbers(group, kElements, dtype, device);
    group.all_reduce(x, ReduceOp::mean).wait();
    expect("all_reduce mean", x, [&](int64_t i) { return (n - 1) / 2 + double(i); });
    x = numbers(group, kElements, dtype, device);
    group.all_reduce(x, ReduceOp::max).wait();
    expect("all_reduce max", x, [&](int64_t i) { return n - 1 + double(i); });
    x = numbers(group, kElements, dtype, device);
    group.all_reduce(x, ReduceOp::min).wait();
    expect("all_reduce min", x, [](int64_t i) { return double(i); });
  }
  Tensor part({kElements}, DType::f32, device);
  group.reduce_scatter(part, numbers(group, group.size() * kElements, DType::f32, device)).wait();
  expect("reduce_scatter", part,
         [&](int64_t i) { return sum_of_ranks + n * double(group.rank() * kElements + i); });
}

void check_moves(ProcessGroup& group, Device device) {
  const int last = group.size() - 1;
  Tensor x = numbers(group, kElements, DType::f32, device);
  group.broadcast(x, last).wait();
  expect("broadcast", x, [&](int64_t i) { return double(last + i); });
  Tensor all({group.size() * kElements}, DType::f32, device);
  group.all_gather(all, numbers(group, kElements, DType::f32, device)).wait();
  expect("all_gather", all, [](int64_t i) {
    const int64_t rank = i / kElements;
    return double(rank + i % kElements);
  });
  group.all_to_all(all, numbers(group, group.size() * kElements, DType::f32, device)).wait();
  expect("all_to_all", all, [&](int64_t i) {
    const int64_t rank = i / kElements;
    return double(rank + group.rank() * kElements + i % kElements);
  });
  group.barrier().wait();
}

// One linear layer learns y = 2 x + 3 from samples [begin, end) of `total`, with the mean gradient
// of `group`'s ranks where there is one. Returns weight and bias.
std::pair<float, float> train(int64_t begin, int64_t end, int64_t total, Device device,
                              ProcessGroup* group) {
  std::vector<float> x, y;
  for (int64_t i = begin; i < end; ++i) {
    x.push_back(2 * static_cast<float>(i) / static_cast<float>(total) - 1);
    y.push_back(2 * x.back() + 3);
  }
  nn::Linear layer(1, 1);
  for (Tensor p : layer.parameters()) p.copy_(Tensor::zeros(p.shape()));
  layer.to(device);
  optim::Sgd optimizer(layer.named_parameters(), {.lr = 0.4});
  const Tensor in = Tensor::of<float>(x, {end - begin, 1}).to(device);
  const Tensor out = Tensor::of<float>(y, {end - begin, 1}).to(device);
  for (int step = 0; step < 100; ++step) {
    backward(nn::mse_loss(layer(in), out));
    if (group)
      for (const Tensor& p : layer.parameters()) group->all_reduce(p.grad(), ReduceOp::mean).wait();
    optimizer.step();
    optimizer.zero_grad();
  }
  const auto value = [](const Tensor& t) { return t.to(Device{}).values<float>()[0]; };
  return {value(layer.weight), value(layer.bias)};
}

void check_training(ProcessGroup& group, Device device) {
  constexpr int64_t kBatch = 8;
  const int64_t total = kBatch * group.size(), begin = kBatch * group.rank();
  const auto [weight, bias] = train(begin, begin + kBatch, total, device, &group);
  const auto [one_weight, one_bias] = train(0, total, total, device, nullptr);
  const bool same = std::abs(weight - one_weight) < 1e-4 && std::abs(bias - one_bias) < 1e-4;
  PINION_REQUIRE(desync, same, "training: expected weight and bias of one rank, ",
                 static_cast<double>(one_weight), " and ", static_cast<double>(one_bias), ", got ",
                 static_cast<double>(weight), " and ", static_cast<double>(bias));
  PINION_REQUIRE(desync, std::abs(weight - 2) < 1e-2 && std::abs(bias - 3) < 1e-2,
                 "training: expected to learn y = 2 x + 3, got ", static_cast<double>(weight),
                 " x + ", static_cast<double>(bias));
}

}  // namespace

void self_check(ProcessGroup& group, Device device,
                const std::function<void(std::string_view)>& say) {
  const auto passed = [&](std::string_view what) {
    group.barrier().wait();
    if (group.rank() == 0) say(what);
  };
  check_reductions(group, device);
  passed("all_reduce and reduce_scatter add right");
  check_moves(group, device);
  passed("broadcast, all_gather, all_to_all and barrier bring the right data");
  check_training(group, device);
  passed("training on all ranks gives what one rank with the whole batch gives");
}

}  // namespace pinion::accel
