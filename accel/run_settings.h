// SPDX-License-Identifier: Apache-2.0
// What an Accelerator is asked for, by its program and by whoever launched it.
//
// A program's options are defaults. What a launcher was told, by a flag or in a configuration file,
// arrives in the environment and wins, so that `launch --mixed_precision bf16` means what it says
// for every program, and so does `--mixed_precision no`. Pinion's launcher exports a setting only
// when somebody asked for it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "pinion/accel/checkpoint/checkpoint.h"
#include "pinion/dist/parallel/reducer.h"
#include "pinion/dist/world.h"
#include "pinion/dist/zero/zero.h"
#include "pinion/nn/amp.h"
#include "pinion/optim/grad_scaler.h"

namespace pinion::accel {

enum class TrackerKind : uint8_t { jsonl, csv, tensorboard };

// What one call of scheduler.step() counts: one optimizer update, or with `accelerate` as many as
// there are ranks (unless batches are split), as Accelerate does: for schedules that were made for
// that.
enum class SchedulerCompat : uint8_t { updates, accelerate };

struct AcceleratorOptions {
  std::optional<nn::Precision> mixed_precision{};        // no
  std::optional<int64_t> gradient_accumulation_steps{};  // 1
  bool cpu = false;                                      // even where there is a GPU
  // "cpu", "cuda:1" for the only rank of a host, "cuda" (a GPU for each rank), or "auto": the same
  // where there are GPUs, else the CPU.
  std::string device = "auto";
  std::string project_dir{};  // of checkpoints and, unless logging_dir is set, of logs
  std::string logging_dir{};
  std::vector<TrackerKind> log_with{};
  bool split_batches = false;  // see accel/data/shard.h
  bool even_batches = true;
  bool sync_with_dataloader = true;           // the end of a loader ends an accumulation window
  bool step_scheduler_with_optimizer = true;  // false: scheduler.step() always counts one
  SchedulerCompat scheduler_compat = SchedulerCompat::updates;
  optim::GradScalerOptions scaler{};  // of fp16; `enabled` is decided by the precision
  dist::ReducerOptions ddp{};         // buckets, unused parameters, compression of gradients
  // ZeRO: optimizers, gradients, parameters in shards (dist/zero/zero.h). `zero` says how; its
  // stage and reduce are not looked at. Without units a model is one: whole while it is called.
  std::optional<int> zero_stage{};  // 0: no sharding
  dist::ZeroOptions zero{};
  std::optional<std::chrono::milliseconds> timeout{};  // of waits for other ranks: 10 minutes
  // The same bits on any number of ranks that divides virtual_shards, a power of two. Batch sizes
  // are then those of all ranks together, and a loop, which must call accumulate(), sees them a
  // shard at a time (accel/virtual_shards.h). No ZeRO, no hooks.
  bool deterministic = false;
  int virtual_shards = 8;
  bool broadcast_buffers = true;        // rank 0's, before each forward that is trained on
  CheckpointOptions checkpoints{};      // root: project_dir/checkpoints unless it is set
  dist::ProcessGroup* group = nullptr;  // instead of the environment's: for ranks that are threads
};

// Options and environment joined.
struct RunSettings {
  nn::Precision mixed_precision = nn::Precision::no;
  int64_t gradient_accumulation_steps = 1;
  double gradient_clipping = 0;  // max_norm of every step that nobody clipped; 0: none
  int zero_stage = 0;            // 0 to 3
  bool deterministic = false;
  int virtual_shards = 8;
  bool cpu = false;
  std::string device = "auto";
  std::chrono::milliseconds timeout = dist::kTimeout;
};

// The value of an environment variable, null when it is not set.
using Lookup = std::function<const char*(const char* name)>;
// Throws Error (config) that names the variable.
RunSettings resolve(const AcceleratorOptions& options, const Lookup& lookup);
// The device of a rank: one GPU a rank of a host, else the CPU. Throws Error (config) when there
// are fewer GPUs than ranks here.
Device device_for(const RunSettings& settings, const dist::World& world, int gpus);

}  // namespace pinion::accel
