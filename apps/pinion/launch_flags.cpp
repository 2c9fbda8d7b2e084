// SPDX-License-Identifier: Apache-2.0
// The table of flags and its reader. Values of flags that are configuration keys are judged where
// files are (accel/config/config.h); so one row a flag is all there is to say here.
#include "pinion/apps/pinion/launch_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>

#include "pinion/accel/config/schema.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::apps {

namespace {

using accel::ConfigKey;
using accel::find_config_key;

struct Flag {
  std::string_view name;
  char letter;  // of the short form, or 0
  bool takes_value;
  std::string_view help;  // "": not shown
  void (*apply)(LaunchCommand& command, const std::string& value);
};

int number(const char* flag, const std::string& text, int most) {
  int value = -1;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  PINION_REQUIRE(usage, error == std::errc() && stop == end && value >= 0 && value <= most, flag,
                 ": expected a number from 0 to ", most, ", got ", quoted(text));
  return value;
}

void add_names(std::vector<std::string>& names, std::string_view list) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    if (comma > 0) names.emplace_back(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
}

using Command = LaunchCommand;
using Text = std::string;

constexpr Flag kFlags[] = {
    {"help", 'h', false, "this text", [](Command& c, const Text&) { c.help = true; }},
    {"config_file", 0, true, "an Accelerate configuration, YAML or JSON",
     [](Command& c, const Text& v) { c.config_file = v; }},
    {"quiet", 'q', false, "only the exit code says that a rank failed",
     [](Command& c, const Text&) { c.options.quiet = true; }},
    {"dry_run", 0, false, "print argv and environment of every rank, start nothing",
     [](Command& c, const Text&) { c.dry_run = true; }},
    {"print_config", 0, false, "print every setting and where it came from, start nothing",
     [](Command& c, const Text&) { c.print_config = true; }},
    {"cpu", 0, false, "train on CPUs although there are GPUs",
     [](Command& c, const Text&) { c.config.set_flag("use_cpu", "true", "--cpu"); }},
    {"multi_gpu", 0, false, "a GPU for each rank",
     [](Command& c, const Text&) {
       c.config.set_flag("distributed_type", "MULTI_GPU", "--multi_gpu");
     }},
    {"allow_cpu_fallback", 0, false, "take CPUs where GPUs are asked for and missing",
     [](Command& c, const Text&) { c.options.allow_cpu_fallback = true; }},
    {"use_deepspeed", 0, false, "ZeRO by DeepSpeed's names",
     [](Command& c, const Text&) {
       c.config.set_flag("distributed_type", "DEEPSPEED", "--use_deepspeed");
     }},
    {"use_fsdp", 0, false, "ZeRO by FSDP's names",
     [](Command& c, const Text&) { c.config.set_flag("distributed_type", "FSDP", "--use_fsdp"); }},
    {"debug", 0, false, "taken; what ranks call is always compared",
     [](Command& c, const Text&) { c.config.set_flag("debug", "true"); }},
    {"same_network", 0, false, "taken; machines meet at machine 0 in any network",
     [](Command& c, const Text&) { c.config.set_flag("same_network", "true"); }},
    {"enable_cpu_affinity", 0, false, "bind each rank to CPUs of its own",
     [](Command& c, const Text&) { c.config.set_flag("enable_cpu_affinity", "true"); }},
    {"deterministic", 0, false, "the same bits on any number of ranks",
     [](Command& c, const Text&) { c.config.set_flag("deterministic", "true"); }},
    {"tee", 't', true,
     "into --log_dir and on the screen: 1 standard output, 2 errors, 3 both; "
     "or by rank, 0:1,1:3",
     [](Command& c, const Text& v) { c.options.tee = v; }},
    {"log_dir", 0, true, "keep what ranks print in this folder",
     [](Command& c, const Text& v) { c.options.log_dir = v; }},
    {"role", 0, true, "ROLE_NAME of the ranks",
     [](Command& c, const Text& v) { c.options.role = v; }},
    {"max_restarts", 0, true, "start all ranks again when one fails, so often at most",
     [](Command& c, const Text& v) {
       c.options.max_restarts = number("--max_restarts", v, 1'000'000);
     }},
    {"grace_period", 0, true, "seconds that ranks have to end after a signal to stop (120)",
     [](Command& c, const Text& v) {
       c.options.grace_period = number("--grace_period", v, 1'000'000);
     }},
    {"rdzv_conf", 0, true, "key=value,…: run_id, timeout (seconds)",
     [](Command& c, const Text& v) { c.options.rdzv_conf = v; }},
    {"rdzv_secret_file", 0, true, "the secret that several machines share; mode 0600",
     [](Command& c, const Text& v) { c.options.rdzv_secret_file = v; }},
    {"env", 0, true, "NAME=value for every rank; may be repeated",
     [](Command& c, const Text& v) { c.options.env.push_back(v); }},
    {"allow_env", 0, true, "names to pass on from this environment, with commas; NAME* too",
     [](Command& c, const Text& v) { add_names(c.options.allow_env, v); }},
    {"no_python", 0, false, "", [](Command&, const Text&) {}},        // always so
    {"monitor_interval", 0, true, "", [](Command&, const Text&) {}},  // ends are seen at once
};

// Flags of accelerate launch that are no configuration keys and mean nothing here.
constexpr std::pair<std::string_view, std::string_view> kRefused[] = {
    {"module", "pinion starts compiled programs, not Python modules"},
    {"tpu", "there are no TPUs here"},
    {"tpu_cluster", "there are no TPUs here"},
    {"no_tpu_cluster", "there are no TPUs here"},
    {"vm", "there are no TPUs here"},
    {"use_megatron_lm", "there is no tensor or pipeline parallelism; ranks are data parallel"},
    {"use_parallelism_config", "all ranks are data parallel; ZeRO is --use_fsdp, --use_deepspeed"},
    {"aws_access_key_id", "Pinion does not start jobs on Amazon SageMaker"},
    {"aws_secret_access_key", "Pinion does not start jobs on Amazon SageMaker"},
    {"use_xpu", "GPUs are CUDA GPUs"},
    {"ipex", "oneDNN is used directly"},
};

// Configuration keys whose flags configure something that Pinion has not: in a file, which may be
// shared with Accelerate, they are let be; who types one should hear of it.
bool refused_as_flag(const ConfigKey& key) {
  if (key.use == accel::KeyUse::honoured) return false;
  const std::string_view section = key.section();
  return key.use == accel::KeyUse::refused ||
         (section != "deepspeed_config" && section != "fsdp_config");
}

const Flag* find_flag(std::string_view name) {
  const auto* const found = std::find_if(std::begin(kFlags), std::end(kFlags),
                                         [&](const Flag& flag) { return flag.name == name; });
  return found == std::end(kFlags) ? nullptr : found;
}

// Only a top-level name or the last part of one is a flag: "num_processes", "zero_stage".
const ConfigKey* find_key(std::string_view name) {
  return name.find('.') == name.npos ? find_config_key(name) : nullptr;
}

[[noreturn]] void unknown_flag(std::string_view name) {
  std::vector<std::string> known;
  for (const Flag& flag : kFlags) known.emplace_back(flag.name);
  for (const ConfigKey& key : accel::config_keys()) known.emplace_back(key.leaf());
  fail(ErrorKind::usage, {"launch: unknown flag --", name, accel::suggestion(name, known),
                          " (--help lists the flags)"});
}

class Reader {
 public:
  Reader(int argc, char** argv) : arguments_(argv + 1, argv + std::max(argc, 1)) {}

  LaunchCommand read() {
    while (at_ < arguments_.size() && !command_.help) {
      const std::string argument = arguments_[at_];
      if (argument == "--") {
        ++at_;
        break;
      }
      if (argument.size() < 2 || argument[0] != '-') break;  // the program
      ++at_;
      argument[1] == '-' ? read_long(argument.substr(2)) : read_letter(argument);
    }
    command_.options.command.assign(arguments_.begin() + static_cast<std::ptrdiff_t>(at_),
                                    arguments_.end());
    return std::move(command_);
  }

 private:
  void read_long(std::string name) {
    const size_t equals = name.find('=');
    value_ = equals == name.npos ? std::nullopt : std::optional(name.substr(equals + 1));
    name.resize(std::min(equals, name.size()));
    std::replace(name.begin(), name.end(), '-', '_');
    for (const auto& [refused, reason] : kRefused) refuse_if(name == refused, name, reason);
    if (const Flag* flag = find_flag(name)) return apply(*flag);
    const ConfigKey* key = find_key(name);
    if (!key) unknown_flag(name);
    refuse_if(refused_as_flag(*key), name, key->reason);
    command_.config.set_flag(key->name, value_of(name), "--" + name);
  }

  void read_letter(const std::string& argument) {
    refuse_if(argument[1] == 'm', "module", "pinion starts compiled programs, not Python modules");
    for (const Flag& flag : kFlags) {
      if (flag.letter == 0 || flag.letter != argument[1]) continue;
      value_ = argument.size() > 2 ? std::optional(argument.substr(2)) : std::nullopt;
      return apply(flag);
    }
    fail(ErrorKind::usage,
         {"launch: unknown flag ", quoted(argument), " (--help lists the flags)"});
  }

  void apply(const Flag& flag) {
    PINION_REQUIRE(usage, flag.takes_value || !value_, "--", flag.name, ": expected no value, got ",
                   quoted(value_.value_or("")));
    flag.apply(command_, flag.takes_value ? value_of(flag.name) : std::string());
  }

  std::string value_of(std::string_view name) {
    if (value_) return *value_;
    PINION_REQUIRE(usage, at_ < arguments_.size(), "--", name, ": expected a value, got none");
    return arguments_[at_++];
  }

  static void refuse_if(bool wrong, std::string_view name, std::string_view reason) {
    PINION_REQUIRE(usage, !wrong, "launch: --", name,
                   " is a flag of accelerate launch that pinion ", "does not have: ", reason);
  }

  std::vector<std::string> arguments_;
  size_t at_ = 0;
  std::optional<std::string> value_;  // that stood behind = or the letter
  LaunchCommand command_;
};

}  // namespace

LaunchCommand parse_launch(int argc, char** argv) { return Reader(argc, argv).read(); }

std::string launch_help() {
  std::string text =
      "pinion launch [flags] PROGRAM [its arguments]\n\n"
      "Starts the ranks of PROGRAM. Flags may be spelt with - or _; a flag wins over the\n"
      "configuration file, the file over the environment.\n\n";
  const auto row = [&](std::string_view name, std::string_view help) {
    text += fmt::format("  --{:<30} {}\n", name, help);
  };
  for (const Flag& flag : kFlags)
    if (!flag.help.empty())
      row(flag.letter ? fmt::format("{}, -{}", flag.name, flag.letter) : std::string(flag.name),
          flag.help);
  text += "\nSettings that a configuration file may also hold:\n";
  for (const ConfigKey& key : accel::config_keys())
    if (key.use == accel::KeyUse::honoured && !find_flag(key.leaf()) && key.leaf() != "use_cpu" &&
        key.leaf() != "distributed_type" && key.leaf() != "compute_environment")
      row(key.leaf(), key.meaning);
  return text;
}

}  // namespace pinion::apps
