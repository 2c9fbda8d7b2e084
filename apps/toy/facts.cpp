// SPDX-License-Identifier: Apache-2.0
// The facts travel as one JSON text in the metadata of the safetensors file.
#include "pinion/apps/toy/facts.h"

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "pinion/accel/track/metrics.h"
#include "pinion/accel/track/tracker.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"

namespace pinion::toy {

namespace {

constexpr const char* kKey = "simple_train";  // of the metadata
constexpr size_t kMaxClasses = 1'000'000, kMaxColumns = 1'000'000;

// A field of the facts as a T; an Error (checkpoint) when it is not there or not one.
template <class T>
T field(const nlohmann::json& facts, const char* name, const std::string& path) {
  try {
    return facts.at(name).get<T>();
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::checkpoint, {path, ": expected a model of simple_train, got one whose ",
                                 quoted(name), " is missing or of another type"});
  }
}

void check_facts(const Preprocessing& f, const std::string& path) {
  const size_t columns = f.columns.size();
  bool fits = columns >= 1 && columns <= kMaxColumns && f.mean.size() == columns &&
              f.std.size() == columns && f.classes.size() >= 2 && f.classes.size() <= kMaxClasses;
  for (size_t c = 0; fits && c < columns; ++c)
    fits = std::isfinite(f.mean[c]) && std::isfinite(f.std[c]) && f.std[c] > 0;
  PINION_REQUIRE(
      checkpoint, fits, path,
      ": expected a mean and a deviation above 0 for each column, two classes or more; got ",
      columns, " columns, ", f.mean.size(), " means, ", f.std.size(), " deviations and ",
      f.classes.size(), " classes");
}

}  // namespace

SafetensorsMetadata metadata_of(const Preprocessing& f) {
  const nlohmann::json facts = {{"columns", f.columns}, {"named", f.named}, {"label", f.label},
                                {"classes", f.classes}, {"mean", f.mean},   {"std", f.std}};
  return {{kKey, facts.dump()}};
}

SavedModel read_facts(const std::string& path) {
  const SafetensorsReader reader(path);
  const auto text = reader.metadata().find(kKey);
  PINION_REQUIRE(checkpoint, text != reader.metadata().end(), path,
                 ": expected a model of simple_train, got a file without its metadata");
  const nlohmann::json facts =
      parse_json(text->second, path + " (metadata " + kKey + ")", ErrorKind::checkpoint);
  SavedModel model;
  Preprocessing& f = model.facts;
  f.columns = field<std::vector<std::string>>(facts, "columns", path);
  f.named = field<bool>(facts, "named", path);
  f.label = field<std::string>(facts, "label", path);
  f.classes = field<std::vector<std::string>>(facts, "classes", path);
  f.mean = field<std::vector<double>>(facts, "mean", path);
  f.std = field<std::vector<double>>(facts, "std", path);
  check_facts(f, path);
  const SafetensorsEntry* fc1 = reader.find("fc1.weight");
  const SafetensorsEntry* fc2 = reader.find("fc2.weight");
  const auto columns = static_cast<int64_t>(f.columns.size());
  const auto classes = static_cast<int64_t>(f.classes.size());
  PINION_REQUIRE(checkpoint,
                 fc1 && fc2 && fc1->shape.size() == 2 && fc2->shape.size() == 2 &&
                     fc1->shape[0] >= 1 && fc1->shape[1] == columns && fc2->shape[0] == classes &&
                     fc2->shape[1] == fc1->shape[0],
                 path, ": expected fc1.weight [hidden,", columns, "] and fc2.weight [", classes,
                 ",hidden], got others");
  model.hidden = fc1->shape[0];
  return model;
}

std::string predictions_csv(const Preprocessing& facts, const Tensor& probabilities) {
  const std::vector<int64_t> predicted = accel::predicted_classes(probabilities);
  const std::vector<float> p = probabilities.values<float>();
  const size_t classes = facts.classes.size();
  std::string out = "prediction";
  for (const std::string& name : facts.classes)
    accel::append_csv_text(out += ',', "p(" + name + ")");
  out += '\n';
  for (size_t row = 0; row < predicted.size(); ++row) {
    accel::append_csv_text(out, facts.classes[static_cast<size_t>(predicted[row])]);
    for (size_t c = 0; c < classes; ++c)
      fmt::format_to(std::back_inserter(out), ",{:.6g}", p[row * classes + c]);
    out += '\n';
  }
  return out;
}

}  // namespace pinion::toy
