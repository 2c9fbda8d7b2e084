// SPDX-License-Identifier: Apache-2.0
// Joining the ranks, and the parts of Accelerator that are no template.
#include "pinion/accel/accelerator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "pinion/accel/crash_record.h"
#include "pinion/accel/rank_talk.h"
#include "pinion/accel/track/tensorboard.h"
#include "pinion/dist/group/nccl_group.h"
#include "pinion/nn/weights.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

// What the Accelerators of one group share: a process joins the others once.
struct Accelerator::Joined {
  dist::World world;
  std::shared_ptr<dist::ProcessGroup> owned;  // of the environment
  dist::ProcessGroup* group = nullptr;        // either kind
  RunSettings settings;
  Device device;

  static std::shared_ptr<Joined> join(const AcceleratorOptions& options);
  static std::shared_ptr<Joined> make(const AcceleratorOptions& options);
  void check_same(const AcceleratorOptions& options) const;
};

std::shared_ptr<Accelerator::Joined> Accelerator::Joined::make(const AcceleratorOptions& options) {
  auto joined = std::make_shared<Joined>();
  if (options.group) {
    joined->group = options.group;
    joined->world.rank = joined->world.local_rank = options.group->rank();
    joined->world.size = joined->world.local_size = options.group->size();
    joined->settings = resolve(options, [](const char*) { return nullptr; });
    joined->settings.cpu = true;
    return joined;
  }
  record_crashes();
  joined->world = dist::world_from_environment();
  set_log_rank(joined->world.rank, joined->world.size);
  joined->settings = resolve(options, [](const char* name) { return std::getenv(name); });
  joined->device = device_for(joined->settings, joined->world, cuda_device_count());
  if (joined->settings.deterministic) dist::fix_nccl_order();
  joined->owned = dist::init_process_group(joined->world, joined->device, dist::Backend::automatic,
                                           joined->settings.timeout);
  joined->group = joined->owned.get();
  return joined;
}

void Accelerator::Joined::check_same(const AcceleratorOptions& options) const {
  const nn::Precision asked = options.mixed_precision.value_or(settings.mixed_precision);
  PINION_REQUIRE(config, asked == settings.mixed_precision,
                 "Accelerator: expected the mixed_precision of the one that is there already, ",
                 nn::name_of(settings.mixed_precision), ", got ", nn::name_of(asked));
  const int stage = options.zero_stage.value_or(settings.zero_stage);
  PINION_REQUIRE(config, stage == settings.zero_stage,
                 "Accelerator: expected the zero_stage of the one that is there already, ",
                 settings.zero_stage, ", got ", stage);
  PINION_REQUIRE(config, !options.deterministic || settings.deterministic,
                 "Accelerator: expected deterministic as of the one that is there already, off");
  const std::string asked_device = options.cpu ? "cpu" : options.device;
  PINION_REQUIRE(
      config,
      asked_device == "auto" || asked_device == settings.device || asked_device == device.name(),
      "Accelerator: expected the device of the one that is there already, ", device.name(),
      ", got ", asked_device);
}

std::shared_ptr<Accelerator::Joined> Accelerator::Joined::join(const AcceleratorOptions& options) {
  static std::mutex mutex;
  static std::vector<std::weak_ptr<Joined>> all;
  {
    const std::lock_guard lock(mutex);
    std::erase_if(all, [](const auto& weak) { return weak.expired(); });
    for (const auto& weak : all)
      if (auto joined = weak.lock();
          joined && (options.group ? joined->group == options.group : joined->owned != nullptr)) {
        joined->check_same(options);
        return joined;
      }
  }
  auto joined = make(options);  // may wait for the other ranks, which may be threads
  const std::lock_guard lock(mutex);
  all.push_back(joined);
  return joined;
}

Accelerator::Accelerator(const AcceleratorOptions& options)
    : options_(options),
      joined_(Joined::join(options)),
      conductor_(std::make_unique<Conductor>(*joined_->group, options, joined_->settings,
                                             joined_->device)) {}

Accelerator::~Accelerator() = default;

const dist::World& Accelerator::world() const { return joined_->world; }
const RunSettings& Accelerator::settings() const { return joined_->settings; }

const char* Accelerator::distributed_type() const {
  if (!use_distributed()) return "NO";
  return device() == Device{} ? "MULTI_CPU" : "MULTI_GPU";
}

void Accelerator::check_place(optim::Optimizer& optimizer) const {
  for (const nn::NamedTensor& p : optimizer.parameters())
    PINION_CHECK(p.tensor.device() == device(), "prepare: expected an optimizer of parameters on ",
                 device().name(), ", got ", p.name, " on ", p.tensor.device().name(),
                 "; call model.to(accelerator.device()) before making the optimizer");
}

void Accelerator::free_memory() {
  drop_kept();
  conductor_->forget();
  trim(device());
}

void Accelerator::set_gradient_accumulation_steps(int64_t steps) {
  PINION_CHECK(steps >= 1, "Accelerator: expected gradient_accumulation_steps of at least 1, got ",
               steps);
  conductor_->accumulation_steps = steps;
}

// --- clipping ---

std::vector<Conductor::Optimizer*> Accelerator::owners_of(const char* op,
                                                          const std::vector<Tensor>& list) {
  std::vector<Conductor::Optimizer*> owners;
  size_t owned = 0;
  const auto listed = [&](const nn::NamedTensor& p) {
    return std::any_of(list.begin(), list.end(),
                       [&](const Tensor& t) { return t.defined() && t.same(p.tensor); });
  };
  for (const auto& o : conductor_->optimizers()) {
    const auto parameters = o->optimizer->parameters();
    const auto found = std::count_if(parameters.begin(), parameters.end(), listed);
    if (found == 0) continue;
    PINION_CHECK(static_cast<size_t>(found) == parameters.size(), op,
                 ": expected all parameters of an optimizer, got ", found, " of ",
                 parameters.size());
    owners.push_back(o.get());
    owned += parameters.size();
  }
  PINION_CHECK(!owners.empty() && owned == list.size(), op,
               ": expected the parameters of prepared optimizers, got ", list.size(),
               " tensors, of which ", owned, " are such");
  return owners;
}

double Accelerator::clip_grad_norm_(const AcceleratedOptimizer& optimizer, double max_norm) {
  return conductor_->clip_norm({optimizer.state_}, max_norm);
}

double Accelerator::clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm) {
  return conductor_->clip_norm(owners_of("clip_grad_norm_", parameters), max_norm);
}

void Accelerator::clip_grad_value_(const AcceleratedOptimizer& optimizer, double limit) {
  conductor_->clip_value({optimizer.state_}, limit);
}

void Accelerator::clip_grad_value_(const std::vector<Tensor>& parameters, double limit) {
  conductor_->clip_value(owners_of("clip_grad_value_", parameters), limit);
}

void Accelerator::unscale_gradients() {
  for (const auto& o : conductor_->optimizers()) conductor_->unscale(*o);
}

// --- across ranks ---

Tensor Accelerator::gather_for_metrics(const Tensor& x) {
  const BatchFeed* feed = conductor_->active();
  PINION_CHECK(feed,
               "gather_for_metrics: expected to be inside a loop over a prepared loader;"
               " outside, use gather()");
  PINION_CHECK(x.defined() && x.rank() >= 1,
               "gather_for_metrics: expected a tensor with a row for each sample");
  std::vector<int64_t> rows, keep;
  const ShardPlan& plan = feed->plan();
  const int64_t mine = plan.of(feed->round_begin(), process_index(), feed->turn()).rows;
  PINION_CHECK(x.size(0) % mine == 0, "gather_for_metrics: expected a row, or k rows, for each of",
               " the ", mine, " samples of this batch, got ", x.shape());
  const int64_t k = x.size(0) / mine;
  for (int r = 0; r < num_processes(); ++r) {
    const ShardBatch batch = plan.of(feed->round_begin(), r, feed->turn());
    rows.push_back(k * batch.rows), keep.push_back(k * batch.real);
  }
  return gather_rows(group(), x, rows, keep);
}

bool Accelerator::check_trigger() {
  const bool mine = std::exchange(triggered_, false);
  for (const auto& rank : gather_numbers(group(), device(), {mine}))
    if (rank[0]) return true;
  return false;
}

std::pair<int64_t, int64_t> Accelerator::share(int64_t count) const {
  const int64_t ranks = num_processes(), rank = process_index();
  const int64_t each = count / ranks, more = count % ranks;
  const int64_t begin = rank * each + std::min(rank, more);
  return {begin, begin + each + (rank < more ? 1 : 0)};
}

int64_t Accelerator::largest_share(int64_t count) const {
  return (count + num_processes() - 1) / num_processes();
}

Tensor Accelerator::split_between_processes(const Tensor& x, bool apply_padding) {
  PINION_CHECK(x.defined() && x.rank() >= 1,
               "split_between_processes: expected a tensor with a dimension to split");
  const auto [begin, end] = share(x.size(0));
  Tensor mine = x.rows(begin, end);
  const int64_t missing = largest_share(x.size(0)) - (end - begin);
  if (!apply_padding || missing == 0) return mine;
  const NoGrad no_grad;
  return nn::concat({mine, x.rows(x.size(0) - 1, x.size(0))}, 0);  // shares differ by one
}

void Accelerator::print(std::string_view line) const {
  if (!is_local_main_process()) return;
  std::string text(line);
  text += '\n';
  const size_t written = std::fwrite(text.data(), 1, text.size(), stdout);
  PINION_REQUIRE(io, written == text.size() && std::fflush(stdout) == 0,
                 "standard output: could not write");
}

// --- files and trackers ---

std::vector<nn::NamedTensor> Accelerator::state_of(nn::Module& module) {
  const auto whole = summon_full_params();
  std::vector<nn::NamedTensor> out = module.state();
  if (settings().zero_stage == 3)  // they are about to go
    for (nn::NamedTensor& t : out) t.tensor = t.tensor.clone();
  return out;
}

void Accelerator::save_model_of(nn::Module& module, const std::string& directory) {
  const auto whole = summon_full_params();
  RankTalk(&group(), device()).first([&] {
    make_dirs(directory);
    nn::save_weights(module, directory + "/model.safetensors");
    return std::string();
  });
}

void Accelerator::init_trackers(const std::string& run_name, std::span<const Field> config,
                                TrackerStart start) {
  tracking_ = !options_.log_with.empty();
  trackers_.clear();
  drop_kept();
  if (!is_main_process() || !tracking_) return;
  PINION_CHECK(!logging_dir().empty(),
               "init_trackers: expected logging_dir or project_dir in the options");
  const std::string directory = run_name.empty() ? logging_dir() : logging_dir() + "/" + run_name;
  make_dirs(directory);
  if (!config.empty()) JsonlTracker(directory + "/config.json", TrackerStart::replace).log(config);
  for (const TrackerKind kind : options_.log_with) {
    switch (kind) {
      case TrackerKind::jsonl:
        trackers_[kind] = std::make_unique<JsonlTracker>(directory + "/metrics.jsonl", start);
        break;
      case TrackerKind::csv:
        trackers_[kind] = std::make_unique<CsvTracker>(directory + "/metrics.csv", start);
        break;
      case TrackerKind::tensorboard:
        trackers_[kind] = std::make_unique<TensorBoardTracker>(directory);
        if (start == TrackerStart::replace) trackers_[kind]->go_back(0);  // over earlier files
        break;
    }
  }
}

void Accelerator::log(std::initializer_list<Field> values, int64_t step) {
  if (trackers_.empty()) return;
  std::vector<Field> record{{"step", Value(static_cast<long long>(step))}};
  record.insert(record.end(), values.begin(), values.end());
  for (const auto& [kind, tracker] : trackers_) tracker->log(record);
}

Tracker* Accelerator::get_tracker(TrackerKind kind) const {
  const auto at = trackers_.find(kind);
  return at == trackers_.end() ? nullptr : at->second.get();
}

Profile Accelerator::profile(const std::string& directory) const {
  const std::string& where = directory.empty() ? logging_dir() : directory;
  PINION_CHECK(!where.empty(),
               "profile: expected a directory, or logging_dir or project_dir in the options");
  make_dirs(where);
  return Profile(cat({where, "/profile_", process_index(), ".json"}), process_index());
}

void Accelerator::end_training() {
  drop_kept();
  trackers_.clear();
  tracking_ = false;
  wait_for_everyone();
}

}  // namespace pinion::accel
