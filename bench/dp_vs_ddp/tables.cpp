// SPDX-License-Identifier: Apache-2.0
// Rows become cells of text here; nothing is measured or modelled.
#include "pinion/bench/dp_vs_ddp/tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "pinion/accel/track/text.h"

namespace pinion::bench {
namespace {

using accel::short_number;

// Books of other threads are late by up to 64 KiB (runtime/allocator.h): less than nothing is none.
std::string mib(double bytes) { return fmt::format("{:.2f}", std::max(0.0, bytes) / (1 << 20)); }

std::string times(double ratio) { return fmt::format("{:.2f}x", ratio); }

// Samples per second, or bytes of device 0, of a scheme over those of the DataParallel like
// PyTorch's, in the same cell.
double speed_ratio(const Report& report, const Row& row) {
  const Row* base = find_row(report, row.cell, Scheme::dp_pytorch, row.devices);
  return row.samples_per_second.value / base->samples_per_second.value;
}
double memory_ratio(const Report& report, const Row& row) {
  const Row* base = find_row(report, row.cell, Scheme::dp_pytorch, row.devices);
  return row.device0 / base->device0;
}

std::string state_of(const Row& row) {
  std::string out = row.dirty ? "dirty" : "clean";
  if (row.oversubscribed) out += ", oversubscribed";
  return out;
}

std::string of_milliseconds(double seconds) { return fmt::format("{:.3f}", seconds * 1e3); }

// "0.98x - 1.31x" over all rows of a scheme.
struct Range {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  void add(double v) { low = std::min(low, v), high = std::max(high, v); }
  bool empty() const { return low > high; }
};

Range speeds_of(const Report& report, Scheme scheme) {
  Range out;
  for (const Row& row : report.rows)
    if (row.scheme == scheme) out.add(speed_ratio(report, row));
  return out;
}

// Of models whose state the books resolve.
Range memory_of(const Report& report, Scheme scheme) {
  constexpr double kLeast = 1 << 20;
  Range out;
  for (const Row& row : report.rows)
    if (row.scheme == scheme && row.state_by_algebra >= kLeast) out.add(memory_ratio(report, row));
  return out;
}

std::string percent_saved(const Range& r) {
  const double least = 100 * (1 - r.high), best = 100 * (1 - r.low);
  if (r.empty()) return "not run, or too small";
  return best - least < 0.5 ? fmt::format("{:+.0f} %", best)
                            : fmt::format("{:+.0f} to {:+.0f} %", least, best);
}

std::string speed_of(const Range& r) {
  if (r.empty()) return "not run";
  return r.high - r.low < 0.005 ? times(r.high) : times(r.low) + " to " + times(r.high);
}

}  // namespace

std::vector<std::string> notes(const Report& report) {
  std::vector<std::string> out;
  const auto dirty =
      std::count_if(report.rows.begin(), report.rows.end(), [](const Row& r) { return r.dirty; });
  if (report.options.quick)
    out.emplace_back("Taken with --quick: too few steps and repetitions for figures to quote.");
  if (report.repetitions < report.options.repetitions)
    out.push_back(
        fmt::format("{} of {} repetitions were made: more would have taken over {} minutes.",
                    report.repetitions, report.options.repetitions, report.options.minutes));
  if (dirty > 0)
    out.push_back(
        fmt::format("{} of {} rows are dirty: other programs took more than {:.0f} % of "
                    "the machine's CPU time while they were measured.",
                    dirty, report.rows.size(), 100 * kMostForeign));
  out.emplace_back(
      "Devices are CPU cores. All schemes have the same kernels, initial weights, data, batch per "
      "device, Adam, and one thread on a core of its own for each device.");
  out.emplace_back(
      "What DDP gives: speed. Every rank reduces and updates by itself, nothing passes through one "
      "device, and logits stay where they are. Its state is DataParallel's on device 0, 16 bytes a "
      "parameter, so it saves no memory there but the gathered logits.");
  out.emplace_back(
      "What ZeRO gives: memory, 12, 10 or 8 bytes a parameter on 2 devices at stage 1, 2 or 3, and "
      "the largest layer's gradients at stage 2, its weights too at 3. At stage 1 ranks of one "
      "host reduce, update and gather in one walk over memory; stage 3 sends half as many bytes "
      "again. What bf16 gives: half of the gradients' traffic, for 2 bytes a parameter more memory "
      "and rounded gradients.");
  out.emplace_back(
      "Rows marked `model` were computed, not measured: a step's time on one device, and an "
      "all-reduce of 2 (N-1) alpha + 2 (N-1)/N bytes beta. They take each device to have its own "
      "core and memory, and nothing to be sent while something is computed.");
  return out;
}

accel::Table gate_table(const Report& report) {
  accel::Table table{"Gates: the same training as on one device", {}, {}};
  table.header = {"cell", "scheme", "what", "got", "limit", "passed"};
  for (const Gate& g : report.gates)
    table.rows.push_back({g.cell, g.scheme, g.what, fmt::format("{:.2e}", g.got),
                          fmt::format("{:.0e}", g.limit), g.passed() ? "yes" : "no"});
  return table;
}

accel::Table speed_table(const Report& report, const std::string& cell, int devices) {
  accel::Table table{fmt::format("Speed: {}, {} devices", cell, devices), {}, {}};
  table.header = {"scheme",        "samples/s",     "95 % interval", "of dp-pytorch-like",
                  "forward ms",    "backward",      "exchange",      "update",
                  "CPU us/sample", "sent MiB/step", "busiest",       "state"};
  for (const Row& r : report.rows) {
    if (r.cell != cell || r.devices != devices) continue;
    const Estimate& s = r.samples_per_second;
    table.rows.push_back({facts_of(r.scheme).name, short_number(s.value),
                          short_number(s.low) + " - " + short_number(s.high),
                          times(speed_ratio(report, r)), of_milliseconds(r.phases.forward),
                          of_milliseconds(r.phases.backward), of_milliseconds(r.phases.exchange),
                          of_milliseconds(r.phases.update), short_number(r.cpu_per_sample * 1e6),
                          mib(r.traffic.total), mib(r.traffic.busiest), state_of(r)});
  }
  return table;
}

accel::Table memory_table(const Report& report, const std::string& cell, int devices) {
  accel::Table table{fmt::format("Memory in MiB: {}, {} devices", cell, devices), {}, {}};
  table.header = {"scheme",      "device 0",   "each other", "of dp-pytorch-like",
                  "algebra",     "parameters", "gradients",  "optimizer",
                  "activations", "other",      "PSS, all",   "high water"};
  const auto tag = [](const Row& r, MemoryTag t) { return mib(r.tags[static_cast<size_t>(t)]); };
  for (const Row& r : report.rows) {
    if (r.cell != cell || r.devices != devices) continue;
    table.rows.push_back({facts_of(r.scheme).name, mib(r.device0), mib(r.others),
                          times(memory_ratio(report, r)), mib(r.state_by_algebra),
                          tag(r, MemoryTag::parameters), tag(r, MemoryTag::gradients),
                          tag(r, MemoryTag::optimizer), tag(r, MemoryTag::activations),
                          tag(r, MemoryTag::other), mib(r.pss), mib(r.high_water)});
  }
  return table;
}

accel::Table model_table(const Report& report, const std::string& cell) {
  accel::Table table{"Model: " + cell, {}, {}};
  table.header = {"kind", "devices", "scheme", "samples/s", "of dp-pytorch-like", "measured"};
  double base = 1;
  for (const ModelRow& m : report.models) {
    if (m.cell != cell) continue;
    if (m.scheme == Scheme::dp_pytorch) base = m.samples_per_second;
    table.rows.push_back({"model", std::to_string(m.devices), facts_of(m.scheme).name,
                          short_number(m.samples_per_second), times(m.samples_per_second / base),
                          m.measured > 0 ? short_number(m.measured) : "-"});
  }
  return table;
}

accel::Table summary_table(const Report& report) {
  struct Line {
    const char* way;
    Scheme scheme;
    const char* ease;
  };
  constexpr Line kLines[] = {
      {"DataParallel (as PyTorch's)", Scheme::dp_pytorch, "2 lines; one process, no launcher"},
      {"DataParallel (tuned)", Scheme::dp_tuned, "2 lines; one process, no launcher"},
      {"Accelerator (runs DDP)", Scheme::ddp,
       "3 lines: make, prepare, backward; ranks, data and checkpoints are its business"},
      {"DDP by hand", Scheme::ddp, "3 lines, and ranks, data and checkpoints by hand"},
      {"DDP with bf16 gradients", Scheme::ddp_bf16, "DDP and an option"},
      {"ZeRO 1", Scheme::zero1, "2 lines by hand, or an option of Accelerator"},
      {"ZeRO 2", Scheme::zero2, "2 lines by hand, or an option of Accelerator"},
      {"ZeRO 3", Scheme::zero3, "the same, and units that are run through it"}};
  accel::Table table{"Speed, memory and ease, measured", {}, {}};
  table.header = {"way to train", "speed", "memory saved on device 0", "ease"};
  for (const Line& line : kLines) {
    const bool base = line.scheme == Scheme::dp_pytorch;
    table.rows.push_back({line.way, base ? "baseline" : speed_of(speeds_of(report, line.scheme)),
                          base ? "baseline" : percent_saved(memory_of(report, line.scheme)),
                          line.ease});
  }
  return table;
}

accel::Table target_table(const Report& report) {
  constexpr const char* kRules =
      "DDP at least 2.00x DataParallel as PyTorch's, where communication rules";
  accel::Table table{"Targets", {}, {}};
  table.header = {"cell", "devices", "target", "got", "met"};
  const auto add = [&](const Row& row, const char* target, const std::string& got, bool met) {
    table.rows.push_back({row.cell, std::to_string(row.devices), target, got,
                          std::string(met ? "yes" : "no") + (row.dirty ? " (dirty)" : "")});
  };
  const auto add_model = [&](const ModelRow& row, double base) {
    const double ratio = row.samples_per_second / base;
    table.rows.push_back({row.cell, std::to_string(row.devices), kRules, times(ratio) + " (model)",
                          ratio >= 2 ? "yes" : "no"});
  };
  double base = 1;
  for (const ModelRow& row : report.models) {
    if (row.cell != "wide-mlp" || row.measured > 0) continue;
    if (row.scheme == Scheme::dp_pytorch) base = row.samples_per_second;
    if (row.scheme == Scheme::ddp) add_model(row, base);
  }
  for (const Row& row : report.rows) {
    if (row.scheme == Scheme::ddp || row.scheme == Scheme::zero1) {
      const Row* tuned = find_row(report, row.cell, Scheme::dp_tuned, row.devices);
      double best =
          find_row(report, row.cell, Scheme::dp_pytorch, row.devices)->samples_per_second.value;
      if (tuned) best = std::max(best, tuned->samples_per_second.value);
      const double ratio = row.samples_per_second.value / best;
      const bool ddp = row.scheme == Scheme::ddp;
      add(row,
          ddp ? "DDP at least 1.00x the better DataParallel"
              : "ZeRO 1 at least 1.00x the better DataParallel",
          times(ratio), ratio >= 1);
      if (ddp && row.cell == "wide-mlp")
        add(row, kRules, times(speed_ratio(report, row)), speed_ratio(report, row) >= 2);
    }
    const double saved = 1 - memory_ratio(report, row);
    if (row.cell != "wide-mlp") continue;  // elsewhere activations rule
    if (row.scheme == Scheme::zero2)
      add(row, "ZeRO 2 takes 30 % less on device 0", fmt::format("{:.0f} %", 100 * saved),
          saved >= 0.3);
    if (row.scheme == Scheme::zero3)
      add(row, "ZeRO 3 takes 45 % less on device 0", fmt::format("{:.0f} %", 100 * saved),
          saved >= 0.45);
  }
  return table;
}

}  // namespace pinion::bench
