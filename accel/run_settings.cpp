// SPDX-License-Identifier: Apache-2.0
// Reads the variables that Pinion's launcher and Accelerate's set for the processes they start.
#include "pinion/accel/run_settings.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

class Environment {
 public:
  explicit Environment(const Lookup& lookup) : lookup_(lookup) {}

  // In lower case; nothing when the variable is not set or empty.
  std::optional<std::string> text(const char* name) const {
    const char* value = lookup_(name);
    if (!value || !*value) return std::nullopt;
    std::string out = value;
    std::transform(out.begin(), out.end(), out.begin(),
                   [](unsigned char c) { return c < 128 ? std::tolower(c) : c; });
    return out;
  }

  bool flag(const char* name) const {
    const auto value = text(name);
    if (!value) return false;
    for (const char* yes : {"1", "true", "yes", "on", "y", "t"})
      if (*value == yes) return true;
    for (const char* no : {"0", "false", "no", "off", "n", "f"})
      if (*value == no) return false;
    refuse(name, "true or false", *value);
  }

  template <class T>
  std::optional<T> number(const char* name, T least) const {
    const auto value = text(name);
    if (!value) return std::nullopt;
    T out{};
    const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), out);
    if (error != std::errc() || end != value->data() + value->size() || !(out >= least))
      refuse(name, cat({"a number of at least ", least}), *value);
    return out;
  }

  [[noreturn]] static void refuse(const char* name, std::string_view expected,
                                  std::string_view got) {
    fail(ErrorKind::config, {name, ": expected ", expected, ", got ", quoted(got)});
  }

 private:
  const Lookup& lookup_;
};

nn::Precision precision_of(const Environment& env, const AcceleratorOptions& options) {
  constexpr const char* kName = "ACCELERATE_MIXED_PRECISION";
  const auto said = env.text(kName);
  if (!said) return options.mixed_precision.value_or(nn::Precision::no);
  if (*said == "no") return nn::Precision::no;
  if (*said == "bf16") return nn::Precision::bf16;
  if (*said == "fp16") return nn::Precision::fp16;
  Environment::refuse(kName, "no, bf16 or fp16", *said);
}

int fsdp_stage(const Environment& env) {
  constexpr const char* kName = "FSDP_SHARDING_STRATEGY";
  const std::string strategy = env.text(kName).value_or("full_shard");
  if (strategy == "full_shard" || strategy == "1") return 3;
  if (strategy == "shard_grad_op" || strategy == "2") return 2;
  if (strategy == "no_shard" || strategy == "3") return 0;
  Environment::refuse(kName, "full_shard, shard_grad_op or no_shard", strategy);
}

int zero_stage(const Environment& env, const AcceleratorOptions& options) {
  const int own = options.zero_stage.value_or(0);
  PINION_REQUIRE(config, own >= 0 && own <= 3, "Accelerator: expected zero_stage 0 to 3, got ",
                 own);
  if (env.flag("ACCELERATE_USE_FSDP")) return fsdp_stage(env);
  if (!env.flag("ACCELERATE_USE_DEEPSPEED")) return own;
  constexpr const char* kName = "ACCELERATE_DEEPSPEED_ZERO_STAGE";
  const int stage = env.number<int>(kName, 0).value_or(2);
  if (stage > 3) Environment::refuse(kName, "0 to 3", std::to_string(stage));
  return stage;
}

double clipping(const Environment& env) {
  constexpr const char* kName = "ACCELERATE_GRADIENT_CLIPPING";
  if (env.text(kName) == "none") return 0;
  return env.number<double>(kName, 0).value_or(0);
}

}  // namespace

RunSettings resolve(const AcceleratorOptions& options, const Lookup& lookup) {
  const Environment env(lookup);
  RunSettings s;
  s.mixed_precision = precision_of(env, options);
  s.gradient_accumulation_steps = env.number<int64_t>("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", 1)
                                      .value_or(options.gradient_accumulation_steps.value_or(1));
  PINION_CHECK(s.gradient_accumulation_steps >= 1,
               "Accelerator: expected gradient_accumulation_steps of at least 1, got ",
               s.gradient_accumulation_steps);
  s.gradient_clipping = clipping(env);
  s.zero_stage = zero_stage(env, options);
  s.deterministic =
      env.text("PINION_DETERMINISTIC") ? env.flag("PINION_DETERMINISTIC") : options.deterministic;
  s.virtual_shards = env.number<int>("PINION_VIRTUAL_SHARDS", 1).value_or(options.virtual_shards);
  s.cpu = options.cpu || env.flag("ACCELERATE_USE_CPU");
  s.device = env.text("ACCELERATE_TORCH_DEVICE").value_or(options.device);
  s.timeout = options.timeout.value_or(s.timeout);
  if (const auto seconds = env.number<int>("PINION_TIMEOUT", 1))
    s.timeout = std::chrono::seconds(*seconds);
  return s;
}

Device device_for(const RunSettings& settings, const dist::World& world, int gpus) {
  if (settings.cpu) return {};
  if (settings.device != "auto" && settings.device != "cuda") {
    const Device device = parse_device(settings.device);
    PINION_REQUIRE(config, device == Device{} || world.local_size == 1,
                   "device: expected cuda or auto for the ", world.local_size,
                   " ranks on this host, which gives each a GPU of its own, got ", settings.device);
    return device;
  }
  if (gpus == 0 && settings.device == "auto") return {};
  if (gpus == 0) return parse_device(settings.device);  // which says what is missing
  PINION_REQUIRE(config, world.local_rank < gpus, "Accelerator: expected a GPU for each of the ",
                 world.local_size, " ranks on this host, got ", gpus,
                 " (fewer ranks, or --cpu, would do)");
  return {Device::Kind::cuda, world.local_rank};
}

}  // namespace pinion::accel
