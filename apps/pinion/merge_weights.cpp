// SPDX-License-Identifier: Apache-2.0
// pinion merge-weights: one model.safetensors from a checkpoint, of Pinion's own or of any program
// whose weights lie in several files.
#include "pinion/accel/checkpoint/merge_weights.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "pinion/accel/checkpoint/checkpoint.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/pinion/commands.h"
#include "pinion/runtime/fs.h"

namespace pinion::apps {

int merge_weights_main(int argc, char** argv) {
  std::string from, to;
  CLI::App app("Joins the weights of a checkpoint into one safetensors file.",
               "pinion merge-weights");
  app.add_option("checkpoint", from, "The directory")->required();
  app.add_option("output", to, "The file to write, or a directory for model.safetensors")
      ->required();
  if (!parse_command_line(app, argc, argv)) return 0;
  if (!to.ends_with(".safetensors")) {
    make_dirs(to);
    to += "/model.safetensors";
  }
  if (exists(from + "/MANIFEST.json")) {  // the part that save_state() gives this name
    accel::merge_part(from, "model", to);
    print(fmt::format("wrote {}\n", to));
    return 0;
  }
  const accel::MergedWeights merged = accel::merge_weights(from, to);
  print(fmt::format("wrote {}: {} tensors of {} file{}, {:.1f} MiB\n", to, merged.tensors,
                    merged.files, merged.files == 1 ? "" : "s", double(merged.bytes) / (1 << 20)));
  return 0;
}

}  // namespace pinion::apps
