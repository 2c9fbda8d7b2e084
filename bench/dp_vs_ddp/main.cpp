// SPDX-License-Identifier: Apache-2.0
// dp_vs_ddp: DataParallel beside DistributedDataParallel and ZeRO, on the cores of this machine.
//   dp_vs_ddp --matrix                                    all cells, up to 5 repetitions, files
//   dp_vs_ddp --cells toy-mlp,wide-mlp --ranks 2 --quick  a glance
#include <CLI/CLI.hpp>

#include "pinion/apps/common/program.h"
#include "pinion/bench/dp_vs_ddp/pages.h"
#include "pinion/runtime/fs.h"

namespace {

using namespace pinion;

int run(int argc, char** argv) {
  bench::MatrixOptions o;
  bool matrix = false;
  std::string json, html;
  CLI::App app("DataParallel beside DistributedDataParallel and ZeRO: gates, speed, memory.");
  app.add_flag("--matrix", matrix, "All cells; writes dp_vs_ddp.json and dp_vs_ddp.html");
  app.add_option("--cells", o.cells, "Of toy-mlp, wide-mlp, attention")->delimiter(',');
  app.add_option("--schemes", o.schemes, "All unless given")->delimiter(',');
  app.add_option("--ranks", o.ranks, "Numbers of devices to measure")->delimiter(',');
  app.add_option("--repetitions", o.repetitions, "Of each configuration, in turns; 5");
  app.add_option("--minutes", o.minutes,
                 "Repeats less often, down to twice, when it would take longer; 10, 0: no limit");
  app.add_flag("--quick", o.quick, "Two short repetitions: to try it out");
  app.add_option("--json", json, "File for the figures");
  app.add_option("--html", html, "File for the page");
  if (!apps::parse_command_line(app, argc, argv)) return 0;
  if (matrix && app.count("--cells") == 0) {
    o.cells.clear();
    for (const bench::Cell& cell : bench::cells()) o.cells.push_back(cell.name);
  }
  if (matrix && json.empty()) json = "dp_vs_ddp.json";
  if (matrix && html.empty()) html = "dp_vs_ddp.html";
  if (o.quick) {
    o.timing = {.warm_up = 3, .blocks = 8};
    if (app.count("--repetitions") == 0) o.repetitions = 2;
  }
  const bench::Report report = bench::run_matrix(
      o, [](const std::string& what) { apps::print_error("dp_vs_ddp: " + what + "\n"); });
  apps::print(bench::text_of(report));
  if (!json.empty()) write_file_atomic(json, bench::json_of(report));
  if (!html.empty()) write_file_atomic(html, bench::html_of(report));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return apps::run_program("dp_vs_ddp", [&] { return run(argc, argv); });
}
