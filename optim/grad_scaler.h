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

  double scale() const { return scale_; }
  int64_t growth_tracker() const { return growth_tracker_; }  // clean iterations since a change
  int64_t skips() const { return skips_; }                    // iterations skipped in a row
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
  Seen* find(const Optimizer& optimizer);

  GradScalerOptions options_;
  double scale_;  // a float's value: powers of the factors, as PyTorch stores it
  int64_t growth_tracker_ = 0;
  int64_t skips_ = 0;
  std::vector<Seen> seen_;
};

}  // namespace pinion::optim
