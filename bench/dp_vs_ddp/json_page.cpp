// SPDX-License-Identifier: Apache-2.0
// The report as JSON: seconds, bytes, and samples per second, never rounded.
#include <nlohmann/json.hpp>

#include "pinion/bench/dp_vs_ddp/pages.h"

namespace pinion::bench {
namespace {

using nlohmann::json;

json json_of_phases(const Phases& p) {
  return {{"forward", p.forward},
          {"backward", p.backward},
          {"exchange", p.exchange},
          {"update", p.update}};
}

json json_of_row(const Row& r) {
  json tags;
  for (int t = 0; t < kMemoryTags; ++t) tags[name_of(static_cast<MemoryTag>(t))] = r.tags[t];
  return {{"kind", "measured"},
          {"cell", r.cell},
          {"scheme", facts_of(r.scheme).name},
          {"devices", r.devices},
          {"samples_per_second", r.samples_per_second.value},
          {"samples_per_second_95", {r.samples_per_second.low, r.samples_per_second.high}},
          {"step_seconds", json_of_phases(r.phases)},
          {"cpu_seconds_per_sample", r.cpu_per_sample},
          {"device0_bytes", r.device0},
          {"other_device_bytes", r.others},
          {"peak_bytes_by_tag", tags},
          {"state_bytes_by_algebra", r.state_by_algebra},
          {"pss_bytes", r.pss},
          {"high_water_bytes", r.high_water},
          {"sent_bytes_per_step", r.traffic.total},
          {"busiest_device_bytes_per_step", r.traffic.busiest},
          {"foreign_cpu_share", r.foreign},
          {"dirty", r.dirty},
          {"oversubscribed", r.oversubscribed}};
}

}  // namespace

std::string json_of(const Report& report) {
  json machine, rows = json::array(), gates = json::array(), constants;
  for (const auto& [name, value] : report.machine) machine[name] = value;
  for (const Gate& g : report.gates)
    gates.push_back({{"cell", g.cell},
                     {"scheme", g.scheme},
                     {"what", g.what},
                     {"got", g.got},
                     {"limit", g.limit},
                     {"passed", g.passed()}});
  for (const Row& r : report.rows) rows.push_back(json_of_row(r));
  for (const ModelRow& m : report.models) {
    rows.push_back({{"kind", "model"},
                    {"cell", m.cell},
                    {"scheme", facts_of(m.scheme).name},
                    {"devices", m.devices},
                    {"samples_per_second", m.samples_per_second}});
    if (m.measured > 0) rows.back()["measured"] = m.measured;
  }
  for (const auto& [cell, k] : report.constants)
    constants[cell] = {{"share_seconds", json_of_phases(k.share)},
                       {"alpha_seconds", k.alpha},
                       {"beta_seconds_per_byte", k.beta},
                       {"copy_seconds_per_byte", k.copy},
                       {"wake_seconds", k.wake}};
  const MatrixOptions& o = report.options;
  const json all = {{"program", "dp_vs_ddp"},
                    {"quick", o.quick},
                    {"repetitions", report.repetitions},
                    {"repetitions_wanted", o.repetitions},
                    {"warm_up_steps", o.timing.warm_up},
                    {"blocks", o.timing.blocks},
                    {"machine", machine},
                    {"gates", gates},
                    {"model_constants", constants},
                    {"rows", rows}};
  return all.dump(1) + "\n";
}

}  // namespace pinion::bench
