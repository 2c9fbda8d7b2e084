// SPDX-License-Identifier: Apache-2.0
// What the tests of data parallelism share: a small model, made-up batches, and weights as one
// list.
#pragma once

#include <gmock/gmock.h>

#include <cmath>
#include <mutex>

#include "pinion/dist/group/local_group.h"
#include "pinion/dist/parallel/distributed_data_parallel.h"
#include "pinion/kernels/kernels.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"

namespace pinion::testing {

constexpr int64_t kFeatures = 6, kClasses = 3;

// Three layers, the second used twice, and a branch that a step may leave out.
struct DdpNet : nn::Module {
  nn::Linear first{kFeatures, 16}, shared{16, 16}, last{16, kClasses}, branch{16, 16};

  Tensor operator()(const Tensor& x, bool with_branch = true) const {
    Tensor h = shared(shared(first(x, Activation::relu), Activation::relu), Activation::relu);
    if (with_branch) h = h + branch(h);
    return last(h);
  }
  void fields(nn::Fields& f) override {
    f("first", first), f("shared", shared), f("last", last), f("branch", branch);
  }
};

struct Batch {
  Tensor x, y;  // [n, kFeatures], i64 [n]
};

// Samples [begin, begin + n) of an endless set; the same for everyone who asks.
inline Batch batch_of(int64_t begin, int64_t n, int64_t features = kFeatures) {
  std::vector<float> x;
  std::vector<int64_t> y;
  for (int64_t i = begin; i < begin + n; ++i) {
    for (int64_t c = 0; c < features; ++c)
      x.push_back(static_cast<float>(std::sin(double(1 + i * features + c) * 12.9898)));
    y.push_back((i * 7 + i / 3) % kClasses);
  }
  return {Tensor::of(x, {n, features}), Tensor::of(y, {n})};
}

using Weights = std::vector<float>;
inline Weights weights_of(nn::Module& module) {
  Weights all;
  for (const nn::NamedTensor& t : module.state())
    if (t.tensor.dtype() == DType::f32)
      for (const float w : t.tensor.values<float>()) all.push_back(w);
  return all;
}

// The largest difference, relative to the largest weight.
inline double distance(const Weights& a, const Weights& b) {
  double largest = 0, apart = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    largest = std::max(largest, std::abs(double(a[i])));
    apart = std::max(apart, std::abs(double(a[i]) - double(b[i])));
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return INFINITY;
  }
  return apart / largest;
}

// Buckets small enough that the model has several.
template <class Options = dist::DdpOptions>
Options small_buckets() {
  Options o;
  o.first_bucket_bytes = 256;
  o.bucket_bytes = 1200;
  return o;
}

// Runs `body(group, net, sgd, ddp)` on `ranks` ranks and returns everyone's weights at the end.
template <class Body>
std::vector<Weights> run_ranks(int ranks, const dist::DdpOptions& options, Body body) {
  manual_seed(3);
  std::vector<Weights> out(static_cast<size_t>(ranks));
  dist::run_local(ranks, [&](dist::ProcessGroup& group) {
    DdpNet net;
    if (group.rank() > 0) net.first.weight.copy_(Tensor::zeros(net.first.weight.shape()));
    optim::Sgd sgd(net.named_parameters(), {.lr = 0.1, .momentum = 0.9});
    const std::shared_ptr<dist::ProcessGroup> shared(&group, [](auto*) {});
    dist::DistributedDataParallel ddp(net, sgd, shared, options);
    body(group, net, sgd, ddp);
    out[static_cast<size_t>(group.rank())] = weights_of(net);
  });
  return out;
}

// The same training in one process with no reducer: `loss(net, step)`.
template <class Loss>
Weights run_alone(int steps, Loss loss) {
  manual_seed(3);
  DdpNet net;
  optim::Sgd sgd(net.named_parameters(), {.lr = 0.1, .momentum = 0.9});
  for (int step = 0; step < steps; ++step) {
    backward(loss(net, step));
    sgd.step();
    sgd.zero_grad();
  }
  return weights_of(net);
}

// The error that f throws; fails the test when it throws none.
template <class F>
Error error_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "expected an error";
  return Error(ErrorKind::internal, "none");
}

}  // namespace pinion::testing
