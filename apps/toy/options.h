// SPDX-License-Identifier: Apache-2.0
// The settings of simple_train and accelerate_train, and their flags.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pinion/apps/toy/synthetic.h"
#include "pinion/apps/toy/table.h"
#include "pinion/nn/amp.h"
#include "pinion/optim/fused_run.h"
#include "pinion/optim/optimizer.h"

namespace pinion::toy {

struct Options {
  SyntheticOptions synthetic;  // the data, unless there is a table
  TableOptions table;          // table.path "" : none
  double test_fraction = 0.2;  // of a table

  int64_t hidden = 32;
  int64_t epochs = 5;
  int64_t batch_size = 32;
  int64_t workers = 0;
  std::string engine = "autograd";  // or "fused": the whole run in one kernel
  std::string optimizer = "adam";
  double lr = 1e-3;
  double momentum = 0;                 // sgd
  std::optional<double> weight_decay;  // else the optimizer's own default
  uint64_t seed = 0;
  Device device;
  bool cuda_graph = false;  // record the training step and replay it
  nn::Precision precision = nn::Precision::no;
  std::string output_dir = "run";

  // Of accelerate_train.
  bool cpu = false;
  std::string asked_device = "auto";
  std::optional<int64_t> gradient_accumulation_steps;
  std::optional<nn::Precision> asked_precision;
  int64_t save_every = 0;  // epochs between checkpoints; 0: none
  bool resume = false;
  std::string resume_from;  // "": the newest checkpoint of output_dir
  bool allow_world_size_change = false;

  std::string predict;  // a saved model to apply instead of training one
  std::string output;   // where predictions go; "" is standard output
};

// The options, or nothing when the command line only asked for help. Throws Error (usage).
std::optional<Options> parse_options(int argc, char** argv);
// The same for accelerate_train, whose device and ranks are for its launcher to say.
std::optional<Options> parse_accelerate_options(int argc, char** argv);

std::unique_ptr<optim::Optimizer> make_optimizer(const Options& options, nn::Module& model);
optim::FusedRunOptions fused_run_options(const Options& options);

// Every setting that matters to a training run, by the name of its flag.
std::vector<std::pair<std::string, std::string>> settings_of(const Options& options);
// JSON of those that a run which goes on from a checkpoint must have in common with the one before.
std::string kept_settings(const Options& options);

}  // namespace pinion::toy
