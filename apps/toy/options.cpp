// SPDX-License-Identifier: Apache-2.0
// The flags of simple_train and accelerate_train.
#include "pinion/apps/toy/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <limits>
#include <nlohmann/json.hpp>

#include "pinion/apps/common/program.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/log.h"

namespace pinion::toy {

namespace {

// Limits that no real run meets, so that sizes stay far from what arithmetic can hold.
constexpr int64_t kMostSamples = 1'000'000'000, kMostWidth = 1'000'000;

void check_range(const char* flag, int64_t value, int64_t low, int64_t high) {
  PINION_REQUIRE(usage, value >= low && value <= high, flag, ": expected ", low, " to ", high,
                 ", got ", value);
}

void check_real(const char* flag, double value, double low, double high) {
  PINION_REQUIRE(usage, value >= low && value <= high, flag, ": expected ", low, " to ", high,
                 ", got ",
                 value);  // NaN is in no range
}

// What one kernel for the whole run does not do; sizes are the kernel's to refuse.
void check_fused(const Options& o) {
  PINION_REQUIRE(usage, o.optimizer != "sgd",
                 "--engine fused: expected --optimizer adam or adamw, got sgd");
  PINION_REQUIRE(usage, o.precision == nn::Precision::no,
                 "--engine fused: expected --mixed_precision no, got ", nn::name_of(o.precision));
  PINION_REQUIRE(usage, o.workers == 0,
                 "--engine fused: expected --workers 0, since the data stays where it is, got ",
                 o.workers);
  PINION_REQUIRE(usage, !o.cuda_graph,
                 "--engine fused: expected no --cuda_graph, since the whole run is one launch");
}

void check(const Options& o) {
  check_range("--samples", o.synthetic.samples, 1, kMostSamples);
  check_range("--features", o.synthetic.features, 2, kMostWidth);
  check_real("--noise", o.synthetic.noise, 0, 1);
  check_real("--test_fraction", o.test_fraction, 0, 0.9);
  check_range("--hidden", o.hidden, 1, kMostWidth);
  check_range("--epochs", o.epochs, 1, kMostSamples);
  check_range("--batch_size", o.batch_size, 1, kMostSamples);
  check_range("--workers", o.workers, 0, 64);
  check_real("--lr", o.lr, 0, 1e6);
  check_real("--momentum", o.momentum, 0, 1);
  if (o.weight_decay) check_real("--weight_decay", *o.weight_decay, 0, 1e6);
  PINION_REQUIRE(usage, o.optimizer == "sgd" || o.momentum == 0,
                 "--momentum: expected it with --optimizer sgd only, got ", o.optimizer);
  if (o.engine == "fused") check_fused(o);
  PINION_REQUIRE(usage, !o.output_dir.empty(),
                 "--output_dir: expected a folder, got an empty name");
  if (o.predict.empty()) {
    PINION_REQUIRE(
        usage, o.table.path.empty() || !o.table.label.empty(),
        "--data: expected --label beside it: the column of the classes, by name or number");
    PINION_REQUIRE(usage,
                   !o.table.path.empty() || (o.table.label.empty() && o.table.ignore.empty()),
                   "--label and --ignore: expected --data beside them");
    PINION_REQUIRE(usage, o.output.empty(), "--output: expected --predict beside it");
  } else {
    PINION_REQUIRE(usage, !o.table.path.empty(), "--predict: expected --data beside it: the table");
  }
}

// Flags whose value is not yet what Options holds.
struct Raw {
  std::string device = "cpu", precision = "no", header = "auto";
  int64_t seed = 0;  // read with its sign, so that -1 is refused and not taken for 2^64 - 1
};

void add_data_flags(CLI::App& app, Options& o) {
  const char* group = "Made-up data";
  app.add_option("--samples", o.synthetic.samples, "Samples of the made-up data")->group(group);
  app.add_option("--features", o.synthetic.features, "Features of a sample")->group(group);
  app.add_option("--noise", o.synthetic.noise, "Share of labels that are wrong")->group(group);
}

void add_table_flags(CLI::App& app, Options& o, Raw& raw) {
  const char* table = "A table of your own";
  app.add_option("--data", o.table.path, "CSV file: numbers and one column of classes")
      ->group(table);
  app.add_option("--label", o.table.label,
                 "Column of the classes: name, or number from 0 (-1 is the last)")
      ->group(table);
  app.add_option("--ignore", o.table.ignore, "Columns to leave out; may be repeated")
      ->expected(1)
      ->take_all()
      ->group(table);
  app.add_option("--header", raw.header, "Whether the first line holds names: auto, yes or no")
      ->check(CLI::IsMember({"auto", "yes", "no"}))
      ->group(table);
  app.add_option("--test_fraction", o.test_fraction, "Share of every class that is held out")
      ->group(table);
  app.add_option("--predict", o.predict, "Apply this saved model to --data instead of training")
      ->group(table);
  app.add_option("--output", o.output, "Where predictions go (standard output)")->group(table);
}

void add_training_flags(CLI::App& app, Options& o, Raw& raw) {
  const char* group = "Training";
  app.add_option("--hidden", o.hidden, "Width of the hidden layer")->group(group);
  app.add_option("--epochs", o.epochs, "Passes over the data")->group(group);
  app.add_option("--batch_size", o.batch_size, "Samples of a step")->group(group);
  app.add_option("--optimizer", o.optimizer, "adam, adamw or sgd")
      ->check(CLI::IsMember({"adam", "adamw", "sgd"}))
      ->group(group);
  app.add_option("--lr", o.lr, "Learning rate")->group(group);
  app.add_option("--momentum", o.momentum, "Momentum of sgd")->group(group);
  app.add_option("--weight_decay", o.weight_decay, "Weight decay (adamw 0.01, others 0)")
      ->group(group);
  app.add_option("--seed", raw.seed, "Seed of data, weights, order and split")->group(group);
  app.add_option("--workers", o.workers, "Threads that prepare batches")->group(group);
  app.add_option("--mixed_precision", raw.precision, "no, bf16 or fp16")->group(group);
}

void add_simple_flags(CLI::App& app, Options& o, Raw& raw) {
  const char* group = "Training";
  app.add_option("--engine", o.engine,
                 "autograd: step by step; fused: all epochs in one kernel (adam or adamw)")
      ->check(CLI::IsMember({"autograd", "fused"}))
      ->group(group);
  app.add_option("--device", raw.device, "cpu, cuda, cuda:1 or auto")->group(group);
  app.add_flag("--cuda_graph", o.cuda_graph,
               "Record the training step once and replay it (CUDA devices)")
      ->group(group);
  app.add_option("--output_dir", o.output_dir,
                 "Folder of metrics.jsonl, report.html, model.safetensors")
      ->group(group);
}

void add_accelerate_flags(CLI::App& app, Options& o) {
  const char* group = "Training";
  app.add_flag("--cpu", o.cpu, "Train on the CPU even where there is a GPU")->group(group);
  app.add_option("--device", o.asked_device, "cpu, cuda, cuda:1 or auto")->group(group);
  app.add_option("--gradient_accumulation_steps", o.gradient_accumulation_steps,
                 "Batches of each rank that make an update")
      ->group(group);
  app.add_option("--output_dir", o.output_dir,
                 "Folder of metrics.jsonl, model.safetensors, checkpoints")
      ->group(group);
  app.add_option("--save_every", o.save_every, "Epochs between checkpoints (0: none)")
      ->group(group);
  app.add_option("--resume", o.resume_from,
                 "Go on from this checkpoint, or from the newest in --output_dir if there is one")
      ->expected(0, 1)
      ->group(group);
  app.add_flag("--allow_world_size_change", o.allow_world_size_change,
               "Let --resume go on with another number of ranks")
      ->group(group);
}

// What both programs do with what was read.
void finish(Options& o, const Raw& raw) {
  check_range("--seed", raw.seed, 0, std::numeric_limits<int64_t>::max());
  o.seed = o.synthetic.seed = static_cast<uint64_t>(raw.seed);
  o.precision = nn::parse_precision(raw.precision);
  check(o);
}

}  // namespace

std::optional<Options> parse_options(int argc, char** argv) {
  Options o;
  Raw raw;
  CLI::App app("Trains a small classifier: on made-up data, or on a table of your own.",
               "simple_train");
  app.option_defaults()->always_capture_default();
  add_data_flags(app, o);
  add_table_flags(app, o, raw);
  add_training_flags(app, o, raw);
  add_simple_flags(app, o, raw);
  if (!apps::parse_command_line(app, argc, argv)) return std::nullopt;
  o.table.header = raw.header == "yes"  ? Header::yes
                   : raw.header == "no" ? Header::no
                                        : Header::detect;
  finish(o, raw);
  o.device = parse_device(raw.device);
  PINION_REQUIRE(usage, !o.cuda_graph || o.device.kind == Device::Kind::cuda,
                 "--cuda_graph: expected a CUDA device, got --device ", o.device.name());
  return o;
}

std::optional<Options> parse_accelerate_options(int argc, char** argv) {
  Options o;
  Raw raw;
  CLI::App app("Trains a small classifier on made-up data, on any number of ranks.",
               "accelerate_train");
  app.option_defaults()->always_capture_default();
  add_data_flags(app, o);
  add_training_flags(app, o, raw);
  add_accelerate_flags(app, o);
  if (!apps::parse_command_line(app, argc, argv)) return std::nullopt;
  finish(o, raw);
  if (app.count("--mixed_precision") > 0) o.asked_precision = o.precision;
  o.resume = app.count("--resume") > 0;
  if (o.gradient_accumulation_steps)
    check_range("--gradient_accumulation_steps", *o.gradient_accumulation_steps, 1, kMostSamples);
  check_range("--save_every", o.save_every, 0, kMostSamples);
  return o;
}

std::unique_ptr<optim::Optimizer> make_optimizer(const Options& o, nn::Module& model) {
  const auto parameters = model.named_parameters();
  if (o.optimizer == "sgd")
    return std::make_unique<optim::Sgd>(
        parameters,
        optim::SgdOptions{
            .lr = o.lr, .momentum = o.momentum, .weight_decay = o.weight_decay.value_or(0)});
  if (o.optimizer == "adamw")
    return std::make_unique<optim::AdamW>(
        parameters, optim::AdamWOptions{.lr = o.lr, .weight_decay = o.weight_decay.value_or(0.01)});
  return std::make_unique<optim::Adam>(
      parameters, optim::AdamOptions{.lr = o.lr, .weight_decay = o.weight_decay.value_or(0)});
}

optim::FusedRunOptions fused_run_options(const Options& o) {
  const bool decoupled = o.optimizer == "adamw";
  return {.epochs = o.epochs,
          .batch_size = o.batch_size,
          .adam = {.lr = o.lr, .weight_decay = o.weight_decay.value_or(decoupled ? 0.01 : 0)},
          .decoupled = decoupled,
          .seed = o.seed};
}

std::vector<std::pair<std::string, std::string>> settings_of(const Options& o) {
  std::vector<std::pair<std::string, std::string>> out;
  const auto add = [&](const char* name, const auto& value) {
    out.emplace_back(name, fmt::format("{}", value));
  };
  if (o.table.path.empty()) {
    add("samples", o.synthetic.samples);
    add("features", o.synthetic.features);
    add("noise", o.synthetic.noise);
  } else {
    add("data", o.table.path);
    add("label", o.table.label);
    for (const std::string& name : o.table.ignore) add("ignore", name);
    add("test_fraction", o.test_fraction);
  }
  add("hidden", o.hidden);
  add("epochs", o.epochs);
  add("batch_size", o.batch_size);
  add("engine", o.engine);
  add("optimizer", o.optimizer);
  add("lr", o.lr);
  if (o.optimizer == "sgd") add("momentum", o.momentum);
  add("weight_decay", o.weight_decay.value_or(o.optimizer == "adamw" ? 0.01 : 0));
  add("seed", o.seed);
  add("device", o.device.name());
  add("mixed_precision", nn::name_of(o.precision));
  return out;
}

std::string kept_settings(const Options& o) {
  nlohmann::json kept = nlohmann::json::object();
  for (const auto& [name, value] : settings_of(o)) kept[name] = value;
  // How long, where and, as the launcher may have said, how precisely are for each run to say.
  for (const char* free : {"epochs", "engine", "device", "mixed_precision"}) kept.erase(free);
  return kept.dump();
}

}  // namespace pinion::toy
