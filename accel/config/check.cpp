// SPDX-License-Identifier: Apache-2.0
// Contradictions between settings: the stronger origin wins, and equals are refused by naming both.
#include "pinion/kernels/check.h"

#include <algorithm>

#include "pinion/accel/config/config.h"
#include "pinion/accel/config/schema.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

std::string place(const Setting& setting) {
  return setting.where.empty() ? "default" : setting.where;
}

// "a.yaml:3:1: num_processes: expected …, got 3 (num_machines 2 at a.yaml:4:1)"
[[noreturn]] void contradict(const Config& config, std::string_view key, std::string_view expected,
                             std::string_view other) {
  const Setting &here = config[key], &there = config[other];
  const bool flag = here.origin == Origin::flag || there.origin == Origin::flag;
  fail(flag ? ErrorKind::usage : ErrorKind::config,
       {place(here), ": ", key, ": expected ", expected, ", got ",
        here.value.empty() ? "none" : here.value, " (", other, " ",
        there.value.empty() ? "none" : there.value, ": ", place(there), ")"});
}

// Gives way to a stronger setting.
void adapt(Setting& weaker, std::string value, const Setting& stronger) {
  weaker.value = std::move(value);
  weaker.origin = stronger.origin;
  weaker.where = cat({"because of ", place(stronger)});
}

}  // namespace

void Config::check_devices() {
  Setting &type = at("distributed_type"), &cpu = at("use_cpu");
  if (type.value == "MULTI_GPU" && cpu.value == "true") {
    if (cpu.origin == type.origin) contradict(*this, "distributed_type", "MULTI_CPU", "use_cpu");
    if (cpu.origin > type.origin)
      adapt(type, "MULTI_CPU", cpu);
    else
      adapt(cpu, "false", type);
  }
  if (type.value == "MULTI_CPU" && cpu.value == "false") {
    if (cpu.origin == type.origin) contradict(*this, "use_cpu", "true", "distributed_type");
    if (cpu.origin > type.origin)
      adapt(type, "", cpu);
    else
      adapt(cpu, "true", type);
  }
  Setting& ranks = at("num_processes");
  if (type.value == "NO" && integer("num_processes", 1) > 1) {
    if (ranks.origin <= type.origin)
      contradict(*this, "distributed_type", "MULTI_CPU or MULTI_GPU", "num_processes");
    adapt(type, "", ranks);
  }
  if (type.value == "NO" && ranks.value.empty()) adapt(ranks, "1", type);
}

void Config::check_machines() {
  const int64_t machines = integer("num_machines", 1), ranks = integer("num_processes", 0);
  if (ranks % machines != 0)
    contradict(*this, "num_processes", "a multiple of num_machines", "num_machines");
  if (integer("machine_rank") >= machines)
    contradict(*this, "machine_rank", "less than num_machines", "num_machines");
  if (machines > 1 && text("distributed_type") == "NO")
    contradict(*this, "distributed_type", "MULTI_CPU or MULTI_GPU", "num_machines");
  if (integer("machine_rank") > 0 && !has("main_process_ip") && !uses_mpirun())
    contradict(*this, "main_process_ip", "the address of machine 0", "machine_rank");
  const std::string& ids = text("gpu_ids");
  const int64_t gpus = std::count(ids.begin(), ids.end(), ',') + 1;
  if (ids != "all" && !flag("use_cpu") && ranks / machines > gpus)
    contradict(*this, "gpu_ids", "a GPU for each rank of the machine", "num_processes");
}

void Config::check_sharding() const {
  int64_t product = 1;
  std::string last;
  for (const char* part : {"dp_replicate", "dp_shard", "tp", "cp", "sp"}) {
    const std::string key = cat({"parallelism_config.parallelism_config_", part, "_size"});
    if (integer(key, 1) > 1) last = key;
    product *= integer(key, 1);
    if (product > (int64_t{1} << 32)) break;  // no number of ranks is that large
  }
  if (!last.empty() && has("num_processes") && product != integer("num_processes"))
    contradict(*this, "num_processes", "the product of the sizes in parallelism_config", last);
}

// A flag of a section that is left alone would do nothing. In files, which may be shared, such keys
// get a note.
void Config::check_flags() const {
  const std::string& type = text("distributed_type");
  for (const ConfigKey& key : config_keys()) {
    const Setting& setting = (*this)[key.name];
    const bool always =
        key.leaf().starts_with("gradient_");  // they mean the same without DeepSpeed
    if (setting.origin != Origin::flag || always || key.applies_to(type)) continue;
    fail(ErrorKind::usage,
         {setting.where, ": expected --use_", key.section() == "fsdp_config" ? "fsdp" : "deepspeed",
          " beside it or in the configuration, got distributed_type ",
          type.empty() ? "none" : type});
  }
}

void Config::check() {
  if (text("distributed_type") == "DEEPSPEED" && has("deepspeed_config.deepspeed_config_file"))
    read_deepspeed_file();
  check_devices();
  check_machines();
  check_sharding();
  check_flags();
}

}  // namespace pinion::accel
