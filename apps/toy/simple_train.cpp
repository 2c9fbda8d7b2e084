// SPDX-License-Identifier: Apache-2.0
// simple_train: a small classifier in a plain training loop, on made-up data or on a table of your
// own. The loop is written out here, as a program of your own would write it.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <map>

#include "pinion/accel/data/data_loader.h"
#include "pinion/accel/track/metrics.h"
#include "pinion/accel/track/progress.h"
#include "pinion/accel/track/tracker.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/toy/facts.h"
#include "pinion/apps/toy/options.h"
#include "pinion/apps/toy/report.h"
#include "pinion/apps/toy/simple_net.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/nn/weights.h"
#include "pinion/optim/grad_scaler.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/graph.h"
#include "pinion/runtime/log.h"

namespace pinion::toy {

namespace {

struct Data {
  accel::TensorDataset train;
  std::optional<accel::TensorDataset> test;
  Preprocessing facts;
};

Data made_up_data(const Options& o) {
  Data data{make_synthetic(o.synthetic), std::nullopt, {}};
  const auto features = static_cast<size_t>(o.synthetic.features);
  for (size_t c = 0; c < features; ++c) data.facts.columns.push_back(fmt::format("x{}", c));
  data.facts.named = true;
  data.facts.label = "label";
  data.facts.classes = {"0", "1"};
  data.facts.mean.assign(features, 0);
  data.facts.std.assign(features, 1);
  return data;
}

Data table_data(const Options& o) {
  const Table table = load_table(o.table);
  const Split split = stratified_split(table.labels, o.test_fraction, o.seed);
  const Preprocessing facts = fit_preprocessing(table, split.train);
  const auto part = [&](const std::vector<int64_t>& rows) {
    return accel::TensorDataset(features_of(table, facts, rows), labels_of(table, rows));
  };
  Data data{part(split.train), std::nullopt, facts};
  if (!split.test.empty()) data.test = part(split.test);
  apps::print(fmt::format("{}: {} rows to train on, {} held out, {} features, {} classes\n",
                          table.path, split.train.size(), split.test.size(), table.columns.size(),
                          table.classes.size()));
  return data;
}

// Where the recorded step of one batch size finds its batch, and leaves its loss.
struct RecordedBatch {
  Tensor x, y, loss;

  void fill(const Tensor& features, const Tensor& labels, Device device) {
    if (!x.defined()) x = Tensor(features.shape(), features.dtype(), device);
    if (!y.defined()) y = Tensor(labels.shape(), labels.dtype(), device);
    x.copy_(features);
    y.copy_(labels);
  }
};

void finish_epoch(const Options& o, const EpochFigures& figures, RunFigures& run,
                  accel::Tracker& tracker) {
  run.epochs.push_back(figures);
  const auto epoch = static_cast<int64_t>(run.epochs.size());
  tracker.log({{"epoch", epoch}, {"loss", figures.loss}, {"accuracy", figures.accuracy}});
  apps::print(fmt::format("Epoch {}/{}, Loss: {:.4f}, Accuracy: {:.2f}%\n", epoch, o.epochs,
                          figures.loss, 100 * figures.accuracy));
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

RunFigures train_model(const Options& o, const accel::TensorDataset& data, SimpleNet& model,
                       accel::Tracker& tracker) {
  accel::DataLoader loader(data, {.batch_size = o.batch_size,
                                  .shuffle = true,
                                  .workers = static_cast<int>(o.workers),
                                  .seed = o.seed});
  auto optimizer = make_optimizer(o, model);
  optim::GradScaler scaler({.enabled = o.precision == nn::Precision::fp16});
  if (o.cuda_graph) optimizer->make_capturable(), scaler.make_capturable(o.device);
  StepGraphs graphs(o.cuda_graph ? o.device : Device{});
  std::map<int64_t, RecordedBatch> batches;  // by size
  accel::Progress progress("", o.epochs * loader.batches());
  accel::Mean mean_loss;
  accel::Accuracy accuracy;
  RunFigures run{{}, model.parameter_count(), data.size(), 0};
  const auto start = std::chrono::steady_clock::now();

  const auto step = [&](const Tensor& x, const Tensor& labels) {
    Tensor logits, loss;
    {
      nn::Autocast autocast(o.precision);
      logits = model(x);
      loss = nn::cross_entropy(logits, labels);
    }
    backward(scaler.scale(loss));
    scaler.step(*optimizer);
    scaler.update();
    optimizer->zero_grad();
    mean_loss.add(loss);
    accuracy.add(logits, labels);
    return loss;
  };

  for (int64_t epoch = 1; epoch <= o.epochs; ++epoch) {
    mean_loss.reset();
    accuracy.reset();
    progress.retitle(fmt::format("Epoch {}/{}", epoch, o.epochs));

    for (auto& [x, y] : loader) {
      Tensor loss;
      if (o.cuda_graph) {
        RecordedBatch& batch = batches[x.size(0)];
        batch.fill(x, y, o.device);
        graphs.run(std::to_string(x.size(0)), [&] { batch.loss = step(batch.x, batch.y); });
        loss = batch.loss;
      } else {
        loss = step(x.to(o.device), y.to(o.device));
      }
      progress.step([&] { return loss.item(); });
    }

    progress.erase();
    finish_epoch(o, {mean_loss.value(), accuracy.value()}, run, tracker);
  }
  run.seconds = seconds_since(start);
  return run;
}

// The same model and optimizer, but all epochs in one call: on a GPU, in one launch.
RunFigures train_model_fused(const Options& o, const accel::TensorDataset& data, SimpleNet& model,
                             accel::Tracker& tracker) {
  RunFigures run{{}, model.parameter_count(), data.size(), 0};
  const auto start = std::chrono::steady_clock::now();
  const auto epochs = optim::train_fused(model.fc1, model.fc2, data.features().to(o.device),
                                         data.labels().to(o.device), fused_run_options(o));
  run.seconds = seconds_since(start);
  for (const optim::FusedEpoch& e : epochs) finish_epoch(o, {e.loss, e.accuracy}, run, tracker);
  return run;
}

// Logits of all of x [n, features] on the CPU, in pieces that fit in memory whatever n is.
Tensor evaluate(const Options& o, SimpleNet& model, const Tensor& x) {
  constexpr int64_t kRows = 65536;
  const NoGrad no_grad;
  const nn::Autocast autocast(o.precision);
  Tensors parts;
  for (int64_t at = 0; at < x.size(0); at += kRows)
    parts.push_back(
        nn::cast(model(x.rows(at, std::min(at + kRows, x.size(0))).to(o.device)), DType::f32)
            .to(Device{}));
  return nn::concat(parts, 0);
}

int train(const Options& o) {
  manual_seed(o.seed);
  const Data data = o.table.path.empty() ? made_up_data(o) : table_data(o);
  SimpleNet model(data.train.features().size(1), o.hidden,
                  static_cast<int64_t>(data.facts.classes.size()));
  model.to(o.device);

  make_dirs(o.output_dir);
  accel::JsonlTracker tracker(o.output_dir + "/metrics.jsonl", accel::TrackerStart::replace);
  const auto train_by = o.engine == "fused" ? train_model_fused : train_model;
  const RunFigures run = train_by(o, data.train, model, tracker);
  PINION_REQUIRE(non_finite, std::isfinite(run.epochs.back().loss),
                 "training: expected a finite loss, got ", run.epochs.back().loss,
                 " (a smaller --lr may help)");

  std::optional<accel::ConfusionMatrix> test;
  if (data.test) {
    test.emplace(data.facts.classes);
    test->add(evaluate(o, model, data.test->features()), data.test->labels());
    apps::print(fmt::format("\nHeld-out accuracy: {:.2f}% of {} rows\n\n{}", 100 * test->accuracy(),
                            test->total(), test->text()));
  }
  nn::save_weights(model, o.output_dir + "/model.safetensors", metadata_of(data.facts));
  write_file_atomic(o.output_dir + "/report.html", report_html(o, run, test ? &*test : nullptr));
  apps::print(fmt::format("Saved {0}/model.safetensors, {0}/metrics.jsonl and {0}/report.html\n",
                          o.output_dir));
  return 0;
}

int predict(const Options& o) {
  const SavedModel saved = read_facts(o.predict);
  std::vector<std::string> unused;
  const Table table = load_table_for(saved.facts, o.table, &unused);
  for (const std::string& name : unused)
    log_info({o.table.path, ": column ", quoted(name), " is not used"});

  SimpleNet model(static_cast<int64_t>(saved.facts.columns.size()), saved.hidden,
                  static_cast<int64_t>(saved.facts.classes.size()));
  nn::load_weights(model, o.predict);
  model.to(o.device);
  const std::vector<int64_t> rows = all_rows(table);
  const Tensor logits = evaluate(o, model, features_of(table, saved.facts, rows));

  const std::string csv = predictions_csv(saved.facts, nn::softmax(logits));
  o.output.empty() ? apps::print(csv) : write_file_atomic(o.output, csv);
  if (!table.labels.empty()) {
    accel::ConfusionMatrix matrix(saved.facts.classes);
    matrix.add(logits, labels_of(table, rows));
    apps::print_error(fmt::format("Accuracy: {:.2f}% of {} rows\n\n{}", 100 * matrix.accuracy(),
                                  matrix.total(), matrix.text()));
  }
  return 0;
}

}  // namespace
}  // namespace pinion::toy

int main(int argc, char** argv) {
  return pinion::apps::run_program("simple_train", [&] {
    const auto options = pinion::toy::parse_options(argc, argv);
    if (!options) return 0;
    return options->predict.empty() ? pinion::toy::train(*options) : pinion::toy::predict(*options);
  });
}
