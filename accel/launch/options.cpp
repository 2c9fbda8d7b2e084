// SPDX-License-Identifier: Apache-2.0
// Turns what was asked for into a plan for this machine.
#include "pinion/accel/launch/options.h"

#include <sched.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "pinion/accel/launch/environment.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/device.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

bool is_program(const std::string& path) {
  FileStatus status;
  return fs().status(path, status) == 0 && status.kind == FileKind::regular &&
         access(path.c_str(), X_OK) == 0;
}

// The file that `name` means: a path as it is; a bare name in PATH, then in the current folder,
// then beside the launcher.
std::string find_program(const std::string& name, const Machine& machine) {
  PINION_REQUIRE(usage, !name.ends_with(".py"), "launch: expected a compiled program, got ",
                 quoted(name),
                 "; pinion starts binaries: pass the program that takes its place, "
                 "such as accelerate_train, or run the script with accelerate launch");
  std::vector<std::string> tried;
  if (name.find('/') != name.npos) {
    tried.push_back(name);
  } else {
    const auto path = machine.environment.find("PATH");
    std::string_view folders =
        path == machine.environment.end() ? "" : std::string_view(path->second);
    while (!folders.empty()) {
      const size_t end = std::min(folders.find(':'), folders.size());
      if (end > 0) tried.push_back(std::string(folders.substr(0, end)) + "/" + name);
      folders.remove_prefix(std::min(end + 1, folders.size()));
    }
    tried.push_back("./" + name);
    if (!machine.program_folder.empty()) tried.push_back(machine.program_folder + "/" + name);
  }
  for (const std::string& candidate : tried)
    if (is_program(candidate)) return candidate;
  for (const std::string& candidate : tried)
    PINION_REQUIRE(usage, !exists(candidate),
                   "launch: expected a program that can be executed, got ", quoted(candidate));
  fail(ErrorKind::missing, {"launch: program ", quoted(name), " not found",
                            tried.size() > 1 ? " in PATH, in this folder or beside pinion" : ""});
}

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts;
  while (true) {
    const size_t end = text.find(at);
    parts.emplace_back(text.substr(0, end));
    if (end == text.npos) return parts;
    text.remove_prefix(end + 1);
  }
}

int whole_number(std::string_view text, const char* what, int most) {
  int value = -1;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  PINION_REQUIRE(usage, error == std::errc() && stop == end && value >= 0 && value <= most, what,
                 ": expected a number from 0 to ", most, ", got ", quoted(text));
  return value;
}

// "3", or "0:1,1:3" by rank of this machine.
std::vector<uint8_t> parse_tee(const std::string& text, int ranks) {
  std::vector<uint8_t> tee(static_cast<size_t>(ranks), 0);
  if (text.find(':') == text.npos) {
    std::fill(tee.begin(), tee.end(), static_cast<uint8_t>(whole_number(text, "--tee", 3)));
    return tee;
  }
  for (const std::string& part : split(text, ',')) {
    const size_t colon = part.find(':');
    PINION_REQUIRE(usage, colon != part.npos, "--tee: expected rank:what, got ", quoted(part));
    const int rank = whole_number(std::string_view(part).substr(0, colon), "--tee", ranks - 1);
    tee[static_cast<size_t>(rank)] =
        static_cast<uint8_t>(whole_number(std::string_view(part).substr(colon + 1), "--tee", 3));
  }
  return tee;
}

std::string random_id() {
  uint64_t number = 0;
  PINION_REQUIRE(io, getrandom(&number, sizeof number, 0) == sizeof number,
                 "getrandom: expected 8 bytes, got none");
  std::string text(16, '0');
  for (char& c : text) c = "0123456789abcdef"[number & 15], number >>= 4;
  return text;
}

void plan_ranks(const LaunchOptions& o, const Machine& machine, LaunchPlan& plan) {
  plan.machines = o.num_machines;
  plan.machine = o.machine_rank;
  PINION_REQUIRE(config, plan.machine < plan.machines,
                 "machine_rank: expected less than "
                 "num_machines=",
                 plan.machines, ", got ", plan.machine);
  const bool wants_gpus = !o.cpu && (o.multi_gpu || machine.gpus > 0);
  plan.ranks = o.num_processes;
  if (plan.ranks == 0) plan.ranks = plan.machines * (wants_gpus ? std::max(1, machine.gpus) : 1);
  PINION_REQUIRE(config, plan.ranks % plan.machines == 0,
                 "num_processes: expected a multiple of num_machines=", plan.machines, ", got ",
                 plan.ranks);
  plan.local_ranks = plan.ranks / plan.machines;
  plan.first_rank = plan.machine * plan.local_ranks;
}

// Whether every rank has a GPU, and which.
void plan_gpus(const LaunchOptions& o, const Machine& machine, LaunchPlan& plan) {
  const bool some = o.gpu_ids != "all" && !o.gpu_ids.empty();
  int available = machine.gpus;
  if (some) {
    const auto ids = split(o.gpu_ids, ',');
    for (const std::string& id : ids)
      PINION_REQUIRE(config, !id.empty(), "gpu_ids: expected all, or numbers with commas, got ",
                     quoted(o.gpu_ids));
    available = std::min(available, static_cast<int>(ids.size()));
  }
  if (o.cpu) return;
  plan.gpus = available >= plan.local_ranks;
  const bool must =
      o.multi_gpu || (some && machine.gpus > 0) || (machine.gpus > 0 && available > 0);
  const std::string asked = o.multi_gpu ? o.multi_gpu_origin : "num_processes";
  if (!plan.gpus && must && !o.allow_cpu_fallback)
    fail(ErrorKind::device,
         {asked, ": expected ", plan.local_ranks, " CUDA devices for ", plan.local_ranks,
          " ranks on this machine, found ", available, "; to train on CPUs instead add --cpu, or ",
          "--allow_cpu_fallback to take CPUs only where GPUs are missing"});
  if (!plan.gpus && must) plan.notes.push_back("there are too few CUDA devices: training on CPUs");
  if (plan.gpus && some) plan.environment["CUDA_VISIBLE_DEVICES"] = o.gpu_ids;
}

void plan_environment(const LaunchOptions& o, const Machine& machine, LaunchPlan& plan) {
  Variables environment = inherited_environment(machine.environment, o.allow_env, plan.notes);
  for (const auto& [name, value] : o.variables) environment[name] = value;
  for (const auto& [name, value] : plan.environment) environment[name] = value;
  if (!plan.gpus) environment["ACCELERATE_USE_CPU"] = "true";
  plan.threads = o.num_cpu_threads_per_process;
  if (plan.threads == 0) plan.threads = std::max(1, machine.cpus / plan.local_ranks);
  for (const char* name : {"PINION_NUM_THREADS", "OMP_NUM_THREADS"})
    if (o.num_cpu_threads_per_process > 0 || !environment.count(name))
      environment[name] = std::to_string(plan.threads);
  if (o.enable_cpu_affinity) environment["ACCELERATE_CPU_AFFINITY"] = "1";
  add_variables(o.env, o.allow_env, environment);
  plan.environment = std::move(environment);
  plan.named = o.allow_env;
  for (const std::string& entry : o.env) plan.named.push_back(entry.substr(0, entry.find('=')));
}

// "run_id=a,timeout=30": torchrun's way of saying such things.
void read_rdzv_conf(const std::string& text, LaunchPlan& plan) {
  plan.meeting_time = std::chrono::minutes(10);
  if (text.empty()) return;
  for (const std::string& part : split(text, ',')) {
    const std::string name = part.substr(0, part.find('='));
    const std::string value = name.size() < part.size() ? part.substr(name.size() + 1) : "";
    if (name == "run_id" && !value.empty()) {
      plan.run_id = value;
    } else {
      PINION_REQUIRE(usage, name == "timeout" || name == "join_timeout",
                     "--rdzv_conf: expected run_id=name or timeout=seconds, got ", quoted(part));
      plan.meeting_time = std::chrono::seconds(whole_number(value, "--rdzv_conf timeout", 864'000));
    }
  }
}

void plan_meeting(const LaunchOptions& o, LaunchPlan& plan) {
  plan.port = o.main_process_port;
  if (!o.main_process_ip.empty()) plan.host = o.main_process_ip;
  plan.run_id = plan.machines > 1 ? "pinion" : random_id();
  read_rdzv_conf(o.rdzv_conf, plan);
  plan.secret_file = o.rdzv_secret_file;
  if (plan.machines == 1 || o.by_mpi) return;
  PINION_REQUIRE(config, !o.main_process_ip.empty(),
                 "main_process_ip: expected the address of "
                 "machine 0, as there are ",
                 plan.machines, " machines, got nothing");
  PINION_REQUIRE(config, plan.port > 0, "main_process_port: expected the port on machine 0 where ",
                 plan.machines, " machines meet, got nothing");
  PINION_REQUIRE(config, !plan.secret_file.empty(), "rdzv_secret_file: expected a file that all ",
                 plan.machines,
                 " machines share (--rdzv_secret_file or PINION_RDZV_SECRET_FILE; "
                 "make one by: (umask 077; head -c 32 /dev/urandom > FILE)), got nothing");
}

// Where output goes, and what mpirun, which starts the ranks itself, does not do.
void plan_watching(const LaunchOptions& o, LaunchPlan& plan) {
  const bool log = !o.log_dir.empty();
  plan.tee = parse_tee(!o.tee.empty() ? o.tee : log ? "3" : "0", plan.local_ranks);
  const bool tees = std::any_of(plan.tee.begin(), plan.tee.end(), [](uint8_t t) { return t != 0; });
  PINION_REQUIRE(usage, log || !tees, "--tee: expected --log_dir beside it, for the files");
  const char* const odd = log ? "--log_dir" : o.max_restarts > 0 ? "--max_restarts" : nullptr;
  PINION_REQUIRE(usage, !o.by_mpi || !odd, odd, ": expected no mpirun_hostfile beside it, as ",
                 "mpirun starts the ranks and looks after them");
  plan.log_dir = o.log_dir;
  plan.role = o.role;
  plan.quiet = o.quiet;
  plan.max_restarts = o.max_restarts;
  plan.grace_period = o.grace_period;
}

}  // namespace

Machine this_machine(const LaunchOptions& options) {
  Machine machine;
  if (!options.cpu) machine.gpus = cuda_device_count();
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) machine.cpus = CPU_COUNT(&set);
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals != text.npos && equals > 0)
      machine.environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  char self[4096];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self);
  if (length > 0)
    machine.program_folder = parent_dir(std::string(self, static_cast<size_t>(length)));
  return machine;
}

LaunchPlan plan_launch(const LaunchOptions& options, const Machine& machine) {
  PINION_REQUIRE(usage, !options.command.empty(),
                 "launch: expected a program to start, got none (--help lists the flags)");
  LaunchPlan plan;
  plan.argv = options.command;
  plan.program = find_program(plan.argv[0], machine);
  plan_ranks(options, machine, plan);
  plan_gpus(options, machine, plan);
  plan_environment(options, machine, plan);
  plan_meeting(options, plan);
  plan.cpu_affinity = options.enable_cpu_affinity;
  plan_watching(options, plan);
  return plan;
}

}  // namespace pinion::accel
