// SPDX-License-Identifier: Apache-2.0
// Asks mpirun what it is, and speaks to it accordingly.
#include "pinion/accel/launch/mpirun.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "pinion/accel/launch/environment.h"
#include "pinion/accel/launch/process.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

// Open MPI hands on only what it is told to; what ranks find on their own host is none of it.
bool travels(std::string_view name, const LaunchPlan& plan) {
  for (const char* beginning : {"PINION_", "ACCELERATE_", "FSDP_", "OMP_", "NCCL_", "CUDA_VISIBLE"})
    if (name.starts_with(beginning)) return true;
  return std::any_of(plan.named.begin(), plan.named.end(),
                     [&](const std::string& pattern) { return matches(pattern, name); });
}

}  // namespace

MpiFlavour mpi_flavour(std::string_view version) {
  if (version.find("Open MPI") != version.npos || version.find("OpenRTE") != version.npos)
    return MpiFlavour::open_mpi;
  if (version.find("Intel(R) MPI") != version.npos) return MpiFlavour::intel;
  if (version.find("HYDRA") != version.npos || version.find("mpich") != version.npos)
    return MpiFlavour::mpich;
  fail(ErrorKind::config,
       {"mpirun --version: expected Open MPI, MPICH or Intel MPI, got ", quoted(version, 200)});
}

MpiFlavour installed_mpi() {
  Pipe pipe;
  SpawnRequest request;
  const char* path = std::getenv("PATH");
  request.program = "/usr/bin/env";  // looks through PATH
  request.argv = {"env", "mpirun", "--version"};
  request.environment = {{"PATH", path ? path : "/usr/bin:/bin"}};
  request.out = request.err = pipe.write.get();
  Process process = spawn(request);
  pipe.write.reset();
  std::string text;
  char bytes[4096];
  ssize_t n;
  while ((n = read(pipe.read.get(), bytes, sizeof bytes)) > 0 || (n < 0 && errno == EINTR))
    if (n > 0 && text.size() < 65536) text.append(bytes, static_cast<size_t>(n));
  int status = 0;
  while (waitpid(process.pid, &status, 0) < 0 && errno == EINTR) {
  }
  PINION_REQUIRE(config, WIFEXITED(status) && WEXITSTATUS(status) != 127,
                 "mpirun_hostfile: expected mpirun in PATH, found none (Debian: openmpi-bin)");
  return mpi_flavour(text);
}

std::vector<std::string> mpirun_command(const LaunchPlan& plan, const std::string& hostfile,
                                        MpiFlavour flavour) {
  const std::string each = std::to_string(plan.local_ranks), all = std::to_string(plan.ranks);
  std::vector<std::string> command{"mpirun"};
  const auto add = [&](std::initializer_list<std::string> words) {
    command.insert(command.end(), words);
  };
  if (flavour == MpiFlavour::open_mpi) {
    add({"--hostfile", hostfile, "--npernode", each, "-n", all, "--bind-to", "socket"});
    for (const auto& [name, value] : plan.environment)
      if (travels(name, plan)) add({"-x", name});
  } else {  // Hydra, MPICH's and Intel's, hands the whole environment on
    add({"-f", hostfile, "-ppn", each, "-n", all});
  }
  add({plan.program});
  command.insert(command.end(), plan.argv.begin() + 1, plan.argv.end());
  return command;
}

void become(const std::vector<std::string>& command, const LaunchPlan& plan) {
  for (const auto& [name, value] : plan.environment) setenv(name.c_str(), value.c_str(), 1);
  std::vector<std::string> words = command;
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  fail(ErrorKind::config, {"mpirun: ", std::strerror(errno)});
}

}  // namespace pinion::accel
