// SPDX-License-Identifier: Apache-2.0
// LaunchOptions: what a launch was asked for. LaunchPlan: what it comes to on this machine, every
// default filled in and every contradiction refused.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pinion::accel {

using Variables = std::map<std::string, std::string>;  // of an environment

struct LaunchOptions {
  std::vector<std::string> command;  // the program and its arguments

  int num_processes = 0;  // over all machines; 0: one for each GPU, or one
  int num_machines = 1;
  int machine_rank = 0;
  std::string main_process_ip;
  int main_process_port = 0;  // 0: a free one
  bool cpu = false;
  bool multi_gpu = false;        // GPUs are asked for by name
  std::string multi_gpu_origin;  // who asked: "--multi_gpu", "config.json:4:3"
  bool allow_cpu_fallback = false;
  std::string gpu_ids = "all";
  int num_cpu_threads_per_process = 0;  // 0: the CPUs divided by the ranks
  bool enable_cpu_affinity = false;

  Variables variables;                 // ACCELERATE_*, FSDP_*: of every rank
  std::vector<std::string> env;        // "NAME=value", for every rank
  std::vector<std::string> allow_env;  // names to pass on; "NAME*" is a beginning

  std::string log_dir;
  std::string tee;  // "0" to "3" or "0:1,1:3": 1 standard output, 2 errors, 3 both; empty: see plan
  std::string role = "default";
  bool quiet = false;
  int max_restarts = 0;
  double grace_period = 120;  // seconds that ranks have to end after a forwarded signal

  bool by_mpi = false;           // mpirun starts the ranks of all machines and lets them meet
  std::string rdzv_secret_file;  // with several machines: 32 bytes or more, mode 0600
  std::string rdzv_conf;         // "run_id=a,timeout=30"; run_id is drawn, or "pinion" on machines
};

struct LaunchPlan {
  std::string program;  // the file to execute
  std::vector<std::string> argv;
  int machines = 1, machine = 0;
  int local_ranks = 1, ranks = 1, first_rank = 0;
  bool gpus = false;  // each rank has a GPU of its own
  int threads = 1;    // that each rank computes with
  // The environment that every rank shares, without what tells them apart.
  Variables environment;
  std::vector<std::string> named;  // of those, what --env and --allow_env named; "NAME*" too
  std::vector<std::string> notes;  // lines about what was not passed on
  std::string run_id;
  std::string host = "127.0.0.1";  // of machine 0
  int port = 0;
  std::string secret_file;
  std::chrono::milliseconds meeting_time{};  // for the launchers of all machines to come
  bool cpu_affinity = false;
  std::string log_dir;
  std::vector<uint8_t> tee;  // by rank of this machine: 1 standard output, 2 errors, 3 both
  std::string role;
  bool quiet = false;
  int max_restarts = 0;
  double grace_period = 120;
};

// What plan_launch() has to know of this machine.
struct Machine {
  int gpus = 0, cpus = 1;
  Variables environment;
  std::string program_folder;  // where the launcher itself lies: its sister programs are found
};
Machine this_machine(const LaunchOptions& options);

// Throws Error: usage (flags that contradict each other), missing (no such program), config, device
// (GPUs that are not there).
LaunchPlan plan_launch(const LaunchOptions& options, const Machine& machine);

}  // namespace pinion::accel
