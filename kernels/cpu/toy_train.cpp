// SPDX-License-Identifier: Apache-2.0
// Whole training runs of small classifiers, one thread for each model. Lanes are hidden units, so
// that a weight matrix is read as it lies in a transposed copy and only logits are summed across
// lanes; four samples share each weight that is loaded.
#include "pinion/kernels/cpu/permutation_lanes.h"
#include "pinion/kernels/cpu/row.h"
#include "pinion/kernels/cpu/scratch.h"
#include "pinion/kernels/kernels.h"
#include "pinion/kernels/optim.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int64_t L = kLanes<float>;
constexpr int kRows = 4;  // samples taken together

PINION_INLINE int64_t padded(int64_t n) { return (n + L - 1) / L * L; }

// The order of an epoch, read from front to back.
class Order {
 public:
  explicit Order(const Permutation& permutation) : permutation_(permutation) {}
  PINION_INLINE int64_t operator()(int64_t position) {
    if (position >= end_) {
      for (int64_t at = 0; at < kAhead; at += kLanes<uint32_t>)
        store(ahead_ + at, permuted_lanes(permutation_, end_ + at));
      end_ += kAhead;
    }
    return ahead_[position % kAhead];
  }

 private:
  static constexpr int64_t kAhead = 64;  // positions; a multiple of all registers' lanes
  Permutation permutation_;
  int64_t end_ = 0;
  uint32_t ahead_[kAhead];
};

struct Dims {
  int64_t samples, features, hidden, classes;
  int64_t units;  // hidden, padded to whole registers

  explicit Dims(const ToyTrainArgs& a)
      : samples(a.x.shape[0]),
        features(a.x.shape[1]),
        hidden(a.w1.shape[1]),
        classes(a.w2.shape[1]),
        units(padded(hidden)) {}
  // Parameters lie as rows of units: w1 transposed, b1, w2; then b2. Padding stays 0.
  int64_t b1() const { return features * units; }
  int64_t w2() const { return b1() + units; }
  int64_t b2() const { return w2() + classes * units; }
  int64_t parameters() const { return b2() + padded(classes); }
  int64_t floats() const {  // parameters, gradients, two moments; h and d of some rows
    return 4 * parameters() + kRows * (units + padded(classes));
  }
};

struct Model {
  const Dims& dims;
  const ToyTrainArgs& args;
  const int64_t index;
  float *w, *g, *m, *v;  // [parameters]
  float* h;              // [kRows, units]
  float* d;              // [kRows, padded classes]: logits, then the loss's gradient at them
  double loss = 0;       // of the epoch
  int64_t correct = 0;

  Model(const Dims& shape, const ToyTrainArgs& a, int64_t model, float* memory)
      : dims(shape), args(a), index(model), w(memory) {
    g = w + dims.parameters(), m = g + dims.parameters(), v = m + dims.parameters();
    h = v + dims.parameters(), d = h + kRows * dims.units;
    for (int64_t i = 0; i < dims.floats(); ++i) memory[i] = 0;
    for_parameters([&](float& theirs, int64_t at) { w[at] = theirs; });
  }
  void hand_back() const {
    for_parameters([&](float& theirs, int64_t at) { theirs = w[at]; });
  }

  // f(the caller's number, its place in w) for every parameter.
  template <class F>
  PINION_INLINE void for_parameters(F f) const {
    float* w1 = args.w1.as<float>() + index * dims.hidden * dims.features;
    float* b1 = args.b1.as<float>() + index * dims.hidden;
    float* w2 = args.w2.as<float>() + index * dims.classes * dims.hidden;
    float* b2 = args.b2.as<float>() + index * dims.classes;
    for (int64_t u = 0; u < dims.hidden; ++u) {
      for (int64_t i = 0; i < dims.features; ++i) f(w1[u * dims.features + i], i * dims.units + u);
      f(b1[u], dims.b1() + u);
      for (int64_t c = 0; c < dims.classes; ++c)
        f(w2[c * dims.hidden + u], dims.w2() + c * dims.units + u);
    }
    for (int64_t c = 0; c < dims.classes; ++c) f(b2[c], dims.b2() + c);
  }

  // h and the logits, of which a row that is not there has those of another.
  void forward(const float* const* x) const {
    for (int64_t u = 0; u < dims.units; u += L) {
      Vec<float> sum[kRows];
#pragma GCC unroll 4
      for (auto& s : sum) s = load(w + dims.b1() + u);
      for (int64_t i = 0; i < dims.features; ++i) {
        const Vec<float> weight = load(w + i * dims.units + u);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sum[r] += weight * x[r][i];
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) store(h + r * dims.units + u, formulas::Relu{}(sum[r]));
    }
    for (int64_t c = 0; c < dims.classes; ++c) {
      Vec<float> sum[kRows] = {};
      for (int64_t u = 0; u < dims.units; u += L) {
        const Vec<float> weight = load(w + dims.w2() + c * dims.units + u);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sum[r] += weight * load(h + r * dims.units + u);
      }
      for (int r = 0; r < kRows; ++r)
        d[r * padded(dims.classes) + c] = lane_sum<float>(sum[r]) + w[dims.b2() + c];
    }
  }

  // Logits y become the gradient of the mean loss; what the sample adds to that mean.
  double lose(float* y, int64_t target, float share) {
    if (target < 0 || target >= dims.classes) {
      for (int64_t c = 0; c < dims.classes; ++c) y[c] = __builtin_nanf("");
      return __builtin_nan("");
    }
    int64_t first = 0;
    for (int64_t c = 1; c < dims.classes; ++c) first = y[c] <= y[first] ? first : c;
    const float top = y[first], hit = y[target];
    float sum = 0;
    for (int64_t c = 0; c < dims.classes; ++c) sum += y[c] = math::exp_nonpositive(y[c] - top);
    correct += first == target && sum == sum;  // no NaN among them
    for (int64_t c = 0; c < dims.classes; ++c) y[c] *= share / sum;
    y[target] -= share;
    return static_cast<double>((math::log(sum) + top - hit) * share);
  }

  // Adds the rows' gradients. A row that is not there has d = 0.
  void backward(const float* const* x) const {
    const int64_t stride = padded(dims.classes);
    for (int64_t u = 0; u < dims.units; u += L) {
      Vec<float> dh[kRows] = {};
      for (int64_t c = 0; c < dims.classes; ++c) {
        const int64_t at = dims.w2() + c * dims.units + u;
        const Vec<float> weight = load(w + at);
        Vec<float> dw = load(g + at);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const float dy = d[r * stride + c];
          dh[r] += weight * dy;
          dw += load(h + r * dims.units + u) * dy;
        }
        store(g + at, dw);
      }
      Vec<float> db = load(g + dims.b1() + u);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        dh[r] = formulas::ReluBackward{}(load(h + r * dims.units + u), dh[r]);
        db += dh[r];
      }
      store(g + dims.b1() + u, db);
      for (int64_t i = 0; i < dims.features; ++i) {
        Vec<float> dw = load(g + i * dims.units + u);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) dw += dh[r] * x[r][i];
        store(g + i * dims.units + u, dw);
      }
    }
    for (int64_t c = 0; c < dims.classes; ++c)
      for (int r = 0; r < kRows; ++r) g[dims.b2() + c] += d[r * stride + c];
  }

  // One step over the samples at [begin, end) of the epoch's order.
  void step(Order& order, int64_t begin, int64_t end, const AdamUpdate<float>& update) {
    const float share = 1.0f / static_cast<float>(end - begin);
    const int64_t stride = padded(dims.classes);
    const auto* data = args.x.as<float>();
    const auto* target = args.target.as<int64_t>();
    for (int64_t at = begin; at < end; at += kRows) {
      const int64_t count = smaller(end - at, int64_t{kRows});
      int64_t sample[kRows];
      const float* x[kRows];
      for (int r = 0; r < kRows; ++r) {
        sample[r] = r < count ? order(at + r) : sample[0];
        x[r] = data + sample[r] * dims.features;
      }
      forward(x);
      for (int64_t r = 0; r < count; ++r) loss += lose(d + r * stride, target[sample[r]], share);
      for (int64_t e = count * stride; e < kRows * stride; ++e) d[e] = 0;
      backward(x);
    }
    for (int64_t i = 0; i < dims.parameters(); i += L) {
      Vec<float> pw = load(w + i), pm = load(m + i), pv = load(v + i);
      update(pw, load(g + i), pm, pv);
      store(w + i, pw), store(m + i, pm), store(v + i, pv), store(g + i, Vec<float>{});
    }
  }

  void run() {
    const int64_t steps = chunk_count(dims.samples, args.batch);
    const auto seed = static_cast<uint64_t>(args.seed.as<int64_t>()[index]);
    AdamStep adam = args.adam;
    adam.lr = args.lr.as<double>()[index];
    adam.step = 0;
    for (int64_t e = 0; e < args.epochs; ++e) {
      Order order(Permutation(dims.samples, {seed, args.stream, static_cast<uint64_t>(e)}));
      loss = 0, correct = 0;
      for (int64_t at = 0; at < dims.samples; at += args.batch) {
        ++adam.step;
        step(order, at, smaller(at + args.batch, dims.samples), AdamUpdate<float>(adam));
      }
      args.loss.as<double>()[index * args.epochs + e] = loss / static_cast<double>(steps);
      args.correct.as<int64_t>()[index * args.epochs + e] = correct;
    }
    hand_back();
  }
};

}  // namespace

void toy_train(const CpuContext& ctx, ToyTrainArgs args) {
  const Dims dims(args);
  for_chunks(ctx, args.w1.shape[0], 1, [&](int64_t begin, int64_t, int64_t) {
    const Scratch memory(dims.floats() * static_cast<int64_t>(sizeof(float)));
    Model(dims, args, begin, memory.as<float>()).run();
  });
}

}  // namespace pinion::kernels::PINION_RUNG
