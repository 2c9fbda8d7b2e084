// SPDX-License-Identifier: Apache-2.0
// Constructors and calls of the layers.
#include "pinion/nn/layers.h"

#include <cmath>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/init.h"
#include "pinion/nn/noise.h"
#include "pinion/runtime/graph.h"

namespace pinion::nn {
Linear::Linear(int64_t in, int64_t out, bool with_bias) {
  PINION_CHECK(in > 0 && out > 0, "Linear: expected in > 0 and out > 0, got in ", in, ", out ",
               out);
  weight = new_parameter({out, in});
  // gain^2 = 2 / (1 + 5): the bound is sqrt(1/3) sqrt(3 / in) = 1 / sqrt(in).
  init::kaiming_uniform(weight, std::sqrt(5.0));
  if (!with_bias) return;
  bias = new_parameter({out});
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  init::uniform(bias, -bound, bound);
}

void Linear::fields(Fields& f) {
  f("weight", weight);
  f("bias", bias);
}

Embedding::Embedding(int64_t count, int64_t width, int64_t padding_row) : padding(padding_row) {
  PINION_CHECK(count > 0 && width > 0, "Embedding: expected count > 0 and width > 0, got count ",
               count, ", width ", width);
  PINION_CHECK(padding >= -1 && padding < count, "Embedding: expected padding in [-1, ", count,
               "), got ", padding);
  weight = new_parameter({count, width});
  init::normal(weight);
  if (padding < 0) return;
  Tensor row = weight.rows(padding, padding + 1);
  init::zeros(row);
}

void Embedding::fields(Fields& f) { f("weight", weight); }

LayerNorm::LayerNorm(int64_t width, double epsilon) : eps(epsilon) {
  PINION_CHECK(width > 0, "LayerNorm: expected width > 0, got ", width);
  PINION_CHECK(std::isfinite(eps) && eps >= 0, "LayerNorm: expected eps >= 0, got ", eps);
  weight = new_parameter({width});
  bias = new_parameter({width});
  init::ones(weight);
  init::zeros(bias);
}

void LayerNorm::fields(Fields& f) {
  f("weight", weight);
  f("bias", bias);
}

Dropout::Dropout(double p) : p_(p), stream_(next_stream(StreamUse::noise)) {
  PINION_CHECK(p >= 0 && p <= 1, "Dropout: expected p in [0, 1], got ", p);
}

Tensor Dropout::operator()(const Tensor& x) {
  PINION_CHECK(x.defined(), "Dropout: expected a tensor x, got an undefined one");
  if (!training() || p_ == 0) return x;
  if (p_ == 1) return affine(x, 0, 0);
  on_replay([this] { ++calls_; });
  return dropout(x, p_, noise_key(stream_, calls_++));
}

void Dropout::fields(Fields& f) { f.counter("calls", calls_); }

Mlp::Mlp(const std::vector<int64_t>& widths, Activation between) : activation(between) {
  PINION_CHECK(widths.size() >= 2, "Mlp: expected at least two widths, got ", widths.size());
  layers.reserve(widths.size() - 1);
  for (size_t i = 0; i + 1 < widths.size(); ++i) layers.emplace_back(widths[i], widths[i + 1]);
}

Tensor Mlp::operator()(const Tensor& x) const {
  Tensor h = x;
  for (size_t i = 0; i < layers.size(); ++i)
    h = layers[i](h, i + 1 < layers.size() ? activation : Activation::none);
  return h;
}

void Mlp::fields(Fields& f) { f("layers", layers); }

}  // namespace pinion::nn
