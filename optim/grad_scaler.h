// SPDX-License-Identifier: Apache-2.0
// GradScaler: dynamic loss scaling for fp16, with the states and the arithmetic of
// torch.amp.GradScaler, a floor under the scale, and a limit to skips in a row. One iteration:
//   backward(scaler.scale(loss));
//   scaler.unscale_(optimizer);              // only to clip or look at gradients
//   clip_grad_norm_(optimizer, 1.0);
//   if (scaler.step(optimizer)) scheduler.step();
//   scaler.update();
//   optimizer.zero_grad();
#pragma once

#include <vector>

#include "pinion/kernels/arguments.h"
#include "pinion/optim/optimizer.h"

namespace pinion::optim {

struct GradScalerOptions {
  double init_scale = 65536;       // 2^16
  double growth_factor = 2;        // > 1
  double backoff_factor = 0.5;     // in (0, 1)
  int64_t growth_interval = 2000;  // iterations in a row without an infinity before the scale grows
  double min_scale = 1;            // the floor
  int64_t max_skips = 32;          // iterations in a row that may be skipped: the last one throws
  bool enabled = true;             // false: every function passes through
};

class GradScaler {
 public:
  explicit GradScaler(const GradScalerOptions& options = {});

  // Moves the scale and its state to a device: from now on the decisions are made there, without a
  // wait, for capturable optimizers on that device (Optimizer::make_capturable). step() cannot know
  // then whether a gradient is infinite and returns true; ask Optimizer::step_was_skipped(). Nor
  // can update() know when there were too many skips in a row: scale() throws instead.
  void make_capturable(Device device);

  Tensor scale(const Tensor& loss) const;  // loss times the scale; differentiable
  // Divides the optimizer's gradients by the scale (as its pending factor) and looks for infinities
  // and NaN in the same pass. At most once per optimizer and iteration, before step().
  void unscale_(Optimizer& optimizer);
  // Steps the optimizer, after unscale_() if that was not called, unless some gradient is not
  // finite. Returns whether it stepped. Once per optimizer and iteration.
  bool step(Optimizer& optimizer);
  // Ends the iteration: after an infinity the scale shrinks, after growth_interval clean iterations
  // in a row it grows. Throws Error (non_finite) at the max_skips-th skip in a row.
  void update();
  // Ends the iteration with a scale of the program's own.
  void update(double new_scale);

  // These wait for the device of a capturable scaler, of which scale() throws what update() would
  // have: call it where the loop looks at its loss anyway.
  double scale() const;
  int64_t growth_tracker() const {
    return now().growth_tracker;
  }                                              // clean iterations since a change
  int64_t skips() const { return now().skips; }  // iterations skipped in a row
  bool enabled() const { return options_.enabled; }

  // "scale", "growth_tracker" and "skips", as scalars; growth and backoff come from the options.
  std::vector<nn::NamedTensor> state() const;
  void load_state(const std::vector<nn::NamedTensor>& state);

 private:
  enum class Stage : uint8_t { unscaled, stepped };
  struct Seen {  // an optimizer in this iteration; one that is not listed is ready
    const Optimizer* optimizer;
    Stage stage;
    bool found_inf;
  };
  struct State {
    double scale = 0;  // a float's value: powers of the factors, as PyTorch stores it
    int64_t growth_tracker = 0;
    int64_t skips = 0;
  };
  Seen* find(const Optimizer& optimizer);
  State now() const;
  void check_skips(const State& state) const;
  void set(const State& state);
  kernels::LossScaleRule rule() const;
  void update_on_device();
  Tensor device_scale() const { return on_device_.rows(0, 1).alias({}); }

  GradScalerOptions options_;
  State state_;
  std::vector<Seen> seen_;
  Tensor on_device_;  // f32 [3], kernels::LossScale, of a capturable scaler
};

}  // namespace pinion::optim
