// SPDX-License-Identifier: Apache-2.0
// Constructors, calls and names.
#include "pinion/apps/report/transformer.h"

#include <cmath>

#include "pinion/nn/init.h"
#include "pinion/nn/noise.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/graph.h"

namespace pinion::report {

Attention::Attention(int64_t width, int64_t heads)
    : heads_(heads), stream_(next_stream(StreamUse::noise)) {
  PINION_REQUIRE(usage, heads > 0 && width % heads == 0,
                 "--num_heads: expected a divisor of the width ", width, ", got ", heads);
  for (int i = 0; i < 4; ++i) linears.emplace_back(width, width);
}

Tensor Attention::operator()(const Tensor& query, const Tensor& memory,
                             const Tensor& key_padding_mask, bool causal) {
  nn::AttentionOptions options = draw();
  options.key_padding_mask = key_padding_mask;
  options.causal = causal;
  return attend(query, keys(memory), values(memory), options);
}

nn::AttentionOptions Attention::draw(uint64_t calls) {
  constexpr double kDropout = 0.1;
  nn::AttentionOptions options;
  if (!training()) return options;
  options.dropout = kDropout;
  options.key = noise_key(stream_, calls_);
  calls_ += calls;
  on_replay([this, calls] { calls_ += calls; });
  return options;
}

Tensor Attention::split(const Tensor& x) const {
  return nn::reshape(x, {x.size(0), x.size(1), heads_, x.size(2) / heads_});
}

Tensor Attention::attend(const Tensor& query, const Tensor& keys, const Tensor& values,
                         const nn::AttentionOptions& options) const {
  const Tensor y = nn::attention(split(linears[0](query)), keys, values, options);
  return linears[3](nn::reshape(y, query.shape()));
}

Tensor Attention::probabilities(const Tensor& query, const Tensor& keys) const {
  const auto on_host = [](const Tensor& x) {
    return nn::cast(x.detach().to(Device()), DType::f64).values<double>();
  };
  const std::vector<double> q = on_host(split(linears[0](query))), k = on_host(keys);
  const int64_t batch = query.size(0), tq = query.size(1), tk = keys.size(1);
  const int64_t width = query.size(2), d = width / heads_;
  std::vector<double> out(static_cast<size_t>(batch * tq * tk)), row(static_cast<size_t>(tk));
  for (int64_t i = 0; i < batch * tq * heads_; ++i) {  // rows of q, a head each
    const int64_t token = i / heads_, b = token / tq, head = i % heads_;
    double sum = 0;
    for (int64_t j = 0; j < tk; ++j) {
      double score = 0;
      for (int64_t c = 0; c < d; ++c)
        score += q[static_cast<size_t>(i * d + c)] *
                 k[static_cast<size_t>((b * tk + j) * width + head * d + c)];
      row[static_cast<size_t>(j)] = score / std::sqrt(static_cast<double>(d));
    }
    const double most = *std::max_element(row.begin(), row.end());
    for (double& r : row) sum += r = std::exp(r - most);
    for (int64_t j = 0; j < tk; ++j)
      out[static_cast<size_t>(token * tk + j)] +=
          row[static_cast<size_t>(j)] / sum / static_cast<double>(heads_);
  }
  return Tensor::of(out, {batch, tq, tk});
}

void Attention::fields(nn::Fields& f) {
  f("linears", linears);
  f.counter("calls", calls_);
}

FeedForward::FeedForward(int64_t width, int64_t hidden, double p)
    : w_1(width, hidden), w_2(hidden, width), dropout(p) {}

Tensor FeedForward::operator()(const Tensor& x) { return w_2(dropout(w_1(x, Activation::relu))); }

void FeedForward::fields(nn::Fields& f) {
  f("w_1", w_1);
  f("w_2", w_2);
  f("dropout", dropout);
}

TwoLinear::TwoLinear(int64_t in, int64_t hidden, int64_t out)
    : first(in, hidden), second(hidden, out) {}

Tensor TwoLinear::operator()(const Tensor& x, Activation last) const {
  return second(first(x, Activation::relu), last);
}

void TwoLinear::fields(nn::Fields& f) {
  f("0", first);
  f("2", second);
}

Norm::Norm(int64_t width, int64_t memory) {
  gamma = nn::new_parameter({width});
  beta = nn::new_parameter({width});
  nn::init::ones(gamma);
  nn::init::zeros(beta);
  if (memory == 0) return;
  for (auto* mlp : {&mlp_gamma, &mlp_beta}) {
    mlp->emplace(memory, width, width);
    for (nn::Linear* linear : {&(*mlp)->first, &(*mlp)->second})
      nn::init::constant(linear->bias, 0.1);
  }
}

Tensor Norm::operator()(const Tensor& x, const Shifts& shifts) const {
  constexpr double kEps = 1e-6;
  if (!shifts.each_gamma.defined())
    return nn::layer_norm(x, gamma, beta, kEps, LayerNormForm::unbiased_std);
  const bool all = shifts.gamma.defined();
  return nn::conditional_layer_norm(x, all ? gamma + shifts.gamma : gamma,
                                    all ? beta + shifts.beta : beta, shifts.each_gamma,
                                    shifts.each_beta, kEps);
}

Shifts Norm::shifts(const Tensor& m) const {
  if (!mlp_gamma) return {};
  return {{}, {}, (*mlp_gamma)(m), (*mlp_beta)(m)};
}

std::vector<Shifts> shifts_of(const std::vector<const Norm*>& norms, const Tensor& m) {
  std::vector<Shifts> out(norms.size());
  if (norms.empty() || !norms.front()->mlp_gamma) return out;
  if (!grad_enabled()) {  // joining the weights pays where a gradient comes back through them
    for (size_t i = 0; i < out.size(); ++i) out[i] = norms[i]->shifts(m);
    return out;
  }
  Tensors first, first_bias, second;
  for (const Norm* norm : norms)
    for (const auto* mlp : {&norm->mlp_gamma, &norm->mlp_beta}) {
      first.push_back((*mlp)->first.weight);
      first_bias.push_back((*mlp)->first.bias);
      second.push_back((*mlp)->second.weight);
    }
  const auto count = static_cast<int64_t>(first.size());
  const int64_t tokens = m.size(0) * m.size(1), width = second[0].size(0);
  const Tensor hidden =
      nn::linear(m, nn::concat(first, 0), nn::concat(first_bias, 0), Activation::relu);
  const Tensor each =
      nn::bmm(nn::transpose(nn::reshape(hidden, {tokens, count, width}), 0, 1),
              nn::reshape(nn::concat(second, 0), {count, width, width}), false, true);
  const auto shift = [&](int64_t i) {
    return nn::reshape(nn::slice(each, 0, i, i + 1), {m.size(0), m.size(1), width});
  };
  for (size_t i = 0; i < out.size(); ++i) {
    const auto at = static_cast<int64_t>(2 * i);
    out[i] = {norms[i]->mlp_gamma->second.bias, norms[i]->mlp_beta->second.bias, shift(at),
              shift(at + 1)};
  }
  return out;
}

void Norm::fields(nn::Fields& f) {
  f("gamma", gamma);
  f("beta", beta);
  if (mlp_gamma) f("mlp_gamma", *mlp_gamma);
  if (mlp_beta) f("mlp_beta", *mlp_beta);
}

void Sublayer::fields(nn::Fields& f) {
  f("norm", norm);
  f("dropout", dropout);
}

EncoderLayer::EncoderLayer(int64_t width, int64_t hidden, int64_t heads, double p)
    : self_attn(width, heads), feed_forward(width, hidden, p) {
  for (int i = 0; i < 2; ++i) sublayer.emplace_back(width, p);
}

Tensor EncoderLayer::operator()(const Tensor& x) {
  const Tensor y = sublayer[0](x, {}, [&](const Tensor& h) { return self_attn(h, h); });
  return sublayer[1](y, {}, feed_forward);
}

void EncoderLayer::fields(nn::Fields& f) {
  f("self_attn", self_attn);
  f("feed_forward", feed_forward);
  f("sublayer", sublayer);
}

DecoderLayer::DecoderLayer(int64_t width, int64_t hidden, int64_t heads, double p, int64_t memory)
    : self_attn(width, heads), src_attn(width, heads), feed_forward(width, hidden, p) {
  for (int i = 0; i < 3; ++i) sublayer.emplace_back(width, p, memory);
}

Tensor DecoderLayer::operator()(Tensor x, const Tensor& encoded, const Tensor& key_padding_mask,
                                const Shifts* shifts) {
  x = sublayer[0](x, shifts[0],
                  [&](const Tensor& h) { return self_attn(h, h, key_padding_mask, true); });
  x = sublayer[1](x, shifts[1], [&](const Tensor& h) { return src_attn(h, encoded); });
  return sublayer[2](x, shifts[2], feed_forward);
}

Tensor DecoderLayer::image_attention(Tensor x, const Tensor& encoded,
                                     const Tensor& key_padding_mask, const Shifts* shifts) {
  x = sublayer[0](x, shifts[0],
                  [&](const Tensor& h) { return self_attn(h, h, key_padding_mask, true); });
  return src_attn.probabilities(sublayer[1].norm(x, shifts[1]), src_attn.keys(encoded));
}

DecoderLayer::Cache DecoderLayer::start(const Tensor& encoded) const {
  return {{}, {}, src_attn.keys(encoded), src_attn.values(encoded)};
}

Tensor DecoderLayer::step(Tensor x, Cache& cache, const Tensor& m) {
  x = sublayer[0](x, sublayer[0].norm.shifts(m), [&](const Tensor& h) {
    const Tensor key = self_attn.keys(h), value = self_attn.values(h);
    cache.keys = cache.keys.defined() ? nn::concat({cache.keys, key}, 1) : key;
    cache.values = cache.values.defined() ? nn::concat({cache.values, value}, 1) : value;
    return self_attn.attend(h, cache.keys, cache.values);
  });
  x = sublayer[1](x, sublayer[1].norm.shifts(m), [&](const Tensor& h) {
    // The rows of an image are so many queries of its keys.
    const int64_t images = cache.image_keys.size(0), width = h.size(2);
    const Tensor queries = nn::reshape(h, {images, h.size(0) / images, width});
    return nn::reshape(src_attn.attend(queries, cache.image_keys, cache.image_values), h.shape());
  });
  return sublayer[2](x, sublayer[2].norm.shifts(m), feed_forward);
}

void DecoderLayer::fields(nn::Fields& f) {
  f("self_attn", self_attn);
  f("src_attn", src_attn);
  f("feed_forward", feed_forward);
  f("sublayer", sublayer);
}

}  // namespace pinion::report
