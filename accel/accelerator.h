// SPDX-License-Identifier: Apache-2.0
// Accelerator: one object that makes a training loop run on any number of ranks, in any precision,
// with accumulated gradients, while the loop stays the loop of one rank. The names are those of
// Hugging Face Accelerate; docs/from_accelerate.md compares them one by one.
//
//   accel::Accelerator accelerator;
//   model.to(accelerator.device());
//   auto [net, optimizer, loader] = accelerator.prepare(model, adam, data_loader);
//   for (auto& [x, y] : loader) {
//     const auto micro_batch = accelerator.accumulate(net);
//     accelerator.backward(nn::cross_entropy(net(x), y));
//     accelerator.clip_grad_norm_(optimizer, 1.0);
//     optimizer.step();
//     optimizer.zero_grad();
//   }
//
// Every rank runs the same program. Functions marked [all] must be called by all ranks, in the same
// order; they throw the errors of dist::ProcessGroup.
#pragma once

#include <map>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "pinion/accel/checkpoint/checkpoint.h"
#include "pinion/accel/executable_batch_size.h"
#include "pinion/accel/gather.h"
#include "pinion/accel/prepared.h"
#include "pinion/accel/track/profile.h"
#include "pinion/accel/track/tracker.h"

namespace pinion::accel {

// Gives a value back when it goes: what Python's `with` is to Accelerate.
template <class F>
class [[nodiscard]] Scope {
 public:
  explicit Scope(F end) : end_(std::move(end)) {}
  ~Scope() { end_(); }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  F end_;
};

class Accelerator {
 public:
  // [all] Finds the ranks and the settings in the environment (accel/run_settings.h says who wins).
  // A second Accelerator shares the first one's ranks; one with another precision or device while
  // the first lives is an Error (config).
  explicit Accelerator(const AcceleratorOptions& options = {});
  ~Accelerator();
  Accelerator(const Accelerator&) = delete;
  Accelerator& operator=(const Accelerator&) = delete;

  // --- who and where ---
  int num_processes() const { return world().size; }
  int process_index() const { return world().rank; }
  int local_process_index() const { return world().local_rank; }
  bool is_main_process() const { return process_index() == 0; }
  bool is_local_main_process() const { return local_process_index() == 0; }
  bool is_last_process() const { return process_index() == num_processes() - 1; }
  bool use_distributed() const { return num_processes() > 1; }
  const char* distributed_type() const;  // "NO", "MULTI_CPU" or "MULTI_GPU"
  Device device() const { return conductor_->device(); }
  nn::Precision mixed_precision() const { return conductor_->precision(); }
  const dist::World& world() const;
  dist::ProcessGroup& group() const { return conductor_->group(); }
  const RunSettings& settings() const;
  const AcceleratorOptions& options() const { return options_; }
  const std::string& project_dir() const { return options_.project_dir; }
  const std::string& logging_dir() const {
    return options_.logging_dir.empty() ? options_.project_dir : options_.logging_dir;
  }

  // --- preparing ---
  // [all] Handles for models, optimizers, schedulers and loaders (prepared.h), in the order given,
  // which does not matter; one object gives one handle, several a tuple. Models get the weights of
  // rank 0, and an evaluation model is one that no prepared optimizer trains. Objects are used, not
  // copied, and must outlive the Accelerator. A handle comes back as it is.
  template <class... T>
  auto prepare(T&&... objects) {
    drop_kept();
    (check_place(objects), ...);
    if constexpr (sizeof...(T) == 1) {
      auto handle = wrap(objects...);
      conductor_->shard_optimizers();
      return handle;
    } else {
      auto handles = std::tuple{wrap(objects)...};
      conductor_->shard_optimizers();
      return handles;
    }
  }
  template <class M>
  M& unwrap_model(const AcceleratedModel<M>& model) const {
    return *model;
  }
  // [all] Gives up everything prepared and the memory that is cached; the loop starts over.
  void free_memory();
  void clear() { free_memory(); }

  // --- the step ---
  // The gradient that the optimizer gets at the end of an accumulation window is that of the
  // window's samples as one batch: sum(weight loss) / sum(weight) over its micro-batches and all
  // ranks. The weight is the number of samples; give another where losses are means over something
  // else, such as tokens. A window ends after gradient_accumulation_steps micro-batches or with the
  // loader. Outside accumulate(), every backward is a batch of its own and gradients add up.
  void backward(const Tensor& loss) { conductor_->backward(loss, std::nullopt); }           // [all]
  void backward(const Tensor& loss, double weight) { conductor_->backward(loss, weight); }  // [all]
  template <class... M>
  auto accumulate(const M&...) {
    conductor_->begin_micro_batch();
    return Scope([c = conductor_.get()] { c->end_micro_batch(); });
  }
  // Backward inside the scope keeps its gradients to this rank.
  template <class... M>
  auto no_sync(const M&...) {
    return Scope([c = conductor_.get(), before = std::exchange(conductor_->no_sync, true)] {
      c->no_sync = before;
    });
  }
  // ZeRO stage 3 with units of one's own (AcceleratorOptions::zero): f() with the parameters of
  // one of them, which are nowhere else.
  Tensor run_unit(nn::Module& unit, const std::function<Tensor()>& f) {
    return conductor_->run(unit, f);
  }
  // [all] While what it gives lives, the parameters of all models are there, for all that does not
  // go through a handle; at stages below 3 they always are. No step meanwhile.
  [[nodiscard]] GradientSync::Whole summon_full_params() { return conductor_->whole(); }
  // The next backward reduces gradients, whatever was said before.
  void trigger_sync_in_backward() {
    conductor_->no_sync = false;
    conductor_->sync_gradients = true;
  }
  bool sync_gradients() const { return conductor_->sync_gradients; }
  void set_sync_gradients(bool on) { conductor_->sync_gradients = on; }
  int64_t gradient_accumulation_steps() const { return conductor_->accumulation_steps; }
  void set_gradient_accumulation_steps(int64_t steps);  // from the next window on
  // For what is computed outside of a prepared model.
  nn::Autocast autocast() const { return nn::Autocast(mixed_precision()); }
  // Whether the last step of some optimizer met an infinity and changed nothing (fp16).
  bool optimizer_step_was_skipped() const { return conductor_->any_skipped(); }
  optim::GradScaler& scaler() { return conductor_->scaler(); }

  // Clip the gradients of the window, unscaled, to a joint 2-norm of max_norm or to [-limit,
  // limit]; where the window goes on they do nothing. The norm is that before clipping, NaN when a
  // gradient is not finite, 0 where there is nothing to clip yet. Lists of parameters must be all
  // of those of one or more prepared optimizers.
  double clip_grad_norm_(const AcceleratedOptimizer& optimizer, double max_norm);
  double clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm);
  void clip_grad_value_(const AcceleratedOptimizer& optimizer, double limit);
  void clip_grad_value_(const std::vector<Tensor>& parameters, double limit);
  void unscale_gradients();

  // --- across ranks [all] ---
  Tensor gather(const Tensor& x) { return accel::gather(group(), x); }
  // Of something with a row, or k rows, for each sample of the batch under way: the rows of all
  // ranks, each sample of the data set once, in the order of the epoch.
  Tensor gather_for_metrics(const Tensor& x);
  template <class... T>
  auto gather_for_metrics(const Tensor& x, const T&... more) {
    return std::tuple{gather_for_metrics(x), gather_for_metrics(more)...};
  }
  std::vector<std::string> gather_object(const std::string& mine) {
    return gather_text(group(), device(), mine);
  }
  Tensor reduce(const Tensor& x, dist::ReduceOp op = dist::ReduceOp::sum, double scale = 1) {
    return accel::reduce(group(), x, op, scale);
  }
  Tensor pad_across_processes(const Tensor& x, const PadOptions& options = {}) {
    return accel::pad_across_processes(group(), x, options);
  }
  void wait_for_everyone() { group().barrier().wait(); }
  void set_trigger() { triggered_ = true; }
  bool check_trigger();  // on every rank, whether one has set it; then it is reset on all

  // --- shares of a list: the first ranks get one more where it does not divide ---
  // With padding every rank has as many, the last element repeated; the list must not be empty.
  template <class T>
  std::vector<T> split_between_processes(const std::vector<T>& list, bool apply_padding = false);
  Tensor split_between_processes(const Tensor& x, bool apply_padding = false);  // by dimension 0

  // --- only some ranks ---
  // Called with a function to run on that rank; on the others nothing happens.
  template <class F>
  void on_main_process(F&& f) const {
    if (is_main_process()) f();
  }
  template <class F>
  void on_local_main_process(F&& f) const {
    if (is_local_main_process()) f();
  }
  template <class F>
  void on_last_process(F&& f) const {
    if (is_last_process()) f();
  }
  template <class F>
  void on_process(int index, F&& f) const {
    if (process_index() == index) f();
  }
  template <class F>
  void on_local_process(int index, F&& f) const {
    if (local_process_index() == index) f();
  }
  // [all] Runs f on the main process, then on the others: what it leaves in files is there for
  // them.
  template <class F>
  auto main_process_first(F&& f) {
    return in_turns(is_main_process(), std::forward<F>(f));
  }
  template <class F>
  auto local_main_process_first(F&& f) {  // the main process of each host
    return in_turns(is_local_main_process(), std::forward<F>(f));
  }
  // A line on standard output, once a host.
  void print(std::string_view line) const;

  // --- loaders ---
  // The loader, past the first `batches` of its epoch; the next loop over it continues there.
  template <class D>
  AcceleratedLoader<D> skip_first_batches(const AcceleratedLoader<D>& loader, int64_t batches) {
    loader.set_epoch(loader->state().epoch, batches);
    return loader;
  }
  bool split_batches() const { return options_.split_batches; }
  bool even_batches() const { return conductor_->even_batches(); }
  void set_even_batches(bool even) { conductor_->set_even_batches(even); }
  // While the scope lasts, every sample is seen once even where ranks do not divide the data.
  // (Ranks always have equally many batches, so nothing needs joining; see even_batches in
  // accel/data/shard.h.)
  template <class... M>
  auto join_uneven_inputs(const M&...) {
    const bool before = even_batches();
    set_even_batches(false);
    return Scope([this, before] { set_even_batches(before); });
  }
  bool end_of_dataloader() const { return conductor_->end_of_dataloader(); }

  // --- files ---
  // [all]
  template <class M>
  std::vector<nn::NamedTensor> get_state_dict(const AcceleratedModel<M>& model) {
    return state_of(*model);
  }
  // [all] `directory`/model.safetensors, by the main process; the others wait for it.
  template <class M>
  void save_model(const AcceleratedModel<M>& model, const std::string& directory) {
    save_model_of(*model, directory);
  }

  // --- the whole run: everything prepared, random numbers, positions, micro-batches [all] ---
  // A checkpoint of after the last optimizer update, in a directory of its own under `root` (that
  // of options().checkpoints unless it is given; accel/checkpoint/checkpoint.h says how); returns
  // its path. prepare() comes first. A run that loads one and goes on is bit by bit the run that
  // did not stop.
  std::string save_state(const std::string& root = {}, bool best = false);
  // Loads this checkpoint, or the newest good one under this root. Error (checkpoint) for none.
  void load_state(const std::string& path = {});
  bool resume_state(const std::string& root = {});  // false, with nothing changed, for none
  // For a loop with a SignalGuard (accel/signals.h), after each update: saves when a rank got a
  // signal that asks for it, and throws Error (preempted) when it asks for the end as well.
  void save_if_asked();
  // Called before a state is saved, or loaded, on every rank.
  void register_save_state_pre_hook(std::function<void()> hook) {
    before_save_.push_back(std::move(hook));
  }
  void register_load_state_pre_hook(std::function<void()> hook) {
    before_load_.push_back(std::move(hook));
  }
  // `object` goes into every checkpoint from now on; it must outlive the Accelerator.
  void register_for_checkpointing(Checkpointable& object);
  int64_t optimizer_updates() const { return conductor_->updates(); }  // of the first one prepared

  // --- trackers: files under logging_dir/run_name, written by the main process ---
  // `config` is kept beside them. Which kinds: AcceleratorOptions::log_with. A run that loads a
  // checkpoint continues them; they go back to what they held when it was saved.
  void init_trackers(const std::string& run_name, std::span<const Field> config = {},
                     TrackerStart start = TrackerStart::replace);
  void log(std::initializer_list<Field> values, int64_t step);
  Tracker* get_tracker(TrackerKind kind) const;  // null on other ranks and without init_trackers()
  void end_training();                           // [all] closes them

  // While what it gives lives, every rank records where its time goes, and then writes it to
  // profile_<rank>.json in `directory`, or without one in logging_dir (accel/track/profile.h).
  [[nodiscard]] Profile profile(const std::string& directory = {}) const;

 private:
  struct Joined;
  struct Kept;

  Checkpoints& checkpoints_at(const std::string& root);
  void drop_kept();  // [all] once what was saved is durable
  std::string checkpoint_root() const;
  void check_place(optim::Optimizer& optimizer) const;
  template <class T>
  void check_place(T&) const {}
  template <std::derived_from<nn::Module> M>
  auto wrap(M& module) {
    conductor_->add(module);
    return AcceleratedModel<M>(module, *conductor_);
  }
  AcceleratedOptimizer wrap(optim::Optimizer& optimizer) {
    return {conductor_->add(optimizer), *conductor_};
  }
  AcceleratedScheduler wrap(optim::Scheduler& scheduler) {
    conductor_->add(scheduler);
    return {scheduler, *conductor_};
  }
  template <class D>
  auto wrap(DataLoader<D>& loader) {
    conductor_->add(loader.feed());
    return AcceleratedLoader<D>(loader, *conductor_);
  }
  template <class M>
  AcceleratedModel<M> wrap(const AcceleratedModel<M>& handle) {
    return handle;
  }
  AcceleratedOptimizer wrap(const AcceleratedOptimizer& handle) { return handle; }
  AcceleratedScheduler wrap(const AcceleratedScheduler& handle) { return handle; }
  template <class D>
  AcceleratedLoader<D> wrap(const AcceleratedLoader<D>& handle) {
    return handle;
  }

  template <class F>
  auto in_turns(bool first, F&& f);
  std::pair<int64_t, int64_t> share(int64_t count) const;  // [begin, end) of this rank
  int64_t largest_share(int64_t count) const;
  std::vector<Conductor::Optimizer*> owners_of(const char* op, const std::vector<Tensor>& list);
  std::vector<nn::NamedTensor> state_of(nn::Module& module);
  void save_model_of(nn::Module& module, const std::string& directory);

  AcceleratorOptions options_;
  std::shared_ptr<Joined> joined_;
  std::unique_ptr<Conductor> conductor_;
  std::vector<Checkpointable*> registered_;
  std::vector<std::function<void()>> before_save_, before_load_;
  std::shared_ptr<Kept> kept_;  // made by the first save or load
  bool triggered_ = false;
  bool tracking_ = false;
  std::map<TrackerKind, std::unique_ptr<Tracker>> trackers_;
};

template <class F>
auto Accelerator::in_turns(bool first, F&& f) {
  if (!first) wait_for_everyone();
  const auto next = [&] {
    if (first) wait_for_everyone();
  };
  try {
    if constexpr (std::is_void_v<decltype(f())>) {
      f();
    } else {
      auto result = f();
      next();
      return result;
    }
  } catch (...) {  // the others still have their turn
    next();
    throw;
  }
  next();
}

template <class T>
std::vector<T> Accelerator::split_between_processes(const std::vector<T>& list,
                                                    bool apply_padding) {
  const auto count = static_cast<int64_t>(list.size());
  const auto [begin, end] = share(count);
  std::vector<T> out(list.begin() + begin, list.begin() + end);
  PINION_CHECK(!apply_padding || !list.empty(),
               "split_between_processes: expected something to pad with, got an empty list");
  if (apply_padding) out.resize(static_cast<size_t>(largest_share(count)), list.back());
  return out;
}

}  // namespace pinion::accel
