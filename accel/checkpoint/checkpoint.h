// SPDX-License-Identifier: Apache-2.0
// Checkpoints: everything a run needs to go on bit by bit, kept in directories that appear whole or
// not at all, whatever moment the process, or the machine, is killed at.
//
//   accel::Checkpoints checkpoints({.root = "run/checkpoints", .keep_last = 2});
//   accel::ModelPart model_part(model);            // accel/checkpoint/parts.h
//   accel::OptimizerPart optimizer_part(optimizer);
//   checkpoints.add("model", model_part, {.weights = true});
//   checkpoints.add("optimizer", optimizer_part);
//   int64_t step = checkpoints.resume().value_or(0);
//   … every so often: checkpoints.save(step);
//   checkpoints.close();
//
// A checkpoint is the directory ROOT/step-<N>:
//   MANIFEST.json          what belongs to it, with the size and CRC32C of every file and of itself
//   model.safetensors      the weights, for PyTorch's tools too (parts added with `weights`)
//   shard-<r>.safetensors  the other tensors that rank r wrote, slices among them
//   state-<r>.json         the numbers that rank r wrote
// It is written under ROOT/.tmp-<N>-<run>, made durable file by file, and renamed into place.
//
// Errors: checkpoint (does not verify, or does not fit this run), io (the disk), and those of
// ProcessGroup. Every rank calls the same functions in the same order, and all of them throw when
// one fails.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pinion/accel/checkpoint/state.h"
#include "pinion/dist/process_group.h"

namespace pinion::accel {

// Who has a part, and so who writes it.
enum class Placement : uint8_t {
  replicated,  // equal on every rank: rank 0 writes, all read. What only the main process has
               // (trackers) is an empty, open state elsewhere
  per_rank,    // each rank has its own; must be empty to be read by another number of ranks
  sharded,     // every rank writes its slices, and what is no slice is written by rank 0; any
               // number of ranks reads them, and so does a replicated part of the same tensors
};

struct PartOptions {
  Placement placement = Placement::replicated;
  bool weights = false;   // its tensors get a file of their own, <name>.safetensors
  bool optional = false;  // may be missing in a checkpoint (then start_fresh()), or left unread
};

struct CheckpointOptions {
  std::string root;        // made when it is not there
  int64_t keep_last = 2;   // good checkpoints to keep, at least 1; the newest is always one of them
  int64_t keep_every = 0;  // > 0: those of steps that are multiples of it stay, too
  bool async = false;      // save() copies the state and returns; a thread writes
  // JSON: what must be the same in a run that goes on (model, data, batch size, …).
  std::string config = "{}";
  // Top-level keys of `config` that may differ; "*" for all of them.
  std::vector<std::string> allow_config_change;
  bool allow_world_size_change = false;
  Device device;  // of tensors that the process group can carry; the CPU but for nccl
};

class Checkpoints {
 public:
  // Takes the directory for this run: another run is refused with an error that names its process.
  // Removes what killed runs left half done. `group` null: one rank.
  explicit Checkpoints(CheckpointOptions options, dist::ProcessGroup* group = nullptr);
  ~Checkpoints();  // waits for the writer; an error of its is lost, so call close()
  Checkpoints(const Checkpoints&) = delete;
  Checkpoints& operator=(const Checkpoints&) = delete;

  // Parts in the same order on every rank, with different names of [A-Za-z0-9._-]. They must
  // outlive this object.
  void add(const std::string& name, Checkpointable& part, const PartOptions& options = {});

  // Saves step `step` (>= 0); a checkpoint of that step that is there already is replaced. Then
  // removes older ones that need not be kept. When it returns, the checkpoint is durable, unless
  // `async`: then it is after the next save(), wait() or close(), or a poll() that says so; an
  // error of the writer is thrown there. `best` pins it in place of the one pinned before.
  void save(int64_t step, bool best = false);
  // Whether nothing is under way any more. Cheap; call it once a step when `async`.
  bool poll();
  void wait();
  void close();  // wait(), then gives up the directory

  // Loads the newest checkpoint that verifies on every rank; each newer one that does not is named
  // in a warning. Returns its step; nullopt, after start_fresh() of every part, when there is none.
  // Throws when there are some and none verifies, or when the one found does not fit this run.
  std::optional<int64_t> resume();
  // Loads this one and no other. Returns its step.
  int64_t load(const std::string& directory);

  // The step last saved or loaded by this object; -1 before.
  int64_t last_step() const;
  const CheckpointOptions& options() const;
  std::string directory_of(int64_t step) const;  // ROOT/step-<N>

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The steps that have a checkpoint directory under root, verified or not, newest first.
std::vector<int64_t> checkpoint_steps(const std::string& root);

// Writes a part with its slices joined as a safetensors file of whole tensors, which PyTorch reads:
// what `pinion merge-weights` does with the part "model". Verifies first.
void merge_part(const std::string& directory, const std::string& part, const std::string& path);

}  // namespace pinion::accel
