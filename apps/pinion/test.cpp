// SPDX-License-Identifier: Apache-2.0
// pinion test: checks this installation on as many ranks as will train.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "pinion/accel/config.h"
#include "pinion/accel/self_check.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/pinion/commands.h"
#include "pinion/dist/local_group.h"

namespace pinion::apps {

int test_main(int argc, char** argv) {
  std::string file;
  int ranks = 0;
  CLI::App app("Checks this installation: collectives and training on several ranks.",
               "pinion test");
  app.add_option("--config_file", file, "Where the number of ranks comes from (the default file)");
  app.add_option("--num_processes", ranks, "Ranks (of the file, or 2)")->check(CLI::Range(1, 64));
  if (!parse_command_line(app, argc, argv)) return 0;
  accel::Config config;
  config.read_environment();
  if (file.empty())
    config.read_default_file();
  else
    config.read_file(file);
  if (ranks > 0) config.set_flag("num_processes", std::to_string(ranks));
  config.check();
  ranks = static_cast<int>(config.integer("num_processes", 2));
  dist::run_local(ranks, [](dist::ProcessGroup& group) {
    accel::self_check(group, Device{}, [&](std::string_view line) {
      print(fmt::format("ok: {} ({} ranks, {})\n", line, group.size(), group.backend()));
    });
  });
  print("This installation is ready for training.\n");
  return 0;
}

}  // namespace pinion::apps
