// SPDX-License-Identifier: Apache-2.0
// A regression that every test of Accelerator trains: y = 2 x + 3 from a = b = 0, with mean squared
// error, on ranks that are threads.
#pragma once

#include <mutex>
#include <vector>

#include "pinion/accel/accelerator.h"
#include "pinion/dist/group/local_group.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/sgd.h"

namespace pinion::accel {

struct Line : nn::Module {
  Tensor a = Tensor::zeros({1, 1}), b = Tensor::zeros({1});
  Line() { a.requires_grad(true), b.requires_grad(true); }
  Tensor operator()(const Tensor& x) const { return nn::linear(x, a, b); }  // [n,1] -> [n,1]
  void fields(nn::Fields& f) override { f("a", a), f("b", b); }
};

// x [n,1] from -1 to 1, and y [n,1] = 2 x + 3 and a little more that no line explains.
inline TensorDataset line_data(int64_t n) {
  std::vector<float> x, y;
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<float>(2 * i) / static_cast<float>(n) - 1;
    x.push_back(at), y.push_back(2 * at + 3 + 0.1f * static_cast<float>(i * i % 7));
  }
  return {Tensor::of(x, {n, 1}), Tensor::of(y, {n, 1})};
}

// Runs body(rank's group) on `ranks` threads and returns what each gave, by rank.
template <class F>
auto on_ranks(int ranks, F&& body) {
  using T = decltype(body(std::declval<dist::ProcessGroup&>()));
  std::vector<T> out(static_cast<size_t>(ranks));
  dist::run_local(ranks, [&](dist::ProcessGroup& group) {
    out[static_cast<size_t>(group.rank())] = body(group);
  });
  return out;
}

}  // namespace pinion::accel
