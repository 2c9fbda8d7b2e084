// SPDX-License-Identifier: Apache-2.0
// pinion env: what there is on this machine, for people and for reports of problems.
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "pinion/accel/config/config.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/pinion/commands.h"
#include "pinion/kernels/cpu/onednn.h"
#include "pinion/kernels/cpu/parallel.h"
#include "pinion/runtime/device.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/log.h"

namespace pinion::apps {

namespace {

// The rest of the first line of /proc's `path` that begins with `key`, or "unknown".
std::string proc_value(const std::string& path, const std::string& key) {
  std::string text;
  try {  // such files have no size, so that they cannot be read whole
    const File file(path, OpenMode::read);
    text.resize(1 << 16);
    text.resize(file.read_some(text.data(), text.size(), 0));
  } catch (const Error&) {
    return "unknown";
  }
  size_t at = text.find(key);
  if (at == text.npos) return "unknown";
  at = text.find_first_not_of(" \t:", at + key.size());
  return at == text.npos ? "unknown" : text.substr(at, text.find('\n', at) - at);
}

// Where the shell would find the program, or "not found".
std::string find_program(const std::string& name) {
  const char* path = std::getenv("PATH");  // NOLINT(concurrency-mt-unsafe)
  std::string folders = path ? path : "";
  for (size_t at = 0; at <= folders.size();) {
    const size_t end = std::min(folders.find(':', at), folders.size());
    const std::string candidate = folders.substr(at, end - at) + "/" + name;
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
    at = end + 1;
  }
  return "not found";
}

std::string cuda() {
#ifdef PINION_WITH_CUDA
  const int count = cuda_device_count();
  return count == 0 ? "in this build; no device found" : fmt::format("{} device(s)", count);
#else
  return "not in this build";
#endif
}

std::string config_text(const std::string& asked) {
  const std::string path = asked.empty() ? accel::default_config_path() : asked;
  if (asked.empty() && (path.empty() || !exists(path)))
    return fmt::format("configuration: none at {}\n", path);
  accel::Config config;
  config.read_environment();
  config.read_file(path);
  config.check();
  return fmt::format("configuration: {}\n{}", path, config.table());
}

}  // namespace

int env_main(int argc, char** argv) {
  std::string file;
  CLI::App app("Shows versions, devices and the configuration.", "pinion env");
  app.add_option("--config_file", file, "The configuration to show (the default file)");
  if (!parse_command_line(app, argc, argv)) return 0;
  utsname system{};
  uname(&system);
  std::string text;
  const auto line = [&](const char* name, const std::string& value) {
    text += fmt::format("{:<15}{}\n", std::string(name) + ":", escaped(value));
  };
  line("pinion", PINION_VERSION " (" PINION_BUILD_TYPE ", " __VERSION__ ")");
  line("system", fmt::format("{} {} {}", system.sysname, system.release, system.machine));
  line("CPU", proc_value("/proc/cpuinfo", "model name"));
  line("instructions",
       fmt::format("{} (best: {})", name_of(cpu_context().isa), name_of(best_isa())));
  line("cores", fmt::format("{} online, {} threads in use", sysconf(_SC_NPROCESSORS_ONLN),
                            cpu_context().pool->threads()));
  line("memory", fmt::format("{} (available {})", proc_value("/proc/meminfo", "MemTotal"),
                             proc_value("/proc/meminfo", "MemAvailable")));
  line("oneDNN", kernels::onednn::version());
  line("CUDA", cuda());
  line("mpirun", find_program("mpirun"));
  line("srun", find_program("srun"));
  print(text + config_text(file));
  return 0;
}

}  // namespace pinion::apps
