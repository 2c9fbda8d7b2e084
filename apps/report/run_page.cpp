// SPDX-License-Identifier: Apache-2.0
// Fills an HtmlReport.
#include "pinion/apps/report/run_page.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "pinion/accel/track/html_report.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/json.h"

namespace pinion::report {

namespace {

constexpr int64_t kFilmSide = 256;  // of the gallery: larger films only make the page heavy
constexpr int64_t kMaxMetrics = int64_t{64} << 20;

// The values of one name in every record that has it.
accel::Series series_of(const std::string& jsonl, const std::string& path, const char* name) {
  accel::Series series{name, {}, {}};
  for (size_t at = 0; at < jsonl.size();) {
    const size_t end = std::min(jsonl.find('\n', at), jsonl.size());
    const auto record = parse_json(std::string_view(jsonl).substr(at, end - at), path);
    at = end + 1;
    if (!record.contains(name) || !record[name].is_number() || !record.contains("epoch")) continue;
    series.x.push_back(record["epoch"].get<double>());
    series.y.push_back(record[name].get<double>());
  }
  return series;
}

std::string shown(const std::string& name, double value) {
  return name == "unique" ? fmt::format("{:.0f}", value) : fmt::format("{:.3f}", value);
}

accel::Table table_of(const RunPage& page) {
  accel::Table table{"Test split, and what needs no image",
                     {"", "as written", "images shuffled", "images blank", "best constant"},
                     {}};
  for (const auto& [name, value] : page.test.values) {
    std::vector<std::string> row = {name, shown(name, value)};
    for (const Figures* f : {&page.controls.shuffled, &page.blank, &page.controls.constant})
      row.push_back(f->has(name) ? shown(name, f->of(name)) : "");
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

std::string html_of(const RunPage& page) {
  accel::HtmlReport report(page.title, page.subtitle);
  std::vector<std::pair<std::string, std::string>> headline;
  for (const char* name : {"F1", "exact", "BLEU_4", "ROUGE_L", "METEOR_es", "CIDEr"})
    if (page.test.has(name)) headline.emplace_back(name, shown(name, page.test.of(name)));
  report.add_values(headline);

  const std::string jsonl = read_file(page.metrics_path, kMaxMetrics);
  const auto series = [&](const char* name) { return series_of(jsonl, page.metrics_path, name); };
  report.add_chart({.title = "Training loss",
                    .x_label = "epoch",
                    .y_label = "cross-entropy of a word",
                    .series = {series("loss")},
                    .best = accel::Best::lowest});
  accel::Chart validation{.title = "Validation", .x_label = "epoch"};
  for (const char* name : {"BLEU_4", "ROUGE_L", "F1"})
    if (accel::Series s = series(name); !s.x.empty()) validation.series.push_back(std::move(s));
  report.add_chart(validation);

  report.add_table(table_of(page));
  report.add_text("Best constant report: " + page.controls.constant_report);
  report.add_text("Written of blank films: " + page.blank_report);
  report.add_heading("Films and reports");
  for (const GalleryEntry& entry : page.gallery) {
    std::vector<std::string> films;
    for (const Image& film : entry.films)
      films.push_back(
          encode_png(film.height > kFilmSide ? resize(film, kFilmSide, kFilmSide) : film));
    report.add_pictures(films,
                        {{"Study", entry.id},
                         {"True", entry.truth},
                         {"Written", entry.written},
                         {entry.truth == entry.written ? "The same." : "Not the same.", ""}});
  }
  accel::Table settings{"Settings", {}, {}};
  for (const auto& [name, value] : page.settings) settings.rows.push_back({name, value});
  report.add_table(settings);
  return report.html();
}

}  // namespace pinion::report
