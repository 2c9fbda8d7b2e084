// SPDX-License-Identifier: Apache-2.0
// Layers: parameters with PyTorch's names and initial values, and the call that applies them.
#pragma once

#include <vector>

#include "pinion/nn/module.h"
#include "pinion/nn/ops.h"

namespace pinion::nn {

// y = act(x weight^T + bias): x [..,in] -> [..,out]. Weight and bias start uniform in +-1/sqrt(in).
struct Linear : Module {
  Tensor weight;  // [out, in]
  Tensor bias;    // [out], or undefined

  Linear(int64_t in, int64_t out, bool with_bias = true);
  Tensor operator()(const Tensor& x, Activation activation = Activation::none) const {
    return linear(x, weight, bias, activation);
  }
  void fields(Fields& f) override;
};

// Rows of a table by their ids: ids (i64) [..] -> [..,width]. Starts as N(0,1); the row `padding`
// starts as zeros and is never trained.
struct Embedding : Module {
  Tensor weight;  // [count, width]
  int64_t padding;

  Embedding(int64_t count, int64_t width, int64_t padding = -1);  // -1: no padding row
  Tensor operator()(const Tensor& ids) const { return embedding(weight, ids, padding); }
  void fields(Fields& f) override;
};

// Normalises the last dimension: x [..,width] -> [..,width].
struct LayerNorm : Module {
  Tensor weight;  // [width], ones at first
  Tensor bias;    // [width], zeros at first
  double eps;     // added to the variance

  explicit LayerNorm(int64_t width, double eps = 1e-5);
  Tensor operator()(const Tensor& x) const { return layer_norm(x, weight, bias, eps); }
  void fields(Fields& f) override;
};

// In training mode: zeroes elements with probability p and scales the rest by 1 / (1 - p); in
// evaluation mode: nothing. The n-th call draws with noise_key(the layer's stream, n) of
// nn/noise.h; n is a counter of the module, so that a resumed run goes on with the masks it would
// have drawn.
class Dropout : public Module {
 public:
  explicit Dropout(double p = 0.5);  // in [0, 1]
  Tensor operator()(const Tensor& x);
  void fields(Fields& f) override;
  double p() const { return p_; }

 private:
  double p_;
  uint32_t stream_;
  uint64_t calls_ = 0;
};

// Linear layers with an activation between them, and none after the last: x [..,widths.front()] ->
// [..,widths.back()]. Parameters are named layers.0.weight, layers.0.bias, layers.1.weight, ...
struct Mlp : Module {
  std::vector<Linear> layers;
  Activation activation;

  explicit Mlp(const std::vector<int64_t>& widths, Activation activation = Activation::relu);
  Tensor operator()(const Tensor& x) const;
  void fields(Fields& f) override;
};

}  // namespace pinion::nn
