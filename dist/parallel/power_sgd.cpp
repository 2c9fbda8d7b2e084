// SPDX-License-Identifier: Apache-2.0
// PowerSGD: one round of power iteration per matrix and step, with two small all-reduces.
#include <cmath>

#include "pinion/dist/parallel/comm_hook.h"
#include "pinion/kernels/kernels.h"

namespace pinion::dist {
namespace {

// One gradient that is sent as two thin matrices.
struct Matrix {
  Tensor m;     // [rows, cols], the gradient itself
  Tensor p, q;  // [rows, r] and [cols, r], in blocks of the bucket
};

// Makes the columns of p [rows, r] orthonormal (Gram and Schmidt), in f64 on the host. A column
// that depends on those before it becomes zero.
void orthonormalise(Tensor& p) {
  const auto rows = static_cast<size_t>(p.size(0)), r = static_cast<size_t>(p.size(1));
  const std::vector<float> given = p.values<float>();
  std::vector<double> x(given.begin(), given.end());
  const auto dot = [&](size_t a, size_t b) {
    double sum = 0;
    for (size_t i = 0; i < rows; ++i) sum += x[i * r + a] * x[i * r + b];
    return sum;
  };
  for (size_t c = 0; c < r; ++c) {
    const double before = dot(c, c);
    for (size_t b = 0; b < c; ++b) {
      const double along = dot(b, c);
      for (size_t i = 0; i < rows; ++i) x[i * r + c] -= along * x[i * r + b];
    }
    const double squares = dot(c, c);
    const double scale = squares > 1e-12 * before ? 1 / std::sqrt(squares) : 0;
    for (size_t i = 0; i < rows; ++i) x[i * r + c] *= scale;
  }
  p.copy_(Tensor::of(std::vector<float>(x.begin(), x.end()), p.shape()).to(p.device()));
}

}  // namespace

struct PowerSgdHook::State {
  struct PerBucket {
    std::vector<Matrix> matrices;
    std::vector<Tensor> rest;  // gradients that go as they are, as vectors
    Tensor ps, qs, flat_rest;  // what is sent
    Tensor error;              // [n]
    Work p_work, rest_work;
    int64_t iteration = 0;  // of reductions
    bool compressed = false;
  };
  PowerSgdOptions options;
  std::vector<PerBucket> buckets;
  std::unique_ptr<CommHook> plain = all_reduce_hook();

  void fill_q(PerBucket& b, size_t index) const {
    const PhiloxKey key{options.seed, static_cast<uint32_t>(index),
                        options.warm_start ? 0 : static_cast<uint64_t>(b.iteration)};
    on(b.qs.device(), [&](auto& ctx) { kernels::normal(ctx, b.qs.mut(), key, 0, 1); });
  }
  void lay_out(const Bucket& bucket, PerBucket& b, ProcessGroup& group) const;
};

void PowerSgdHook::State::lay_out(const Bucket& bucket, PerBucket& b, ProcessGroup& group) const {
  int64_t p_size = 0, q_size = 0, rest_size = 0;
  const int64_t r = options.rank;
  for (const Bucket::Item& item : bucket.items) {
    const Tensor& g = item.grad;
    const int64_t rows = g.rank() > 1 ? g.size(0) : 0, cols = rows > 0 ? g.numel() / rows : 0;
    const double sent = static_cast<double>((rows + cols) * r) * options.min_compression_rate;
    if (rows > 0 && sent < static_cast<double>(rows * cols)) {
      b.matrices.push_back({g.alias({rows, cols}), {}, {}});
      p_size += rows * r, q_size += cols * r;
    } else {
      b.rest.push_back(g.alias({g.numel()}));
      rest_size += g.numel();
    }
  }
  if (b.matrices.empty()) return;
  const Device device = bucket.grads.device();
  b.ps = group.symmetric({p_size}, DType::f32, device);
  b.qs = group.symmetric({q_size}, DType::f32, device);
  b.flat_rest = group.symmetric({rest_size}, DType::f32, device);
  p_size = q_size = 0;
  for (Matrix& matrix : b.matrices) {
    const int64_t rows = matrix.m.size(0), cols = matrix.m.size(1);
    matrix.p = b.ps.rows(p_size, p_size + rows * r).alias({rows, r});
    matrix.q = b.qs.rows(q_size, q_size + cols * r).alias({cols, r});
    p_size += rows * r, q_size += cols * r;
  }
  fill_q(b, bucket.index);
}

PowerSgdHook::PowerSgdHook(const PowerSgdOptions& options) : state_(new State) {
  PINION_CHECK(options.rank >= 1, "PowerSGD: expected rank >= 1, got ", options.rank);
  PINION_CHECK(options.start_iteration >= 0, "PowerSGD: expected start_iteration >= 0, got ",
               options.start_iteration);
  PINION_CHECK(options.min_compression_rate > 0,
               "PowerSGD: expected min_compression_rate > 0, got ", options.min_compression_rate);
  state_->options = options;
}
PowerSgdHook::~PowerSgdHook() = default;

Tensor PowerSgdHook::error(size_t index) const { return state_->buckets.at(index).error; }

void PowerSgdHook::prepare(std::span<const Bucket> buckets, ProcessGroup& group) {
  state_->buckets.clear();  // of a reducer before
  state_->plain->prepare(buckets, group);
  state_->buckets.resize(buckets.size());
  for (const Bucket& bucket : buckets) {
    PINION_CHECK(bucket.grads.dtype() == DType::f32, "PowerSGD: expected gradients f32, got ",
                 bucket.grads.dtype());
    state_->lay_out(bucket, state_->buckets[bucket.index], group);
  }
}

void PowerSgdHook::start(const Bucket& bucket, ReduceOp op, ProcessGroup& group) {
  State::PerBucket& b = state_->buckets[bucket.index];
  const PowerSgdOptions& o = state_->options;
  b.compressed = b.iteration++ >= o.start_iteration && !b.matrices.empty();
  if (!b.compressed) return state_->plain->start(bucket, op, group);
  if (!o.warm_start) state_->fill_q(b, bucket.index);
  Tensor grads = bucket.grads;
  on(grads.device(), [&](auto& ctx) {
    if (o.error_feedback) {
      if (b.error.defined())
        kernels::add(ctx, grads, b.error, grads.mut());
      else
        b.error = Tensor(grads.shape(), grads.dtype(), grads.device());
      b.error.copy_(grads);  // finish() subtracts what was sent
    }
    for (Matrix& matrix : b.matrices)
      kernels::matmul(ctx, matrix.m, false, matrix.q, false, false, matrix.p.mut());
  });
  int64_t at = 0;
  for (const Tensor& vector : b.rest) {
    b.flat_rest.rows(at, at + vector.numel()).copy_(vector);
    at += vector.numel();
  }
  b.rest_work = at > 0 ? group.all_reduce(b.flat_rest, op) : Work();
  b.p_work = group.all_reduce(b.ps, ReduceOp::sum);
}

void PowerSgdHook::finish(const Bucket& bucket, ReduceOp op, ProcessGroup& group) {
  State::PerBucket& b = state_->buckets[bucket.index];
  if (!b.compressed) return state_->plain->finish(bucket, op, group);
  b.p_work.wait();
  const auto for_all = [&](auto&& f) {
    on(b.ps.device(), [&](auto& ctx) {
      for (Matrix& matrix : b.matrices) f(ctx, matrix);
    });
  };
  for (Matrix& matrix : b.matrices) orthonormalise(matrix.p);
  for_all(
      [](auto& ctx, Matrix& x) { kernels::matmul(ctx, x.m, true, x.p, false, false, x.q.mut()); });
  group.all_reduce(b.qs, op).wait();
  for_all(
      [](auto& ctx, Matrix& x) { kernels::matmul(ctx, x.p, false, x.q, true, false, x.m.mut()); });
  Tensor grads = bucket.grads;
  if (state_->options.error_feedback)  // of the vectors nothing is owed: subtract what was sent
    on(grads.device(), [&](auto& ctx) { kernels::subtract(ctx, b.error, grads, b.error.mut()); });
  b.rest_work.wait();
  int64_t at = 0;
  for (Tensor& vector : b.rest) {
    vector.copy_(b.flat_rest.rows(at, at + vector.numel()));
    at += vector.numel();
  }
}

}  // namespace pinion::dist
