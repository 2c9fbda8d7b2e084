// SPDX-License-Identifier: Apache-2.0
// save_state() and load_state(): everything that was prepared, as the parts of a checkpoint.
#include "pinion/accel/accelerator.h"
#include "pinion/accel/checkpoint/parts.h"
#include "pinion/accel/checkpoint/zero_parts.h"
#include "pinion/accel/rank_talk.h"
#include "pinion/accel/signals.h"
#include "pinion/accel/track/profile.h"
#include "pinion/runtime/fs.h"

namespace pinion::accel {

// The checkpoints of one directory, with a part for each thing that was prepared.
struct Accelerator::Kept {
  std::string root;
  std::vector<std::unique_ptr<Checkpointable>> parts;
  std::unique_ptr<Checkpoints> checkpoints;  // last: it refers to the parts

  void add(const std::string& name, std::unique_ptr<Checkpointable> part,
           const PartOptions& options = {}) {
    checkpoints->add(name, *part, options);
    parts.push_back(std::move(part));
  }
};

namespace {

// "model", "model_1", "model_2", …
std::string numbered(const char* name, size_t i) { return i == 0 ? name : cat({name, "_", i}); }

}  // namespace

void Accelerator::drop_kept() {
  if (const auto kept = std::exchange(kept_, {})) kept->checkpoints->close();
}

Checkpoints& Accelerator::checkpoints_at(const std::string& root) {
  const bool known = kept_ && kept_->root == root;
  if (known) return *kept_->checkpoints;
  PINION_REQUIRE(checkpoint, !conductor_->models().empty(),
                 "save_state, load_state: expected prepare() first: there is no model to keep");
  drop_kept();
  auto kept = std::make_shared<Kept>();
  kept->root = root;
  CheckpointOptions options = options_.checkpoints;
  options.root = root;
  options.device = device();
  options.allow_world_size_change |= settings().deterministic;  // nothing depends on it then
  kept->checkpoints = std::make_unique<Checkpoints>(options, &group());
  Conductor& c = *conductor_;
  for (size_t i = 0; i < c.models().size(); ++i)
    kept->add(numbered("model", i), std::make_unique<ModelPart>(*c.models()[i]), {.weights = true});
  for (size_t i = 0; i < c.optimizers().size(); ++i) {
    optim::Optimizer& optimizer = *c.optimizers()[i]->optimizer;
    if (settings().zero_stage == 0)
      kept->add(numbered("optimizer", i), std::make_unique<OptimizerPart>(optimizer));
    else
      kept->add(numbered("optimizer", i), std::make_unique<OptimizerSlicesPart>(optimizer),
                {.placement = Placement::sharded});
    std::unique_ptr<Checkpointable> gradients = std::make_unique<GradientsPart>(optimizer);
    if (dist::Zero* zero = c.zero_of(optimizer); zero && zero->stage() > 1)
      gradients = std::make_unique<GradientSumsPart>(optimizer, *zero);
    kept->add(numbered("gradients", i), std::move(gradients), {.placement = Placement::per_rank});
  }
  for (size_t i = 0; i < c.schedulers().size(); ++i)
    kept->add(numbered("scheduler", i), std::make_unique<SchedulerPart>(*c.schedulers()[i]));
  for (size_t i = 0; i < c.feeds().size(); ++i)
    kept->add(numbered("loader", i), std::make_unique<LoaderPart<BatchFeed>>(*c.feeds()[i]));
  if (c.scaler().enabled()) kept->add("scaler", std::make_unique<ScalerPart>(c.scaler()));
  kept->add("random", std::make_unique<RandomPart>());
  kept->add("progress",
            std::make_unique<FunctionPart>([&c] { return c.progress(); },
                                           [&c](const State& s) { c.set_progress(s); }));
  kept->add("window",
            std::make_unique<FunctionPart>([&c] { return c.window_state(); },
                                           [&c](const State& s) { c.set_window_state(s); }),
            {.placement = Placement::per_rank});
  if (tracking_)
    for (const TrackerKind kind : options_.log_with)
      kept->add(cat({"tracker_", static_cast<int>(kind)}),
                std::make_unique<TrackerPart>(get_tracker(kind)), {.optional = true});
  for (size_t i = 0; i < registered_.size(); ++i)
    kept->checkpoints->add(numbered("custom", i), *registered_[i]);
  kept_ = std::move(kept);
  return *kept_->checkpoints;
}

std::string Accelerator::checkpoint_root() const {
  if (!options_.checkpoints.root.empty()) return options_.checkpoints.root;
  PINION_CHECK(!options_.project_dir.empty(),
               "save_state, load_state: expected a directory, or project_dir in the options");
  return options_.project_dir + "/checkpoints";
}

void Accelerator::register_for_checkpointing(Checkpointable& object) {
  registered_.push_back(&object);
  drop_kept();
}

std::string Accelerator::save_state(const std::string& root, bool best) {
  PINION_CHECK(!conductor_->in_round(),
               "save_state: with deterministic, expected the end of a round of virtual shards,"
               " where sync_gradients() is true at the latest");
  const ProfileSpan span("save state");
  for (const auto& hook : before_save_) hook();
  Checkpoints& checkpoints = checkpoints_at(root.empty() ? checkpoint_root() : root);
  (void)scaler();  // its iteration ends before it is kept
  const auto whole = summon_full_params();
  checkpoints.save(conductor_->updates(), best);
  return checkpoints.directory_of(conductor_->updates());
}

bool Accelerator::resume_state(const std::string& root) {
  for (const auto& hook : before_load_) hook();
  (void)scaler();
  const auto whole = summon_full_params();
  return checkpoints_at(root.empty() ? checkpoint_root() : root).resume().has_value();
}

void Accelerator::save_if_asked() {
  if (conductor_->in_round()) return;  // soon
  const SaveRequest request = SignalGuard::take_agreed(group(), device());
  if (request == SaveRequest::none) return;
  save_state();
  if (request != SaveRequest::save_and_exit) return;
  drop_kept();  // the next run may have the directory
  end_preempted(optimizer_updates());
}

void Accelerator::load_state(const std::string& path) {
  const std::string where = path.empty() ? checkpoint_root() : path;
  const RankTalk ranks(&group(), device());  // they need not see the same files
  if (ranks.first([&] { return std::string(exists(where + "/MANIFEST.json") ? "one" : ""); }) ==
      "one") {
    for (const auto& hook : before_load_) hook();
    (void)scaler();
    const auto whole = summon_full_params();
    const size_t slash = where.find_last_not_of('/');
    const std::string directory = where.substr(0, slash + 1);
    const size_t cut = directory.rfind('/');
    checkpoints_at(cut == std::string::npos ? "." : directory.substr(0, cut)).load(directory);
    return;
  }
  PINION_REQUIRE(checkpoint, resume_state(where), "load_state: expected a checkpoint in ", where,
                 ", found none");
}

}  // namespace pinion::accel
