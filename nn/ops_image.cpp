// SPDX-License-Identifier: Apache-2.0
// Operations on images: convolution, batch normalisation, pooling.
#include "pinion/nn/ops_image.h"

#include <cmath>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/ops.h"
#include "pinion/nn/ops_support.h"
#include "pinion/nn/shared_statistics.h"

namespace pinion::nn {
namespace {

void check_images(const char* op, const Tensor& x) {
  check_floating(op, "x", x);
  check_rank(op, "x", x, 4);
}

// --- convolution ------------------------------------------------------------------------------

// The result's shape.
Shape check_conv2d(const Tensor& x, const Tensor& w, const Tensor& b, const kernels::Conv2d& m) {
  check_images("conv2d", x);
  check_like("conv2d", "weight", w, x);
  check_rank("conv2d", "weight", w, 4);
  PINION_CHECK(w.size(3) == x.size(3), "conv2d: x ", x.shape(), " does not fit weight ", w.shape());
  PINION_CHECK(w.size(1) > 0 && w.size(2) > 0, "conv2d: expected a window in weight, got ",
               w.shape());
  constexpr int64_t kMost = int64_t{1} << 20;  // keeps the arithmetic of windows within 63 bits
  const auto step = [](const char* name, int64_t value, int64_t least) {
    PINION_CHECK(value >= least && value <= kMost, "conv2d: expected ", name, " in [", least, ", ",
                 kMost, "], got ", value);
  };
  step("stride", m.stride, 1);
  step("padding", m.padding, 0);
  step("dilation", m.dilation, 1);
  if (b.defined()) {
    check_like("conv2d", "bias", b, x);
    check_shape("conv2d", "bias", b, {w.size(0)});
  }
  const auto extent = [&](int dim) {
    return kernels::window_count(x.size(dim), w.size(dim), m.stride, m.padding, m.dilation);
  };
  const int64_t p = extent(1), q = extent(2);
  PINION_CHECK(p > 0 && q > 0, "conv2d: expected images that hold a window of weight ", w.shape(),
               ", got x ", x.shape());
  return {x.size(0), p, q, w.size(0)};
}

struct Conv2dBackward {
  Input to_x, to_w, to_b;
  bool has_bias;
  kernels::Conv2d window;
  Shape x_shape, w_shape;
  Tensor x;  // for dw
  Tensor w;  // for dx

  Tensors operator()(const Tensor& dy) const {
    Tensor dx, dw, db;
    on(dy.device(), [&](auto& ctx) {
      if (to_x.wanted()) {
        dx = to_x.gradient(x_shape, dy);
        kernels::conv2d_backward_input(ctx, w, dy, window, dx.mut());
      }
      if (to_w.wanted()) {
        dw = to_w.gradient(w_shape, dy);
        kernels::conv2d_backward_weight(ctx, x, dy, window, dw.mut());
      }
      if (to_b.wanted()) {
        db = to_b.gradient({dy.size(3)}, dy);
        kernels::sum_rows(ctx, fold_rows(dy.view()), db.mut());
      }
    });
    if (!has_bias) return {std::move(dx), std::move(dw)};
    return {std::move(dx), std::move(dw), std::move(db)};
  }
};

// --- batch normalisation ------------------------------------------------------------------------

// What statistics and parameters are of when images are of type t.
DType wide(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

Tensor widened(const Tensor& x, DType dtype) {
  const NoGrad no_grad;
  return cast(x, dtype);
}

void check_batch_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                      const Tensor& running_mean, const Tensor& running_var,
                      const BatchNormOptions& o) {
  const char* const op = "batch_norm2d";
  check_images(op, x);
  const auto per_channel = [&](const char* name, const Tensor& t) {
    check_shape(op, name, t, {x.size(3)});
    check_device(op, name, t, x);
  };
  const auto parameter = [&](const char* name, const Tensor& t) {
    check_defined(op, name, t);
    PINION_CHECK(t.dtype() == x.dtype() || t.dtype() == wide(x.dtype()), op, ": expected ", name,
                 " of type ", x.dtype(), ", got ", t.dtype());
    per_channel(name, t);
  };
  parameter("gamma", gamma);
  parameter("beta", beta);
  const auto running = [&](const char* name, const Tensor& t) {
    check_floating(op, name, t);
    per_channel(name, t);
  };
  if (!o.training || running_mean.defined() || running_var.defined()) {
    running("running_mean", running_mean);
    running("running_var", running_var);
  }
  PINION_CHECK(std::isfinite(o.eps) && o.eps >= 0, op, ": expected eps >= 0, got ", o.eps);
  PINION_CHECK(o.momentum >= 0 && o.momentum <= 1, op, ": expected momentum in [0, 1], got ",
               o.momentum);
  if (o.residual.defined()) {
    check_like(op, "residual", o.residual, x);
    check_shape(op, "residual", o.residual, x.shape());
  }
  if (o.batches.defined()) {
    check_like(op, "batches", o.batches, DType::i64, x);
    check_shape(op, "batches", o.batches, {});
  }
  if (!o.training) return;
  PINION_CHECK(o.groups > 0 && x.size(0) % o.groups == 0, op, ": expected groups that divide the ",
               x.size(0), " images, got ", o.groups);
  if (o.sum_over_parts) return;
  PINION_CHECK(x.numel() == 0 || x.numel() / o.groups > x.size(3), op,
               ": expected more than one element of each channel in a group, got x ", x.shape(),
               " in ", o.groups, " groups");
}

// Means and variances [groups,C] of x, which the running ones follow.
void take_statistics(const Tensor& x, const kernels::BatchNorm& b, Tensor& mean, Tensor& var,
                     Tensor& running_mean, Tensor& running_var, Tensor batches) {
  if (x.numel() == 0) return;
  Tensor to_mean = running_mean, to_var = running_var;
  if (running_mean.defined())
    to_mean = widened(running_mean, mean.dtype()), to_var = widened(running_var, mean.dtype());
  on(x.device(), [&](auto& ctx) {
    kernels::batch_norm_statistics(
        ctx, x, b, mean.mut(), var.mut(), to_mean.defined() ? to_mean.mut() : View(),
        to_var.defined() ? to_var.mut() : View(), batches.defined() ? batches.mut() : View());
    if (to_mean.defined() && running_mean.dtype() != mean.dtype())
      kernels::cast(ctx, to_mean, running_mean.mut());
    if (to_var.defined() && running_var.dtype() != mean.dtype())
      kernels::cast(ctx, to_var, running_var.mut());
  });
}

struct BatchNormBackward {
  Input to_x, to_gamma, to_beta, to_residual;
  bool has_residual, training;
  kernels::BatchNorm norm;
  Tensor mean, var, gamma;
  Tensor x;  // where a sum with it is needed
  Tensor y;  // with relu
  std::function<void(Tensor)> sum_over_parts;
  Tensor share;  // [1], of this part in the whole batch

  Tensors operator()(const Tensor& dy) const {
    const bool parameters = to_gamma.wanted() || to_beta.wanted();
    const bool through_statistics = training && to_x.wanted();
    Tensor dx, dgamma, dbeta, dresidual, sums;
    if (to_x.wanted()) dx = to_x.gradient(dy);
    if (to_gamma.wanted()) dgamma = to_gamma.gradient(gamma);
    if (to_beta.wanted()) dbeta = to_beta.gradient(gamma);
    if (to_residual.wanted()) dresidual = norm.relu ? to_residual.gradient(dy) : dy;
    const auto view_of = [](Tensor& t) { return t.defined() ? t.mut() : View(); };
    const ConstView result = norm.relu ? y.view() : ConstView();
    on(dy.device(), [&](auto& ctx) {
      if (parameters || through_statistics) {
        sums = Tensor({2, norm.groups, dy.size(3)}, gamma.dtype(), dy.device());
        kernels::batch_norm_backward_sums(ctx, x, mean, var, result, dy, norm, sums.mut(),
                                          view_of(dgamma), view_of(dbeta));
      }
      if (through_statistics && sum_over_parts) {
        sum_over_parts(sums.alias({sums.numel()}));
        kernels::scale_by(ctx, sums, share,
                          sums.mut());  // the next kernel divides by this part's n
      }
      const bool own_residual = dresidual.defined() && norm.relu;
      if (dx.defined() || own_residual)
        kernels::batch_norm_backward(ctx, through_statistics ? x.view() : ConstView(), mean, var,
                                     gamma, result, dy,
                                     through_statistics ? sums.view() : ConstView(), norm,
                                     view_of(dx), own_residual ? dresidual.mut() : View());
    });
    if (!has_residual) return {std::move(dx), std::move(dgamma), std::move(dbeta)};
    return {std::move(dx), std::move(dgamma), std::move(dbeta), std::move(dresidual)};
  }
};

// --- pooling ------------------------------------------------------------------------------------

Shape check_pool(const char* op, const Tensor& x, const kernels::Pool2d& m, int64_t most) {
  check_images(op, x);
  PINION_CHECK(m.window >= 1 && m.window <= most, op, ": expected window in [1, ", most, "], got ",
               m.window);
  PINION_CHECK(m.stride >= 1 && m.stride <= (int64_t{1} << 20), op,
               ": expected stride in [1, 1048576], got ", m.stride);
  PINION_CHECK(m.padding >= 0 && m.padding <= m.window / 2, op,
               ": expected padding of at most half the window, got ", m.padding, " of ", m.window);
  const int64_t p = kernels::window_count(x.size(1), m.window, m.stride, m.padding);
  const int64_t q = kernels::window_count(x.size(2), m.window, m.stride, m.padding);
  PINION_CHECK(p > 0 && q > 0 && x.size(1) > 0 && x.size(2) > 0, op,
               ": expected images that hold a window of ", m.window, ", got x ", x.shape());
  return {x.size(0), p, q, x.size(3)};
}

Tensor average(const char* op, const Tensor& x, const kernels::Pool2d& m, const Shape& shape) {
  Tensor y(shape, x.dtype(), x.device());
  if (y.numel() > 0)
    on(x.device(), [&](auto& ctx) { kernels::avg_pool_forward(ctx, x, m, y.mut()); });
  return record(
      op, std::move(y), {&x}, [to_x = Input(x), m, shape = x.shape()](const Tensor& dy) -> Tensors {
        Tensor dx = to_x.gradient(shape, dy);
        if (dx.numel() > 0)
          on(dy.device(), [&](auto& ctx) { kernels::avg_pool_backward(ctx, dy, m, dx.mut()); });
        return {std::move(dx)};
      });
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& b, const kernels::Conv2d& window) {
  if (const amp::Casts to{amp::Op::conv2d, x, w, b}) return conv2d(to(x), to(w), to(b), window);
  const Shape shape = check_conv2d(x, w, b, window);
  Tensor y(shape, x.dtype(), x.device());
  on(x.device(), [&](auto& ctx) {
    kernels::conv2d_forward(ctx, x, w, window, y.mut());
    if (!b.defined()) return;
    const View rows = fold_rows(y.mut());
    kernels::add_bias(ctx, rows, b, rows);
  });
  const Input to_x(x), to_w(w), to_b(b);
  Conv2dBackward backward{to_x,
                          to_w,
                          to_b,
                          b.defined(),
                          window,
                          x.shape(),
                          w.shape(),
                          saved(x, to_w.wanted()),
                          saved(w, to_x.wanted())};
  if (!b.defined()) return record("conv2d", std::move(y), {&x, &w}, std::move(backward));
  return record("conv2d", std::move(y), {&x, &w, &b}, std::move(backward));
}

Tensor batch_norm2d(const Tensor& x, const Tensor& gamma, const Tensor& beta, Tensor running_mean,
                    Tensor running_var, const BatchNormOptions& options) {
  check_batch_norm(x, gamma, beta, running_mean, running_var, options);
  const DType type = wide(x.dtype());
  if (gamma.dtype() != type || beta.dtype() != type)
    return batch_norm2d(x, cast(gamma, type), cast(beta, type), running_mean, running_var, options);
  const kernels::BatchNorm norm{options.training ? options.groups : 1, options.eps,
                                options.momentum, options.relu};
  Tensor mean, var, share;
  const bool is_part = options.training && options.sum_over_parts;
  if (is_part) {
    SharedStatistics found = share_statistics(x, norm, options);
    follow_statistics(found, norm.momentum, running_mean, running_var);
    mean = found.mean, var = found.var, share = found.share;
  } else if (options.training) {
    mean = Tensor({norm.groups, x.size(3)}, type, x.device()), var = Tensor::like(mean);
    take_statistics(x, norm, mean, var, running_mean, running_var, options.batches);
  } else {
    mean = widened(running_mean, type).alias({1, x.size(3)});
    var = widened(running_var, type).alias({1, x.size(3)});
  }
  const Tensor& residual = options.residual;
  Tensor y = Tensor::like(x);
  if (x.numel() > 0)
    on(x.device(), [&](auto& ctx) {
      kernels::batch_norm_apply(ctx, x, mean, var, gamma, beta,
                                residual.defined() ? residual.view() : ConstView(), norm, y.mut());
    });
  const Input to_x(x), to_gamma(gamma), to_beta(beta), to_residual(residual);
  const bool sums = to_gamma.wanted() || to_beta.wanted() || (options.training && to_x.wanted());
  BatchNormBackward backward{to_x,
                             to_gamma,
                             to_beta,
                             to_residual,
                             residual.defined(),
                             options.training,
                             norm,
                             mean,
                             var,
                             gamma,
                             saved(x, sums),
                             saved(y.detach(), options.relu),
                             is_part ? options.sum_over_parts : nullptr,
                             share};
  if (!residual.defined())
    return record("batch_norm2d", std::move(y), {&x, &gamma, &beta}, std::move(backward));
  return record("batch_norm2d", std::move(y), {&x, &gamma, &beta, &residual}, std::move(backward));
}

Tensor max_pool2d(const Tensor& x, const kernels::Pool2d& window) {
  const Shape shape = check_pool("max_pool2d", x, window, 16);
  Tensor y(shape, x.dtype(), x.device());
  const bool recording = grad_enabled() && x.requires_grad();
  Tensor index = recording ? Tensor(y.shape(), DType::u8, x.device()) : Tensor();
  if (y.numel() > 0)
    on(x.device(), [&](auto& ctx) {
      kernels::max_pool_forward(ctx, x, window, y.mut(), recording ? index.mut() : View());
    });
  return record("max_pool2d", std::move(y), {&x},
                [to_x = Input(x), window, index, shape = x.shape()](const Tensor& dy) -> Tensors {
                  Tensor dx = to_x.gradient(shape, dy);
                  if (dx.numel() > 0)
                    on(dy.device(), [&](auto& ctx) {
                      kernels::max_pool_backward(ctx, index, dy, window, dx.mut());
                    });
                  return {std::move(dx)};
                });
}

Tensor avg_pool2d(const Tensor& x, const kernels::Pool2d& window) {
  return average("avg_pool2d", x, window, check_pool("avg_pool2d", x, window, int64_t{1} << 20));
}

Tensor adaptive_avg_pool2d(const Tensor& x, int64_t height, int64_t width) {
  check_images("adaptive_avg_pool2d", x);
  PINION_CHECK(height > 0 && width > 0,
               "adaptive_avg_pool2d: expected height > 0 and width > 0, got height ", height,
               ", width ", width);
  PINION_CHECK(x.size(1) > 0 && x.size(2) > 0, "adaptive_avg_pool2d: expected images x, got ",
               x.shape());
  return average("adaptive_avg_pool2d", x, {}, {x.size(0), height, width, x.size(3)});
}

Tensor global_avg_pool2d(const Tensor& x) {
  check_images("global_avg_pool2d", x);
  return reshape(adaptive_avg_pool2d(x, 1, 1), {x.size(0), x.size(3)});
}

}  // namespace pinion::nn
