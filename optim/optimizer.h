// SPDX-License-Identifier: Apache-2.0
// Optimizer: named groups of parameters in arenas, and one kernel call per contiguous range that
// has gradients: normally one in all. A parameter without a gradient is skipped and its count of
// steps stands still, as in PyTorch.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pinion/optim/arena.h"

namespace pinion::kernels {
struct StepControl;  // kernels/step_control.h
}

namespace pinion::optim {

// What one pass over the gradients finds.
struct GradStats {
  double squares = 0;    // sum of squares; meaningless when something is not finite
  double nonfinite = 0;  // how many elements are infinite or NaN
};

// The elements of one slice (only its values are to be read), in a tensor of as many.
using ReadSlice = std::function<Tensor(const StateSlice&)>;

// What joins the optimizers of several processes, each of which updates a part of the elements
// (dist/zero/zero.h). All processes make the same calls.
class Sharding {
 public:
  virtual ~Sharding() = default;
  virtual void finish_gradients() = 0;  // before gradients are read: those of the parts are final
  virtual GradStats measure() = 0;      // of the gradients of all processes
  virtual void zero_grad() = 0;

  // A step, which need not ask for finish_gradients(): update_range() calls `update` for a range,
  // or on any thread for pieces of it, with the final gradients, or with none if the arena's are.
  using Update = std::function<void(const Arena::Range& range, const ConstView& gradients)>;
  virtual void before_step() = 0;
  virtual void update_range(Arena& arena, const Arena::Range& range, const Update& update) = 0;
  virtual void after_step() = 0;  // the parts have new values
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Updates every parameter that has a gradient, as if its gradient were multiplied by grad_scale
  // and by the pending factor. A steady step allocates nothing.
  void step(double grad_scale = 1);
  void zero_grad();  // afterwards no parameter has a gradient, and the pending factor is 1

  // Unscaling and clipping by norm are folded into the step: they leave the gradients in memory as
  // they are and multiply the pending factor, so neither costs a pass over memory. The factor is
  // for the gradients as they stand: if they are written before zero_grad() (another backward, or
  // by hand), the next use throws Error. apply_pending_scale() multiplies the gradients themselves.
  void multiply_gradients(double factor);
  double pending_scale() const { return pending_scale_; }
  void apply_pending_scale();
  // Of the gradients in memory, without the pending factor. One pass; a repeated call on the same
  // gradients costs none.
  GradStats grad_stats();

  // From now on a step takes its numbers from the memory of its device: the learning rate, how many
  // steps there were, the factor of the gradients. So a step can be recorded once and replayed
  // (runtime/graph.h), and nothing in it waits for the device, clipping and loss scaling included.
  // Every parameter must have a gradient in such a step, all must lie on one device, and the host
  // learns what was decided only when it asks. As torch.optim's `capturable`. set_lr() reaches
  // recorded steps; other options are recorded as they are.
  void make_capturable();
  bool is_capturable() const { return control_.defined(); }
  // Of a capturable optimizer: this step clips its gradients by their joint norm, see
  // clip_grad_norm_; divides them by loss_scale (f32 []) first, and changes nothing if one of them
  // is not finite. For the next step() only.
  void limit_norm(double max_norm);
  void divide_by(const Tensor& loss_scale);
  // Of the last step of a capturable optimizer; these wait for the device.
  double grad_norm() const;       // before clipping; NaN when nothing asked for it
  bool step_was_skipped() const;  // a gradient was not finite
  ConstView control() const;      // f64 [5], kernels::StepControl, for kernels of the same step

  size_t group_count() const { return groups_.size(); }
  const std::string& group_name(size_t group) const { return at(group).name; }
  double lr(size_t group = 0) const { return at(group).lr; }
  void set_lr(size_t group, double lr);
  double base_lr(size_t group = 0) const { return at(group).base_lr; }  // of the group's options
  double weight_decay(size_t group = 0) const { return at(group).weight_decay; }
  void set_weight_decay(size_t group, double weight_decay);
  std::vector<Arena*> arenas();               // of all groups
  std::vector<nn::NamedTensor> parameters();  // of all groups, in the order given

  // State by name: "exp_avg.<parameter>" and the like (views of the live state),
  // "step.<parameter>", "lr.<group>", "weight_decay.<group>". load_state() takes exactly these
  // names and shapes; it throws Error (checkpoint) that names the tensor, and then changes nothing.
  // A sharded optimizer has no whole state() of its own (dist::Zero::state() gathers it);
  // load_state() takes whole tensors all the same, and keeps what belongs here.
  std::vector<nn::NamedTensor> state();
  void load_state(const std::vector<nn::NamedTensor>& state);
  // The same by what this process holds: every name, some perhaps with no elements. Numbers
  // ("step.", "lr.", "weight_decay.") are whole everywhere. load_slices() asks for each slice, a
  // tensor of as many elements and any floating dtype.
  std::vector<StateSlice> state_slices();
  void load_slices(const ReadSlice& read);

  // The arenas were sharded (Arena::shard); from now on `sharding` is asked for what they share.
  void set_sharding(std::shared_ptr<Sharding> sharding);
  bool is_sharded() const { return sharding_ != nullptr; }

 protected:
  explicit Optimizer(const char* name) : name_(name) {}  // name: a literal that opens error texts
  // Adds a group; `state_names` become the blocks 0, 1, ... of each of its arenas.
  void add_group(std::string name, const std::vector<nn::NamedTensor>& params, double lr,
                 double weight_decay, std::initializer_list<const char*> state_names);
  // The views of one call: elements of a range of the parameters, gradients and state.
  struct Views {
    View w;
    ConstView dw;
    View state[3];  // empty beyond the blocks of the group
    View low;       // where the new parameters go in 16 bits too; or empty
  };
  virtual void update(size_t group, Device device, const Views& views, int64_t steps,
                      double grad_scale) = 0;
  // The same with the numbers of a kernels::StepControl in the device's memory.
  virtual void update_controlled(size_t group, Device device, const Views& views,
                                 const View& control) = 0;

 private:
  struct Group {
    std::string name;
    double base_lr, lr, weight_decay;
    std::vector<Arena> arenas;  // one per dtype and device
    size_t states;              // blocks of each arena
    std::vector<nn::NamedTensor> params;
  };
  const Group& at(size_t group) const;
  void check_parameters(const std::string& group, const std::vector<nn::NamedTensor>& params) const;
  uint64_t gradient_version();  // changes whenever a gradient in an arena may have been written
  void finish_gradients() const {
    if (sharding_) sharding_->finish_gradients();
  }
  void check_pending();
  void check_numbers(const std::vector<nn::NamedTensor>& state) const;
  void take_state(const std::vector<StateSlice>& live, const std::vector<nn::NamedTensor>& slices);
  GradStats measure();
  Views views_of(Group& group, Arena& arena, const Arena::Range& range, const View& low);
  void update_range(size_t group, Arena& arena, const Arena::Range& range, const View& low,
                    double grad_scale);
  void capturable_step(double grad_scale);
  void write_lr(size_t group);
  std::vector<kernels::StepControl> control_numbers() const;  // waits for the device
  void take_steps_from_device();

  const char* name_;
  std::vector<Group> groups_;
  std::shared_ptr<Sharding> sharding_;
  double pending_scale_ = 1;
  uint64_t pending_version_ = 0;  // gradient_version() when the pending factor was set
  struct {
    bool valid = false;
    uint64_t version = 0;
    int64_t elements = 0;  // covered, and where: a gradient may come or go without a write
    uint64_t layout = 0;
    GradStats found;
  } last_stats_;
  Tensor stats_;         // f64 [2]: result of the kernel; [arenas, 2] of a capturable optimizer
  Tensor control_;       // f64 [arenas, 5], of a capturable optimizer
  double max_norm_ = 0;  // of the next step, infinite when it does not clip
  Tensor loss_scale_;    // of the next step
};

}  // namespace pinion::optim
