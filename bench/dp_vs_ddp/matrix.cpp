// SPDX-License-Identifier: Apache-2.0
// Order of work, and from what processes measured to rows.
#include "pinion/bench/dp_vs_ddp/matrix.h"

#include <algorithm>

#include "pinion/bench/dp_vs_ddp/budget.h"

namespace pinion::bench {
namespace {

void check(const MatrixOptions& o) {
  PINION_REQUIRE(usage, !o.cells.empty(), "--cells: expected a cell, got none");
  for (const std::string& cell : o.cells) cell_named(cell);
  PINION_REQUIRE(usage, !o.ranks.empty(), "--ranks: expected a number of devices, got none");
  for (const std::vector<int>* list : {&o.ranks, &o.modelled})
    for (const int n : *list)
      PINION_REQUIRE(usage, n >= 2 && n <= 64, "--ranks: expected 2 to 64 devices, got ", n);
  PINION_REQUIRE(usage, o.repetitions >= 1 && o.repetitions <= 1000,
                 "--repetitions: expected 1 to 1000, got ", o.repetitions);
  PINION_REQUIRE(usage, o.minutes >= 0, "--minutes: expected 0 or more, got ", o.minutes);
}

std::vector<Scheme> schemes_of(const MatrixOptions& o) {
  std::vector<Scheme> wanted{Scheme::one, Scheme::one_share, Scheme::dp_pytorch};
  for (const std::string& name : o.schemes) wanted.push_back(scheme_named(name));
  std::vector<Scheme> out;
  for (const SchemeFacts& s : schemes())
    if (o.schemes.empty() || std::find(wanted.begin(), wanted.end(), s.scheme) != wanted.end())
      out.push_back(s.scheme);
  return out;
}

Training training_of(Scheme scheme, RunReport run) {
  Training t{facts_of(scheme).name, std::move(run.weights), {}, 0, run.ranks_equal};
  for (int s = 0; s < kGateSteps; ++s) {
    double sum = 0;  // batches of ranks are of one size
    for (const ProcessReport& p : run.processes) sum += p.losses[s];
    t.losses.push_back(sum / static_cast<double>(run.processes.size()));
  }
  for (const ProcessReport& p : run.processes) t.seen += p.seen;
  return t;
}

// `seconds` grows by those of a repetition of all schemes.
std::vector<Gate> gates_of(const Cell& cell, const std::vector<Scheme>& list, int devices,
                           const Timing& timing, double& seconds) {
  const auto run = [&](Scheme s, int times) {
    RunReport report = run_gate(cell, s, devices);
    seconds += times * seconds_by_gate(report, cell, timing);
    return training_of(s, std::move(report));
  };
  const auto is_gate = [](Scheme s) {  // one-share sees other samples
    return s != Scheme::one && facts_of(s).tolerance != 0;
  };
  const auto others = std::count_if(list.begin(), list.end(), is_gate);
  const Training expected =
      run(Scheme::one, static_cast<int>(list.size()) - static_cast<int>(others));
  std::vector<Gate> out;
  for (const Scheme s : list) {
    if (!is_gate(s)) continue;
    for (Gate& g : compare(cell.name, expected, run(s, 1), facts_of(s).tolerance))
      out.push_back(std::move(g));
  }
  return out;
}

// The median over repetitions of what `value` finds in each.
template <class F>
double median_of(const std::vector<RunReport>& runs, F value) {
  std::vector<double> values;
  for (const RunReport& r : runs) values.push_back(value(r));
  return median(std::move(values));
}

template <class F>
double most(const RunReport& run, F value) {
  double out = 0;
  for (const ProcessReport& p : run.processes) out = std::max(out, static_cast<double>(value(p)));
  return out;
}

template <class F>
double sum(const RunReport& run, F value) {
  double out = 0;
  for (const ProcessReport& p : run.processes) out += static_cast<double>(value(p));
  return out;
}

// Device by device. The devices of DataParallel share one allocator: what replicas hold is known
// (weights and gradients, and an equal part of the activations), the rest is device 0's.
void add_memory(Row& row, const Cell& cell, const std::vector<RunReport>& runs) {
  const auto tag_of = [&](MemoryTag tag) {
    return median_of(runs, [&](const RunReport& r) {
      return static_cast<double>(r.processes[0].tags[static_cast<size_t>(tag)]);
    });
  };
  for (int t = 0; t < kMemoryTags; ++t) row.tags[t] = tag_of(static_cast<MemoryTag>(t));
  const double all =
      median_of(runs, [](const RunReport& r) { return static_cast<double>(r.processes[0].peak); }) -
      tag_of(MemoryTag::data);
  row.device0 = row.others = all;
  if (row.scheme == Scheme::dp_pytorch || row.scheme == Scheme::dp_tuned) {
    row.others = 8.0 * static_cast<double>(parameter_count(cell)) +
                 tag_of(MemoryTag::activations) / row.devices;
    row.device0 = all - row.others * (row.devices - 1);
  }
  row.pss = median_of(runs, [](const RunReport& r) {
    return sum(r, [](const ProcessReport& p) { return p.memory.pss; });
  });
  row.high_water = median_of(runs, [](const RunReport& r) {
    return most(r, [](const ProcessReport& p) { return p.memory.high_water; });
  });
}

Row row_of(const Cell& cell, Scheme scheme, int devices, const std::vector<RunReport>& runs) {
  Row row{.cell = cell.name, .scheme = scheme, .devices = devices};
  const auto samples = static_cast<double>(scheme == Scheme::one_share ? cell.per_device
                                                                       : cell.per_device * devices);
  std::vector<std::vector<double>> times;  // rank 0's: all ranks wait for each other every step
  for (const RunReport& r : runs)
    times.emplace_back(r.processes[0].block_seconds, r.processes[0].block_seconds + r.blocks);
  const Estimate step = estimate(times);
  row.samples_per_second = {samples / step.value, samples / step.high, samples / step.low};
  for (double Phases::*part :
       {&Phases::forward, &Phases::backward, &Phases::exchange, &Phases::update})
    row.phases.*part = median_of(runs, [&](const RunReport& r) {
      return most(r, [&](const ProcessReport& p) { return p.phases.*part; });
    });
  row.cpu_per_sample = median_of(runs, [&](const RunReport& r) {
    return sum(r, [](const ProcessReport& p) { return p.cpu_seconds; }) / samples;
  });
  add_memory(row, cell, runs);
  row.state_by_algebra = state_bytes(cell, scheme, devices);
  row.traffic = traffic_of(cell, scheme, devices);
  row.foreign = median_of(runs, [](const RunReport& r) { return r.foreign; });
  row.dirty = row.foreign > kMostForeign;
  row.oversubscribed = scheme != Scheme::one && scheme != Scheme::one_share &&
                       static_cast<size_t>(devices) > usable_cores().size();
  return row;
}

// `planned` seconds for a repetition.
void measure(Report& report, const Cell& cell, const std::vector<Scheme>& list, int devices,
             double planned, Progress& progress) {
  std::vector<std::vector<RunReport>> runs(list.size());
  for (int round = 0; round < report.repetitions; ++round) {
    progress.begin(cell.name + ", " + std::to_string(devices) + " devices: repetition " +
                   std::to_string(round + 1) + " of " + std::to_string(report.repetitions));
    for (const size_t i : turn(list.size(), round))
      runs[i].push_back(time_steps(cell, list[i], devices, report.options.timing));
    progress.done(planned);
  }
  for (size_t i = 0; i < list.size(); ++i)
    report.rows.push_back(row_of(cell, list[i], devices, runs[i]));
}

void add_models(Report& report, const Cell& cell, const std::vector<Scheme>& list, int measured,
                const Link& link) {
  const Row* share = find_row(report, cell.name, Scheme::one_share, measured);
  const ModelConstants k = fit(link, measured, share->phases);
  report.constants.emplace_back(cell.name, k);
  std::vector<int> sizes{measured};
  sizes.insert(sizes.end(), report.options.modelled.begin(), report.options.modelled.end());
  for (const int n : sizes)
    for (const Scheme s : list) {
      if (s == Scheme::one || s == Scheme::one_all_cores || s == Scheme::one_share) continue;
      const Row* row = find_row(report, cell.name, s, n);
      report.models.push_back(
          {cell.name, s, n,
           static_cast<double>(cell.per_device * n) / modelled_seconds(cell, s, n, k),
           row ? row->samples_per_second.value : 0});
    }
}

}  // namespace

const Row* find_row(const Report& report, const std::string& cell, Scheme scheme, int devices) {
  for (const Row& row : report.rows)
    if (row.cell == cell && row.scheme == scheme && row.devices == devices) return &row;
  return nullptr;
}

Report run_matrix(const MatrixOptions& options,
                  const std::function<void(const std::string&)>& say) {
  check(options);
  const auto start = std::chrono::steady_clock::now();
  Report report{.options = options, .machine = machine_facts()};
  const std::vector<Scheme> list = schemes_of(options);
  std::vector<double> planned;  // seconds of a repetition, of each cell and number of devices
  double once = 0;              // of all
  for (const std::string& name : options.cells)
    for (const int n : options.ranks) {
      say(name + ", " + std::to_string(n) + " devices: gates");
      double seconds = 0;
      for (Gate& g : gates_of(cell_named(name), list, n, options.timing, seconds))
        report.gates.push_back(std::move(g));
      planned.push_back(seconds);
      once += seconds;
    }
  require_gates(report.gates);
  const int first = options.ranks[0];
  const Link link = measure_link(first);
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  report.repetitions = fitting(options.repetitions, once, spent.count(), options.minutes);
  Progress progress(say, once * report.repetitions);
  auto seconds = planned.begin();
  for (const std::string& name : options.cells) {
    for (const int n : options.ranks)
      measure(report, cell_named(name), list, n, *seconds++, progress);
    add_models(report, cell_named(name), list, first, link);
  }
  return report;
}

}  // namespace pinion::bench
