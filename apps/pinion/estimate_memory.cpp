// SPDX-License-Identifier: Apache-2.0
// pinion estimate-memory: what a rank needs to train a model, before anything is started.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>

#include "pinion/accel/estimate.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/pinion/commands.h"
#include "pinion/runtime/log.h"
#include "pinion/runtime/safetensors.h"

namespace pinion::apps {

namespace {

std::vector<int64_t> parse_widths(const std::string& text) {
  std::vector<int64_t> widths;
  for (const char *at = text.data(), *const end = at + text.size(); at <= end; ++at) {
    int64_t width = 0;
    const auto [next, error] = std::from_chars(at, end, width);
    PINION_REQUIRE(usage, error == std::errc() && (next == end || *next == ','),
                   "--layers: expected widths with commas, as 10,32,2, got ", quoted(text, 80));
    widths.push_back(width);
    at = next;
  }
  return widths;
}

std::vector<int64_t> parameters_of_file(const std::string& path) {
  const SafetensorsReader reader(path, SafetensorsMode::compat);
  std::vector<int64_t> out;
  for (const SafetensorsEntry& entry : reader.entries()) {
    int64_t elements = 1;
    for (const int64_t size : entry.shape) elements *= size;  // checked against the file's size
    out.push_back(elements);
  }
  return out;
}

std::string megabytes(int64_t bytes) { return fmt::format("{:.2f}", double(bytes) / (1 << 20)); }

}  // namespace

int estimate_memory_main(int argc, char** argv) {
  std::string layers, model, precision = "no";
  int zero_stage = -1;
  double bucket_mib = 25;
  accel::EstimateOptions o;
  CLI::App app("Memory of one rank at the peak of a training step, in MiB.",
               "pinion estimate-memory");
  auto* by_layers =
      app.add_option("--layers", layers, "Widths of a multi-layer perceptron: 10,32,2");
  app.add_option("model", model, "A .safetensors file: its parameters, without activations")
      ->excludes(by_layers);
  app.add_option("--optimizer", o.optimizer, "adam, adamw, sgd or sgd+momentum")
      ->capture_default_str();
  app.add_option("--mixed_precision", precision, "no, bf16 or fp16")->capture_default_str();
  app.add_option("--num_processes", o.ranks, "Ranks")->capture_default_str();
  app.add_option("--batch_size", o.batch_size, "Samples of a rank's step")->capture_default_str();
  app.add_option("--zero_stage", zero_stage, "Only this stage of ZeRO (all)");
  app.add_option("--bucket_cap_mb", bucket_mib, "MiB that are reduced at once")
      ->capture_default_str();
  if (!parse_command_line(app, argc, argv)) return 0;
  PINION_REQUIRE(usage, !layers.empty() || !model.empty(),
                 "estimate-memory: expected --layers or a .safetensors file, got neither");
  PINION_REQUIRE(usage, bucket_mib > 0 && bucket_mib < 1e6,
                 "--bucket_cap_mb: expected a number above 0, got ", bucket_mib);
  PINION_REQUIRE(usage, zero_stage >= -1 && zero_stage <= 3, "--zero_stage: expected 0 to 3, got ",
                 zero_stage);
  o.precision = nn::parse_precision(precision);
  o.bucket_bytes = static_cast<int64_t>(bucket_mib * (1 << 20));
  const std::vector<int64_t> widths =
      layers.empty() ? std::vector<int64_t>() : parse_widths(layers);
  const auto parameters =
      layers.empty() ? parameters_of_file(model) : accel::mlp_parameters(widths);
  int64_t count = 0;
  for (const int64_t n : parameters) count += n;

  std::string text = fmt::format("{} parameters, {}, mixed_precision {}, {} rank{}{}\n", count,
                                 o.optimizer, precision, o.ranks, o.ranks == 1 ? "" : "s",
                                 layers.empty() ? "" : fmt::format(", batch {}", o.batch_size));
  text += fmt::format("{:>5} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12}\n", "ZeRO", "parameters",
                      "gradients", "optimizer", "activations", "buckets", "total MiB");
  for (int stage = 0; stage <= 3; ++stage) {
    if (zero_stage >= 0 && stage != zero_stage) continue;
    o.zero_stage = stage;
    accel::MemoryEstimate e = accel::estimate_memory(parameters, o);
    if (!layers.empty()) e.activations = accel::mlp_activations(widths, o);
    text += fmt::format("{:>5} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12}\n", stage,
                        megabytes(e.parameters), megabytes(e.gradients), megabytes(e.optimizer),
                        layers.empty() ? "-" : megabytes(e.activations), megabytes(e.buckets),
                        megabytes(e.total()));
  }
  print(text);
  return 0;
}

}  // namespace pinion::apps
