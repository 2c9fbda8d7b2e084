// SPDX-License-Identifier: Apache-2.0
// Training steps of the report generator, whole and of its two halves alone, and its beam search.
// Sizes are those of bench/peers/report_model.py.
#include <cmath>
#include <memory>
#include <optional>

#include "pinion/apps/report/decoding.h"
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

Size nano() { return {"nano", "nano", 16, 29, 64, 1, 32, report::TransformerOptions::nano()}; }
Size r2gen(const char* name, int64_t batch) {
  return {name, "resnet101", batch, 59, 224, 3, 98, {}};
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

// Reports of 60 words: none ends early.
std::function<void()> beam_search(const Size& s) {
  const auto model = std::make_shared<report::EncoderDecoder>(s.options);
  model->eval();
  std::vector<float> bias(static_cast<size_t>(s.options.vocabulary));
  bias[0] = -100;  // of the end
  for (auto& [name, tensor] : model->named_parameters())
    if (name == "logit.bias") tensor.copy_(Tensor::of(bias, {s.options.vocabulary}));
  Tensor features({s.batch, s.places, s.options.d_vf});
  nn::init::uniform(features, 0, 1);
  return [model, features] {
    const NoGrad no_grad;
    for (const report::WrittenReport& report : report::write_reports(*model, features))
      PINION_CHECK(report.ids.size() == 60, "beam search: expected 60 words, got ",
                   report.ids.size());
  };
}

void add(std::vector<Workload>& list, const char* name, const Size& s,
         const std::function<std::function<void()>()>& make) {
  list.push_back({std::string(name) + "/" + s.name, 0, 0, [make] {
                    manual_seed(1);
                    return make();
                  }});
}

void add_step(std::vector<Workload>& list, const char* name, const Size& s, bool extractor,
              bool text) {
  add(list, name, s, [=]() -> std::function<void()> {
    return [step = std::make_shared<Step>(s, extractor, text)] { step->run(); };
  });
}

}  // namespace

void add_report_steps(std::vector<Workload>& list) {
  for (const Size& s : {nano(), r2gen("r2gen", 2)}) {
    add_step(list, "report_step", s, true, true);
    add_step(list, "report_extractor", s, true, false);
    add_step(list, "report_encoder_decoder", s, false, true);
  }
  add_step(list, "report_encoder_decoder", r2gen("r2gen16", 16), false, true);
  for (const Size& s : {nano(), r2gen("r2gen1", 1), r2gen("r2gen4", 4)})
    add(list, "beam_search", s, [s] { return beam_search(s); });
}

}  // namespace pinion::bench
