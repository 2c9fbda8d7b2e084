// SPDX-License-Identifier: Apache-2.0
// Training steps of the report generator: whole, and of its two halves alone. Sizes are those of
// bench/peers/report_model.py.
#include <cmath>
#include <memory>
#include <optional>

#include "pinion/apps/report/report_model.h"
#include "pinion/bench/workloads.h"
#include "pinion/nn/init.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/clip.h"
#include "pinion/runtime/autograd.h"

namespace pinion::bench {
namespace {

struct Size {
  const char* name;
  const char* extractor;
  int64_t batch, steps, side, channels, places;
  report::TransformerOptions options;
};

std::vector<Size> sizes() {
  return {{"nano", "nano", 16, 29, 64, 1, 32, report::TransformerOptions::nano()},
          {"r2gen", "resnet101", 2, 59, 224, 3, 98, {}}};
}

// What a step reads and trains; either half may be missing.
struct Step {
  std::optional<report::VisualExtractor> extractor;
  std::optional<report::EncoderDecoder> text;
  std::optional<optim::Adam> adam;
  Tensor images, features, ids, padding, targets, weight;

  Step(const Size& s, bool with_extractor, bool with_text)
      : images({2 * s.batch, s.side, s.side, s.channels}),
        features({s.batch, s.places, s.options.d_vf}),
        weight(Tensor::full({s.batch, s.steps}, 1)) {
    std::vector<optim::Adam::Group> groups;
    const optim::AdamOptions adam_options{.lr = 1e-4, .weight_decay = 5e-5, .amsgrad = true};
    if (with_extractor) {
      extractor.emplace(s.extractor, 2);
      groups.push_back({"extractor", extractor->named_parameters(), adam_options});
    }
    if (with_text) {
      text.emplace(s.options);
      groups.push_back({"text", text->named_parameters(), adam_options});
    }
    adam.emplace(groups);
    nn::init::normal(images);
    nn::init::normal(features);
    const auto words = [&](int64_t factor) {
      std::vector<int64_t> numbers;
      for (int64_t i = 0; i < s.batch * s.steps; ++i)
        numbers.push_back(1 + i * factor % (s.options.vocabulary - 1));
      return Tensor::of(numbers, {s.batch, s.steps});
    };
    ids = words(7919), targets = words(104729);
    padding = report::EncoderDecoder::padding_of(ids);
  }

  void run() {
    const Tensor found = extractor ? (*extractor)(images) : features;
    const Tensor loss =
        text ? nn::cross_entropy((*text)(found, ids, padding), targets, {.weight = weight})
             : nn::sum(found);
    backward(loss);
    optim::clip_grad_value_(*adam, 0.1);
    adam->step();
    adam->zero_grad();
    if (std::isnan(loss.item())) PINION_REQUIRE(non_finite, false, "report step: the loss is NaN");
  }
};

}  // namespace

void add_report_steps(std::vector<Workload>& list) {
  for (const Size& s : sizes())
    for (const auto& [name, extractor, text] :
         {std::tuple("report_step", true, true), std::tuple("report_extractor", true, false),
          std::tuple("report_encoder_decoder", false, true)})
      list.push_back({std::string(name) + "/" + s.name, 0, 0,
                      [s, extractor = extractor, text = text]() -> std::function<void()> {
                        manual_seed(1);
                        const auto step = std::make_shared<Step>(s, extractor, text);
                        return [step] { step->run(); };
                      }});
}

}  // namespace pinion::bench
