// SPDX-License-Identifier: Apache-2.0
// The same tables twice: as text on a grid, and as a page with bars.
#include "pinion/bench/dp_vs_ddp/pages.h"

#include <fmt/format.h>

#include <algorithm>

#include "pinion/accel/track/text.h"
#include "pinion/bench/dp_vs_ddp/tables.h"

namespace pinion::bench {
namespace {

// In the order of the page: the summary first.
template <class Add>
void tables_of(const Report& report, Add add) {
  add(summary_table(report));
  add(target_table(report));
  for (const std::string& cell : report.options.cells) {
    for (const int n : report.options.ranks) {
      add(speed_table(report, cell, n));
      add(memory_table(report, cell, n));
    }
    add(model_table(report, cell));
  }
  add(gate_table(report));
}

std::string text_of_table(const accel::Table& table) {
  std::vector<std::vector<std::string>> rows{table.header};
  rows.insert(rows.end(), table.rows.begin(), table.rows.end());
  std::vector<size_t> widths(table.header.size());
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c)
      widths[c] = std::max(widths[c], accel::columns_of(row[c]));
  std::string out = table.title + "\n";
  for (const auto& row : rows) {
    std::string line = " ";
    for (size_t c = 0; c < row.size(); ++c)
      line += " " + accel::padded(row[c], widths[c], accel::Align::left) + " ";
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out + "\n";
}

std::string title_of(const Row& r) {
  return std::string(facts_of(r.scheme).name) + (r.dirty ? " (dirty)" : "");
}

void add_bars(accel::HtmlReport& page, const Report& report, const std::string& cell, int devices) {
  accel::Bars speed{fmt::format("{}, {} devices: samples/s", cell, devices), {}};
  accel::Bars memory{fmt::format("{}, {} devices: MiB on device 0", cell, devices), {}};
  for (const Row& r : report.rows) {
    if (r.cell != cell || r.devices != devices) continue;
    const Estimate& s = r.samples_per_second;
    speed.bars.push_back({title_of(r), s.value, s.low, s.high, r.dirty});
    const double mib = r.device0 / (1 << 20);
    memory.bars.push_back({facts_of(r.scheme).name, mib, mib, mib, false});
  }
  page.add_bars(speed);
  page.add_bars(memory);
}

void add_model_bars(accel::HtmlReport& page, const Report& report, const std::string& cell) {
  for (const int n : report.options.modelled) {
    accel::Bars bars{fmt::format("{}, {} devices: samples/s (model)", cell, n), {}};
    for (const ModelRow& m : report.models)
      if (m.cell == cell && m.devices == n)
        bars.bars.push_back({facts_of(m.scheme).name, m.samples_per_second, m.samples_per_second,
                             m.samples_per_second, true});
    page.add_bars(bars);
  }
}

}  // namespace

std::string text_of(const Report& report) {
  std::string out;
  for (const std::string& note : notes(report)) out += note + "\n";
  out += "\n";
  tables_of(report, [&](const accel::Table& table) { out += text_of_table(table); });
  return out;
}

std::string html_of(const Report& report) {
  accel::HtmlReport page("DataParallel and DistributedDataParallel",
                         "Training speed and memory of the same model on the same cores");
  for (const std::string& note : notes(report)) page.add_text(note);
  for (const std::string& cell : report.options.cells) {
    page.add_heading(cell + ": " + cell_named(cell).what);
    for (const int n : report.options.ranks) add_bars(page, report, cell, n);
    add_model_bars(page, report, cell);
  }
  page.add_text("Faded bars are dirty or modelled; whiskers are 95 % intervals of the median.");
  page.add_heading("Tables");
  tables_of(report, [&](const accel::Table& table) { page.add_table(table); });
  accel::Table machine{"Machine", {}, {}};
  for (const auto& [name, value] : report.machine) machine.rows.push_back({name, value});
  page.add_table(machine);
  return page.html();
}

}  // namespace pinion::bench
