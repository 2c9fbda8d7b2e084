// SPDX-License-Identifier: Apache-2.0
// Fills an HtmlReport.
#include "pinion/apps/report/run_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "pinion/accel/track/html_report.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/json.h"

namespace pinion::report {

namespace {

constexpr int64_t kFilmHeight = 256;  // in the gallery: larger films only make the page heavy
constexpr int64_t kHeatSide = 112;    // of a film under its heat
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

accel::Table table_of(const FigureTable& figures) {
  accel::Table table{"Test split, beside what did not look", {""}, {}};
  for (const auto& [name, value] : figures.front().second.values) {
    std::vector<std::string> row = {name};
    for (const auto& [what, of] : figures)
      row.push_back(of.has(name) ? shown(name, of.of(name)) : "");
    table.rows.push_back(std::move(row));
  }
  for (const auto& [what, of] : figures) table.header.push_back(what);
  return table;
}

// One figure of every row, so that it can be seen what looking was worth.
accel::Bars bars_of(const FigureTable& figures, const char* name) {
  accel::Bars bars{name, {}};
  for (const auto& [what, of] : figures)
    bars.bars.push_back({what, of.of(name), 0, 0, what != figures.front().first});
  return bars;
}

// The largest shares of the time of training, in per cent, and the rest as one.
accel::Bars bars_of(const std::vector<accel::ProfileShare>& time) {
  constexpr size_t kShown = 14;
  double sum = 0;
  for (const accel::ProfileShare& share : time) sum += share.seconds;
  accel::Bars bars{fmt::format("Where the time of training went, % of {:.3g} s", sum), {}};
  accel::Bar rest{fmt::format("{} others", time.size() - std::min(time.size(), kShown))};
  for (const accel::ProfileShare& share : time)
    if (bars.bars.size() < kShown)
      bars.bars.push_back({share.name, 100 * share.seconds / sum});
    else
      rest.value += 100 * share.seconds / sum;
  if (time.size() > kShown) bars.bars.push_back(rest);
  return bars;
}

std::string png_of(const Image& film) {
  if (film.height <= kFilmHeight) return encode_png(film);
  const int64_t width = film.width * kFilmHeight / film.height;
  return encode_png(resize(film, kFilmHeight, std::max<int64_t>(1, width)));
}

void add_study(accel::HtmlReport& report, const GalleryEntry& entry) {
  constexpr const char* kViews[] = {"frontal", "lateral"};
  std::vector<accel::Picture> films, sentences;
  for (size_t view = 0; view < entry.films.size(); ++view)
    films.push_back(
        {png_of(entry.films[view]), entry.films.size() == 2 ? kViews[view] : "", false});
  for (const Attended& sentence : entry.attended) {
    const bool wrong = (" " + entry.truth).find(" " + sentence.text) == std::string::npos;
    sentences.push_back(
        {encode_png(attention_row(entry.films, sentence, kHeatSide)), sentence.text, wrong});
  }
  report.add_pictures(films,
                      {{"Study", entry.id},
                       {"True", entry.truth},
                       {"Written", entry.written},
                       {entry.truth == entry.written ? "The same." : "Not the same.", ""}},
                      sentences);
}

}  // namespace

std::string html_of(const RunPage& page) {
  accel::HtmlReport report(page.title, page.subtitle);
  const Figures& test = page.controls.table.front().second;
  std::vector<std::pair<std::string, std::string>> headline = {
      {"best epoch", std::to_string(page.best_epoch)}};
  for (const char* name : {"F1", "exact", "BLEU_4", "ROUGE_L", "METEOR_es", "CIDEr"})
    if (test.has(name)) headline.emplace_back(name, shown(name, test.of(name)));
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
  if (!page.time.empty()) report.add_bars(bars_of(page.time));

  report.add_table(table_of(page.controls.table));
  if (auto rows = by_finding(page.controls.table); !rows.empty())
    report.add_table({"By finding", rows.front(), {rows.begin() + 1, rows.end()}});
  for (const char* name : {"F1", "BLEU_4"})
    if (test.has(name)) report.add_bars(bars_of(page.controls.table, name));
  for (size_t at = 0, end; at < page.looks.size(); at = end + 1) {
    end = std::min(page.looks.find('\n', at), page.looks.size());
    report.add_text(page.looks.substr(at, end - at));
  }
  report.add_text(note_on_meteor());
  report.add_text("Best constant report: " + page.controls.constant_report);
  report.add_text("Written of blank films: " + page.blank_report);
  report.add_heading("Films, reports, and where each sentence looked");
  for (const GalleryEntry& entry : page.gallery) add_study(report, entry);
  accel::Table settings{"Settings", {}, {}};
  for (const auto& [name, value] : page.settings) settings.rows.push_back({name, value});
  report.add_table(settings);
  return report.html();
}

}  // namespace pinion::report
