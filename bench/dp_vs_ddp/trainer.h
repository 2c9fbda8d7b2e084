// SPDX-License-Identifier: Apache-2.0
// How it is trained: the schemes, and one training step of each.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pinion/bench/dp_vs_ddp/cells.h"
#include "pinion/dist/process_group.h"

namespace pinion::bench {

enum class Scheme : uint8_t {
  one,            // one device, the whole batch, one core
  one_all_cores,  // the same with a pool of threads on all the cores of the others
  one_share,      // one device with the batch of one device: what a step costs without company
  dp_pytorch,     // DataParallel as torch.nn's: logits gathered, loss on device 0
  dp_tuned,       // DataParallel with a loss on every device
  ddp,
  ddp_bf16,  // gradients travel as bf16
  zero1,
  zero2,
  zero3
};
struct SchemeFacts {
  Scheme scheme;
  const char *name, *what;
  bool ranks;        // a process for each device
  int zero;          // stage, or 0
  double tolerance;  // of weights and losses against one device
};
std::span<const SchemeFacts> schemes();
const SchemeFacts& facts_of(Scheme scheme);
Scheme scheme_named(const std::string& name);  // throws Error (usage) that lists the names

// Seconds of the parts of steps. Without company: exchange is 0. DataParallel exchanges within
// forward and backward, ZeRO within backward and update.
struct Phases {
  double forward = 0, backward = 0, exchange = 0, update = 0;
};

class Trainer {
 public:
  // The model starts with the same bits in every scheme. `group` for schemes with ranks only.
  Trainer(const Cell& cell, Scheme scheme, int devices, std::shared_ptr<dist::ProcessGroup> group);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  void step(int number, Phases& phases);
  double loss() const;           // of the last step, the mean over this process's samples
  std::vector<float> weights();  // all of them; all ranks call it together

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace pinion::bench
