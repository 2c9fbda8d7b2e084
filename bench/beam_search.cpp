// SPDX-License-Identifier: Apache-2.0
// pinion_beam_search: how long beam search takes with what the decoder keeps of the words before,
// and without: every text read anew for each word, as the published R2Gen does. Encoder and decoder
// of full size (or of nano), the same weights, no report that ends early. Pairs are interleaved.
//   pinion_beam_search [reports=1] [words=60] [pairs=3] [nano]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "pinion/apps/report/decoding.h"
#include "pinion/nn/init.h"
#include "pinion/runtime/autograd.h"

namespace {

using pinion::Tensor;
using namespace pinion::report;  // NOLINT: a program of one file

struct Seconds {
  double wall, cpu;
};

Seconds seconds_of(EncoderDecoder& model, const Tensor& features, const DecodingOptions& options,
                   std::vector<std::vector<int64_t>>& texts) {
  const auto begin = std::chrono::steady_clock::now();
  const std::clock_t cpu = std::clock();
  texts.clear();
  for (WrittenReport& report : write_reports(model, features, options))
    texts.push_back(std::move(report.ids));
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin;
  return {wall.count(), static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int at, int64_t otherwise) {
    return argc > at ? std::strtoll(argv[at], nullptr, 10) : otherwise;
  };
  const int64_t reports = number(1, 1), words = number(2, 60), pairs = number(3, 3);
  TransformerOptions options;
  if (argc > 4) options = TransformerOptions::nano();
  pinion::manual_seed(1);
  EncoderDecoder model(options);
  model.eval();
  const pinion::NoGrad no_grad;
  std::vector<float> never(static_cast<size_t>(options.vocabulary));
  never[0] = -100;  // the end
  for (auto& [name, tensor] : model.named_parameters())
    if (name == "logit.bias") tensor.copy_(Tensor::of(never, {options.vocabulary}));
  Tensor features({reports, argc > 4 ? 32 : 98, options.d_vf});
  pinion::nn::init::uniform(features, 0, 1);

  DecodingOptions cached{.max_length = words}, plain = cached;
  plain.cached = false;
  std::vector<std::vector<int64_t>> texts, same;
  seconds_of(model, features, cached, texts);
  std::vector<double> wall, cpu, kept, anew;
  for (int64_t i = 0; i < pairs; ++i) {
    const bool first = i % 2 == 0;
    Seconds a{}, b{};
    if (first) a = seconds_of(model, features, cached, texts);
    b = seconds_of(model, features, plain, same);
    if (!first) a = seconds_of(model, features, cached, texts);
    wall.push_back(b.wall / a.wall), cpu.push_back(b.cpu / a.cpu);
    kept.push_back(a.cpu), anew.push_back(b.cpu);
    std::printf(
        "cached %.3f s wall, %.3f s cpu; anew %.3f s wall, %.3f s cpu: %.1f and %.1f times;"
        " words %s\n",
        a.wall, a.cpu, b.wall, b.cpu, wall.back(), cpu.back(),
        texts == same ? "the same" : "NOT THE SAME");
  }
  std::printf(
      "%lld reports of %zu words: median %.1f times by wall, %.1f by cpu; of least cpu %.1f\n",
      static_cast<long long>(reports), texts[0].size(), median(wall), median(cpu),
      *std::min_element(anew.begin(), anew.end()) / *std::min_element(kept.begin(), kept.end()));
  return texts == same ? 0 : 1;
}
