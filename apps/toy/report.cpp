// SPDX-License-Identifier: Apache-2.0
// Fills an HtmlReport with the figures of a run.
#include "pinion/apps/toy/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "pinion/accel/track/html_report.h"
#include "pinion/accel/track/text.h"

namespace pinion::toy {

namespace {

constexpr size_t kMostListed = 50;  // epochs in the table; the curves show more

std::string percent(double share) { return fmt::format("{:.2f} %", 100 * share); }

accel::Table epoch_table(const RunFigures& run) {
  accel::Table table{"Epochs", {"epoch", "loss", "accuracy"}, {}};
  const size_t n = run.epochs.size();
  for (size_t i = n > kMostListed ? n - kMostListed : 0; i < n; ++i)
    table.rows.push_back({std::to_string(i + 1), fmt::format("{:.4f}", run.epochs[i].loss),
                          fmt::format("{:.2f}%", 100 * run.epochs[i].accuracy)});
  if (n > kMostListed) table.title = fmt::format("The last {} epochs", kMostListed);
  return table;
}

}  // namespace

std::string report_html(const Options& o, const RunFigures& run,
                        const accel::ConfusionMatrix* test) {
  const bool made_up = o.table.path.empty();
  accel::HtmlReport report(
      made_up ? "simple_train" : "simple_train: " + o.table.path,
      fmt::format("{} samples, {} parameters, {} epochs in {}", accel::grouped(run.samples),
                  accel::grouped(run.parameters), run.epochs.size(), accel::elapsed(run.seconds)));
  std::vector<std::pair<std::string, std::string>> values;
  accel::Series loss{"training", {}, {}}, accuracy{"training", {}, {}};
  for (size_t i = 0; i < run.epochs.size(); ++i) {
    loss.x.push_back(static_cast<double>(i + 1));
    loss.y.push_back(run.epochs[i].loss);
    accuracy.y.push_back(run.epochs[i].accuracy);
  }
  accuracy.x = loss.x;
  if (!run.epochs.empty()) {
    values.emplace_back("Loss", accel::short_number(run.epochs.back().loss));
    values.emplace_back("Accuracy in training", percent(run.epochs.back().accuracy));
    values.emplace_back("Best accuracy in training",
                        percent(*std::max_element(accuracy.y.begin(), accuracy.y.end())));
  }
  if (test) values.emplace_back("Accuracy on held-out rows", percent(test->accuracy()));
  report.add_values(values);
  report.add_chart({.title = "Loss",
                    .x_label = "epoch",
                    .y_label = "cross-entropy",
                    .series = {loss},
                    .best = accel::Best::lowest});
  report.add_chart({.title = "Accuracy",
                    .x_label = "epoch",
                    .y_label = "correct",
                    .series = {accuracy},
                    .best = accel::Best::highest,
                    .percent = true});
  if (test) report.add_confusion("Confusion matrix of the held-out rows", *test);
  accel::Table settings{"Settings", {}, {}};
  for (const auto& [name, value] : settings_of(o)) settings.rows.push_back({name, value});
  report.add_table(settings);
  report.add_table(epoch_table(run));
  return report.html();
}

}  // namespace pinion::toy
