// SPDX-License-Identifier: Apache-2.0
// pinion: the command line of the library; `pinion COMMAND …`.
#include <fmt/format.h>

#include <cstring>

#include "pinion/apps/common/program.h"
#include "pinion/apps/pinion/commands.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::apps {

namespace {

struct Command {
  const char* name;
  int (*main)(int argc, char** argv);
  const char* help;
};

constexpr Command kCommands[] = {
    {"launch", launch_main, "start the ranks of a training program"},
    {"config", config_main, "write a configuration file (also: config default, config update)"},
    {"env", env_main, "show versions, devices and the configuration"},
    {"test", test_main, "check this installation on several ranks"},
    {"estimate-memory", estimate_memory_main, "say how much memory training takes"},
    {"merge-weights", merge_weights_main, "join the weights of a checkpoint into one file"},
};

std::string help() {
  std::string text = "pinion COMMAND [flags] …\n\nCommands (each has a --help of its own):\n";
  for (const Command& command : kCommands)
    text += fmt::format("  {:<18}{}\n", command.name, command.help);
  return text;
}

int run(int argc, char** argv) {
  PINION_REQUIRE(usage, argc >= 2, "expected a command, got none (pinion --help lists them)");
  if (std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0) {
    print(help());
    return 0;
  }
  for (const Command& command : kCommands)
    if (std::strcmp(argv[1], command.name) == 0) return command.main(argc - 1, argv + 1);
  fail(ErrorKind::usage,
       {"expected a command, got ", quoted(argv[1]), " (pinion --help lists them)"});
}

}  // namespace

}  // namespace pinion::apps

int main(int argc, char** argv) {
  return pinion::apps::run_program("pinion", [&] { return pinion::apps::run(argc, argv); });
}
