// SPDX-License-Identifier: Apache-2.0
// pinion launch: from flags, file and environment to a plan, and the plan to the launcher.
#include <cstdlib>

#include "pinion/accel/config/schema.h"
#include "pinion/accel/launch/launcher.h"
#include "pinion/accel/launch/mpirun.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/pinion/commands.h"
#include "pinion/apps/pinion/launch_flags.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/log.h"

namespace pinion::apps {

namespace {

using accel::Config;
using accel::LaunchOptions;

void take_settings(const Config& config, LaunchOptions& o) {
  o.num_processes = static_cast<int>(config.integer("num_processes"));
  o.num_machines = static_cast<int>(config.integer("num_machines", 1));
  o.machine_rank = static_cast<int>(config.integer("machine_rank"));
  o.main_process_ip = config.text("main_process_ip");
  o.main_process_port = static_cast<int>(config.integer("main_process_port"));
  const std::string& type = config.text("distributed_type");
  o.cpu = config.flag("use_cpu") || type == "MULTI_CPU";
  o.multi_gpu = type == "MULTI_GPU";
  if (o.multi_gpu) {
    const std::string& where = config["distributed_type"].where;
    o.multi_gpu_origin =
        where.starts_with("--") ? where : "distributed_type MULTI_GPU (" + where + ")";
  }
  o.by_mpi = config.uses_mpirun();
  o.gpu_ids = config.text("gpu_ids");
  o.num_cpu_threads_per_process = static_cast<int>(config.integer("num_cpu_threads_per_process"));
  o.enable_cpu_affinity = config.flag("enable_cpu_affinity");
  for (const auto& [name, value] : config.environment()) o.variables[name] = value;
  // These mean the same without DeepSpeed, whose keys they are in a file.
  for (const char* key : {"gradient_accumulation_steps", "gradient_clipping"}) {
    const accel::ConfigKey& row = *accel::find_config_key(key);
    if (config[row.name].origin == accel::Origin::flag)
      o.variables[std::string(row.environment)] = config.text(row.name);
  }
  if (const char* file = std::getenv("PINION_RDZV_SECRET_FILE"); file && o.rdzv_secret_file.empty())
    o.rdzv_secret_file = file;
}

int launch_by_mpi(const Config& config, const accel::LaunchPlan& plan, bool dry_run) {
  const std::string& hostfile = config.text("mpirun_config.mpirun_hostfile");
  PINION_REQUIRE(missing, exists(hostfile), "mpirun_hostfile: there is no ", quoted(hostfile));
  const auto line = accel::mpirun_command(plan, hostfile, accel::installed_mpi());
  if (!dry_run) accel::become(line, plan);
  std::string text;
  for (const std::string& word : line) text += (text.empty() ? "" : " ") + quoted(word, 1 << 20);
  print(text + "\n");
  return 0;
}

}  // namespace

int launch_main(int argc, char** argv) {
  LaunchCommand command = parse_launch(argc, argv);
  if (command.help) {
    print(launch_help());
    return 0;
  }
  Config& config = command.config;
  config.read_environment();
  if (!command.config_file.empty())
    config.read_file(command.config_file);
  else if (!config.flag("use_cpu"))
    config.read_default_file();
  config.check();
  if (command.print_config) {
    print(config.table());
    return 0;
  }
  take_settings(config, command.options);
  accel::LaunchPlan plan =
      accel::plan_launch(command.options, accel::this_machine(command.options));
  for (const std::string& note : config.notes()) plan.notes.push_back(note);
  if (config.uses_mpirun()) return launch_by_mpi(config, plan, command.dry_run);
  if (command.dry_run) {
    print(accel::dry_run(plan));
    return 0;
  }
  return accel::launch(plan);
}

}  // namespace pinion::apps
