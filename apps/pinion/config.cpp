// SPDX-License-Identifier: Apache-2.0
// pinion config: writes a configuration file from questions on a terminal, or from flags.
#include "pinion/accel/config/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <map>

#include "pinion/accel/config/schema.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/pinion/commands.h"
#include "pinion/apps/pinion/terminal.h"
#include "pinion/runtime/device.h"
#include "pinion/runtime/fs.h"

namespace pinion::apps {

namespace {

using accel::Config;
using accel::ConfigKey;

std::string home() {
  const char* value = std::getenv("HOME");  // NOLINT(concurrency-mt-unsafe)
  return value ? value : ".";
}

// --- the questions -------------------------------------------------------------------------------

class Questions {
 public:
  explicit Questions(Config& config) : config_(config) {}

  void ask() {
    const size_t type =
        ask_menu("Which kind of machine?", {"one device", "several CPU ranks", "several GPUs"}, 0);
    set("distributed_type", type == 0 ? "NO" : type == 1 ? "MULTI_CPU" : "MULTI_GPU");
    if (type != 0) ask_machines();
    if (type == 0) yes_no("Train on the CPU only?", "use_cpu");
    if (type == 1) set("use_cpu", "true");
    if (type == 1 && ask_yes_no("Start ranks through mpirun?", false))
      text("Where is the hostfile?", "mpirun_hostfile", home() + "/hostfile");
    if (type != 0 && ask_yes_no("Share training state between ranks (ZeRO)?", false)) ask_zero();
    if (type == 0)
      set("num_processes", "1");
    else
      text("How many ranks, over all machines?", "num_processes",
           type == 1 ? "2" : std::to_string(std::max(1, cuda_device_count())));
    if (type == 2) text("Which GPUs of this machine (all, or 0,1,…)?", "gpu_ids", "all");
    if (type != 0) yes_no("Bind each rank to CPUs of its own?", "enable_cpu_affinity");
    const std::vector<std::string> precisions = {"no", "fp16", "bf16"};
    set("mixed_precision", precisions[ask_menu("Which mixed precision?", precisions, 0)]);
  }

 private:
  void set(std::string_view key, std::string_view value) { config_.set_flag(key, value, "answer"); }

  // Asks again for as long as the answer is none, or contradicts those before it.
  void text(std::string_view question, std::string_view key, std::string_view standard) {
    const ConfigKey& row = *accel::find_config_key(key);
    set(key, ask_text(question, standard, [&](const std::string& line) -> std::string {
          const accel::CheckedValue checked = accel::check_value(row, line);
          if (!checked.expected.empty()) return "expected " + checked.expected + checked.hint;
          Config tried = config_;
          try {
            tried.set_flag(key, line, "answer");
            tried.check();
          } catch (const Error& e) {
            return e.what();
          }
          return "";
        }));
  }

  void yes_no(std::string_view question, std::string_view key) {
    set(key, ask_yes_no(question, false) ? "true" : "false");
  }

  void ask_machines() {
    text("How many machines?", "num_machines", "1");
    if (config_.integer("num_machines") == 1) return;
    text("What is the address of machine 0?", "main_process_ip", "127.0.0.1");
    text("Which port there?", "main_process_port", "29500");
    text("Which of them is this (from 0)?", "machine_rank", "0");
  }

  void ask_zero() {
    const std::vector<std::string> stages = {"nothing", "optimizer state",
                                             "optimizer state and gradients",
                                             "optimizer state, gradients and parameters"};
    set("distributed_type", "DEEPSPEED");
    set("zero_stage", std::to_string(ask_menu("Share what?", stages, 2)));
    text("How many micro-batches make an update?", "gradient_accumulation_steps", "1");
    if (ask_yes_no("Limit the norm of the gradient?", false))
      text("To which norm?", "gradient_clipping", "1");
  }

  Config& config_;
};

// --- the flags -----------------------------------------------------------------------------------

// A flag for every key that means something; what was given goes to `given`, by key.
void add_key_flags(CLI::App& app, std::map<std::string, std::vector<std::string>>& given) {
  for (const ConfigKey& key : accel::config_keys()) {
    if (key.use != accel::KeyUse::honoured) continue;
    std::string help(key.meaning);
    const std::vector<std::string> choices = accel::offered_choices(key);
    if (!choices.empty()) help += fmt::format(" ({})", fmt::join(choices, ", "));
    std::string names = "--" + std::string(key.leaf());
    if (key.name == "use_cpu") names += ",--cpu";
    app.add_option(names, given[std::string(key.name)], help)
        ->expected(key.type == accel::KeyType::boolean ? 0 : 1, 1)
        ->group("Answers");
  }
}

void show_written(const Config& config, const std::string& path) {
  for (const std::string& note : config.notes()) print_error(note + "\n");
  print(fmt::format("wrote {}\n", path));
}

void write(const Config& config, const std::string& path) {
  PINION_REQUIRE(usage, !path.empty(),
                 "--config_file: expected a file, got none, and HOME is not set");
  make_dirs(parent_dir(path));
  config.write(path);
  show_written(config, path);
}

int ask_or_take_flags(int argc, char** argv) {
  std::string path = accel::default_config_path();
  std::map<std::string, std::vector<std::string>> given;
  CLI::App app(
      "Writes a configuration file: asks on a terminal, or takes the answers by flags.\n"
      "Also: pinion config default, pinion config update.",
      "pinion config");
  app.add_option("--config_file", path, "The file to write; JSON by the ending .json, else YAML")
      ->capture_default_str();
  add_key_flags(app, given);
  if (!parse_command_line(app, argc, argv)) return 0;
  Config config;
  bool any = false;
  for (const auto& [name, values] : given) {
    const std::string flag = "--" + std::string(accel::find_config_key(name)->leaf());
    if (app.count(flag) == 0) continue;
    config.set_flag(name, values.empty() || values[0].empty() ? "true" : values[0]);
    any = true;
  }
  PINION_REQUIRE(
      usage, any || on_terminal(),
      "config: expected a terminal to ask on, or answers by flags (--help), got neither");
  if (!any) Questions(config).ask();
  config.check();
  if (!config.has("distributed_type")) {  // Accelerate wants one
    const bool cpus = config.flag("use_cpu") || cuda_device_count() == 0;
    const bool many = config.integer("num_processes", 1) > 1 || config.integer("num_machines") > 1;
    config.set_flag("distributed_type", !many ? "NO" : cpus ? "MULTI_CPU" : "MULTI_GPU");
    config.check();
  }
  write(config, path);
  return 0;
}

// What this machine suggests.
int write_default(int argc, char** argv) {
  std::string path = accel::default_config_path(), precision = "no";
  CLI::App app("Writes a configuration for this machine, without questions.",
               "pinion config default");
  app.add_option("--config_file", path, "The file to write")->capture_default_str();
  app.add_option("--mixed_precision", precision, "no, fp16 or bf16")->capture_default_str();
  if (!parse_command_line(app, argc, argv)) return 0;
  Config config;
  config.set_flag("mixed_precision", precision);
  if (!path.empty() && exists(path)) {  // as Accelerate: no error, so that setups can be repeated
    print(
        fmt::format("{} is there already and was left as it is; pinion config update adds what "
                    "is missing\n",
                    path));
    return 0;
  }
  const int gpus = cuda_device_count();
  config.set_flag("distributed_type", gpus > 1 ? "MULTI_GPU" : "NO");
  config.set_flag("num_processes", std::to_string(std::max(1, gpus)));
  config.set_flag("use_cpu", gpus == 0 ? "true" : "false");
  config.check();
  write(config, path);
  return 0;
}

int update(int argc, char** argv) {
  std::string path = accel::default_config_path();
  CLI::App app("Reads a configuration file and writes it again with all keys and today's names.",
               "pinion config update");
  app.add_option("--config_file", path, "The file")->capture_default_str();
  if (!parse_command_line(app, argc, argv)) return 0;
  Config config;
  config.read_file(path);
  config.check();
  write(config, path);
  return 0;
}

}  // namespace

int config_main(int argc, char** argv) {
  const std::string_view first = argc > 1 ? argv[1] : "";
  if (first == "default") return write_default(argc - 1, argv + 1);
  if (first == "update") return update(argc - 1, argv + 1);
  return ask_or_take_flags(argc, argv);
}

}  // namespace pinion::apps
