// SPDX-License-Identifier: Apache-2.0
// pinion test: checks this installation on as many ranks as will train. Started by hand it starts
// itself again through `pinion launch`; started by a launcher it is a rank.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "pinion/accel/config/config.h"
#include "pinion/accel/launch/self_check.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/pinion/commands.h"
#include "pinion/dist/world.h"

namespace pinion::apps {

namespace {

int be_a_rank(const dist::World& world) {
  const auto group = dist::init_process_group(world, Device{});
  accel::self_check(*group, Device{}, [&](std::string_view line) {
    print(fmt::format("ok: {} ({} rank{}, {})\n", line, group->size(),
                      group->size() == 1 ? "" : "s", group->backend()));
  });
  return 0;
}

// The same program as ranks, by the words one would type.
int launch_itself(const std::string& file, int ranks) {
  std::vector<std::string> words = {"launch"};
  if (!file.empty()) words.push_back("--config_file=" + file);
  accel::Config config;  // only to see whether there is anything to go by
  const bool configured = !file.empty() || config.read_default_file();
  if (ranks > 0) words.push_back(fmt::format("--num_processes={}", ranks));
  if (!configured) words.emplace_back("--cpu");
  if (!configured && ranks == 0) words.emplace_back("--num_processes=2");
  words.push_back(std::filesystem::read_symlink("/proc/self/exe").string());
  words.emplace_back("test");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  return launch_main(static_cast<int>(words.size()), argv.data());
}

}  // namespace

int test_main(int argc, char** argv) {
  std::string file;
  int ranks = 0;
  CLI::App app("Checks this installation: collectives and training on several ranks.",
               "pinion test");
  app.add_option("--config_file", file, "Where the number of ranks comes from (the default file)");
  app.add_option("--num_processes", ranks, "Ranks (of the file, or 2)")
      ->check(CLI::Range(1, 65536));
  if (!parse_command_line(app, argc, argv)) return 0;
  const dist::World world = dist::world_from_environment();
  if (world.launcher != "none") return be_a_rank(world);
  const int code = launch_itself(file, ranks);
  if (code == 0) print("This installation is ready for training.\n");
  return code;
}

}  // namespace pinion::apps
