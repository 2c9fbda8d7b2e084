// SPDX-License-Identifier: Apache-2.0
// A program outside of the tree: a dot product and its gradient.
#include <pinion/pinion.h>

#include <cstdio>

int main() {
  try {
    pinion::Tensor x = pinion::Tensor::of({1.0f, 2.0f, 3.0f}, {3});
    x.requires_grad(true);
    const pinion::Tensor w = pinion::Tensor::of({4.0f, 5.0f, 6.0f}, {3});
    const pinion::Tensor y = pinion::nn::sum(x * w);
    pinion::backward(y);
    const auto dx = x.grad().values<float>();
    std::printf("y = %g, dy/dx = [%g,%g,%g]\n", y.item(), dx[0], dx[1], dx[2]);
  } catch (const pinion::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  }
}
