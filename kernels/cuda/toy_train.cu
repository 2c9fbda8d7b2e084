// SPDX-License-Identifier: Apache-2.0
// Whole training runs of small classifiers in one launch, a block for each model: the data, the
// weights and the order of an epoch stay in shared memory, Adam's moments in registers. A lane is a
// hidden unit and holds its weights; a warp takes a few samples at a time; what the warps leave as
// gradients is added in their order by the threads that own the parameters. A step has two barriers
// and touches no memory outside of the multiprocessor.
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/formulas.h"
#include "pinion/kernels/kernels.h"
#include "pinion/kernels/optim.h"
#include "pinion/kernels/permutation.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kMostShared = 220 << 10;  // bytes of shared memory, less what block_sum takes
constexpr int64_t kMostFeatures = 32, kMostHidden = 64, kMostClasses = 16;
constexpr const char* kInstead = "; train what is larger step by step";

// What of Adam changes from step to step.
struct Rates {
  float root_scale, rate;
};

// Shared memory: the samples padded to whole packs, their order, the steps' rates, the parameters,
// the warps' gradients, and the targets.
struct Run {
  int samples, features, hidden, classes, batch, steps;  // steps of an epoch
  int64_t epochs;
  const float* x;
  const int64_t* target;
  float *w1, *b1, *w2, *b2;
  const double* lr;
  const int64_t* seed;
  uint32_t stream;
  AdamStep adam;
  double* loss;
  int64_t* correct;
};

// kFeatures, kUnits and kClasses are what the run's are padded to; what is padding stays 0. One
// lane has kPerLane units. Parameters lie as rows of units: w1 transposed, b1, w2; then b2.
template <int kFeatures, int kPerLane, int kClasses>
struct Trainer {
  static constexpr int kUnits = kWarp * kPerLane;
  static constexpr int kB1 = kFeatures * kUnits, kW2 = kB1 + kUnits, kB2 = kW2 + kClasses * kUnits;
  static constexpr int kParameters = kB2 + kClasses;
  static constexpr int kOwn = (kParameters + kThreads - 1) / kThreads;  // of a thread
  static constexpr int kRows = kClasses > 8 ? 2 / kPerLane : 4;         // samples at a time
  static constexpr int kLogits = kRows * kClasses;                      // a power of two
  static constexpr int kGroup = kWarp / kLogits;  // lanes that end up with the same logit
  static constexpr bool kFewClasses = kClasses <= 4;
  static constexpr uint8_t kNoClass = 255;

  static int64_t shared_bytes(int64_t samples, int64_t steps) {
    return samples * (kFeatures * 4 + 5) + steps * static_cast<int64_t>(sizeof(Rates)) +
           (1 + kWarps) * int64_t{kParameters} * 4;
  }

  const Run& run;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  // Which logit of the pass is the lane's, after they were summed.
  const int own_row = lane / kGroup / kClasses, own_class = lane / kGroup % kClasses;

  float* x;         // [samples, kFeatures]
  Rates* rates;     // [steps]
  float* weights;   // [kParameters]
  float* partial;   // [kWarps, kParameters]
  uint32_t* order;  // [samples]
  uint8_t* label;   // [samples]

  float w1[kPerLane][kFeatures], b1[kPerLane], w2[kPerLane][kFewClasses ? kClasses : 1], b2;
  float dw1[kPerLane][kFeatures], db1[kPerLane], dw2[kPerLane][kClasses], db2;
  float first[kOwn], second[kOwn];  // moments of the parameters that the thread owns
  double loss;                      // of the epoch, the lane's share
  int64_t correct;

  __device__ __forceinline__ explicit Trainer(const Run& r) : run(r) {
    x = dynamic_shared<float>();
    rates = reinterpret_cast<Rates*>(x + run.samples * kFeatures);
    weights = reinterpret_cast<float*>(rates + run.steps);
    partial = weights + kParameters;
    order = reinterpret_cast<uint32_t*>(partial + kWarps * kParameters);
    label = reinterpret_cast<uint8_t*>(order + run.samples);
  }

  // Many classes' weights are read where they lie, for want of registers.
  __device__ __forceinline__ float weight2(int j, int c) const {
    if constexpr (kFewClasses) return w2[j][c];
    return weights[kW2 + c * kUnits + j * kWarp + lane];
  }

  // f(element) for those of [0, n) that are the thread's.
  template <class F>
  __device__ __forceinline__ void share_out(int n, F f) const {
    for (int e = static_cast<int>(threadIdx.x); e < n; e += kThreads) f(e);
  }

  // Where parameter p lies outside; null for padding.
  __device__ __forceinline__ float* outside(int p) const {
    const int row = p / kUnits, u = p % kUnits;
    const int64_t model = blockIdx.x, unit = model * run.hidden + u;
    if (p >= kB2) return p - kB2 < run.classes ? run.b2 + model * run.classes + (p - kB2) : nullptr;
    if (u >= run.hidden) return nullptr;
    if (p < kB1) return row < run.features ? run.w1 + unit * run.features + row : nullptr;
    if (p < kW2) return run.b1 + unit;
    const int c = row - kFeatures - 1;
    return c < run.classes ? run.w2 + (model * run.classes + c) * run.hidden + u : nullptr;
  }

  __device__ __forceinline__ void load() {
    share_out(run.samples * kFeatures, [&](int e) {
      const int i = e % kFeatures;
      x[e] = i < run.features ? run.x[int64_t{e / kFeatures} * run.features + i] : 0;
    });
    share_out(run.samples, [&](int e) {
      const int64_t t = run.target[e];
      label[e] = t >= 0 && t < run.classes ? static_cast<uint8_t>(t) : kNoClass;
    });
    share_out(kParameters, [&](int p) {
      const float* from = outside(p);
      weights[p] = from ? *from : 0;
    });
#pragma unroll
    for (int o = 0; o < kOwn; ++o) first[o] = second[o] = 0;
  }

  // The order of an epoch and the numbers of its steps.
  __device__ __forceinline__ void begin_epoch(int64_t epoch) {
    const Permutation permutation(run.samples, {static_cast<uint64_t>(run.seed[blockIdx.x]),
                                                run.stream, static_cast<uint64_t>(epoch)});
    share_out(run.samples, [&](int i) { order[i] = static_cast<uint32_t>(permutation(i)); });
    share_out(run.steps, [&](int t) {
      AdamStep step = run.adam;
      step.lr = run.lr[blockIdx.x];
      step.step = epoch * run.steps + t + 1;
      const AdamUpdate<float> update(step);
      rates[t] = {update.root_scale, update.rate};
    });
    loss = 0, correct = 0;
    __syncthreads();
  }

  __device__ __forceinline__ void begin_step() {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int u = j * kWarp + lane;
#pragma unroll
      for (int i = 0; i < kFeatures; ++i) w1[j][i] = weights[i * kUnits + u], dw1[j][i] = 0;
      b1[j] = weights[kB1 + u], db1[j] = 0;
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        if constexpr (kFewClasses) w2[j][c] = weights[kW2 + c * kUnits + u];
        dw2[j][c] = 0;
      }
    }
    b2 = weights[kB2 + own_class], db2 = 0;
  }

  // The sums of every v over the warp: lane l gets that of v[l / kGroup]. Each exchange halves the
  // values that a lane holds, until one is left.
  template <int kHalf = kLogits / 2>
  __device__ __forceinline__ float sum_logits(float (&v)[kLogits]) const {
    constexpr int kBit = kHalf * kGroup;
    const bool upper = lane & kBit;
#pragma unroll
    for (int k = 0; k < kHalf; ++k) {
      const float given = upper ? v[k] : v[k + kHalf], kept = upper ? v[k + kHalf] : v[k];
      v[k] = kept + __shfl_xor_sync(kFullWarp, given, kBit);
    }
    if constexpr (kHalf > 1) {
      return sum_logits<kHalf / 2>(v);
    } else {
#pragma unroll
      for (int bit = kGroup / 2; bit > 0; bit /= 2) v[0] += __shfl_xor_sync(kFullWarp, v[0], bit);
      return v[0];
    }
  }
  // fold over the classes of the lane's sample.
  template <class Fold>
  __device__ __forceinline__ float over_classes(float v, Fold fold) const {
#pragma unroll
    for (int bit = kGroup; bit < kGroup * kClasses; bit *= 2)
      v = fold(v, __shfl_xor_sync(kFullWarp, v, bit));
    return v;
  }

  // The gradient of the mean loss at the lane's logit y, of a sample that counts for `share`.
  __device__ __forceinline__ float lose(float y, int target, float share) {
    const bool is_class = own_class < run.classes;
    const float top = over_classes(is_class ? y : -INFINITY, GreaterOrNan{});
    const float e = is_class ? math::exp_nonpositive(y - top) : 0;
    const float sum = over_classes(e, Plus{});
    // The lanes at the top, from the lane's sample on: the lowest has the first largest logit.
    const unsigned at_top = __ballot_sync(kFullWarp, is_class && y == top);
    const int best =
        (__ffs(static_cast<int>(at_top >> (own_row * kClasses * kGroup))) - 1) / kGroup;
    const bool hit = own_class == target, wrong = target == kNoClass;
    if (share > 0 && lane % kGroup == 0 && (hit || wrong)) {
      const float own = (math::log(sum) + top - y) * share;
      loss += static_cast<double>(wrong ? NAN : own);
      correct += hit && best == target && sum == sum;
    }
    const float d = e * (share / sum);
    if (share == 0 || !is_class) return 0;
    return wrong ? NAN : hit ? d - share : d;
  }

  // kRows samples from position `at` on of the epoch's order, of which `count` are there.
  __device__ __forceinline__ void pass(int at, int count, float share) {
    const float* row[kRows];
    float h[kPerLane][kRows], v[kLogits];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      row[r] = x + order[at + (r < count ? r : 0)] * kFeatures;
      float sum[kPerLane];
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) sum[j] = b1[j];
#pragma unroll
      for (int i = 0; i < kFeatures; i += 4) {
        const Pack<float, 4> pack = load_pack<4>(row[r] + i);
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
          for (int j = 0; j < kPerLane; ++j) sum[j] += w1[j][i + k] * pack.v[k];
      }
#pragma unroll
      for (int c = 0; c < kClasses; ++c) v[r * kClasses + c] = 0;
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        h[j][r] = formulas::Relu{}(sum[j]);
#pragma unroll
        for (int c = 0; c < kClasses; ++c) v[r * kClasses + c] += weight2(j, c) * h[j][r];
      }
    }
    const bool there = own_row < count;
    const int target = label[order[at + (there ? own_row : 0)]];
    const float d = lose(sum_logits(v) + b2, target, there ? share : 0);
    db2 += d;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float dh[kPerLane] = {};
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        const float dy = __shfl_sync(kFullWarp, d, (r * kClasses + c) * kGroup);
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) dh[j] += dy * weight2(j, c), dw2[j][c] += dy * h[j][r];
      }
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        dh[j] = formulas::ReluBackward{}(h[j][r], dh[j]);
        db1[j] += dh[j];
      }
#pragma unroll
      for (int i = 0; i < kFeatures; i += 4) {
        const Pack<float, 4> pack = load_pack<4>(row[r] + i);
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
          for (int j = 0; j < kPerLane; ++j) dw1[j][i + k] += dh[j] * pack.v[k];
      }
    }
  }

  // What the warp has of the gradients.
  __device__ __forceinline__ void leave_gradients() {
    float* to = partial + warp * kParameters;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int u = j * kWarp + lane;
#pragma unroll
      for (int i = 0; i < kFeatures; ++i) to[i * kUnits + u] = dw1[j][i];
      to[kB1 + u] = db1[j];
#pragma unroll
      for (int c = 0; c < kClasses; ++c) to[kW2 + c * kUnits + u] = dw2[j][c];
    }
#pragma unroll
    for (int bit = kGroup * kClasses; bit < kWarp; bit *= 2)
      db2 += __shfl_xor_sync(kFullWarp, db2, bit);
    if (own_row == 0 && lane % kGroup == 0) to[kB2 + own_class] = db2;
  }

  __device__ __forceinline__ void update_own(const AdamUpdate<float>& update) {
#pragma unroll
    for (int o = 0; o < kOwn; ++o) {
      const int p = o * kThreads + static_cast<int>(threadIdx.x);
      if (p >= kParameters) break;
      float g = partial[p], w = weights[p];
#pragma unroll
      for (int k = 1; k < kWarps; ++k) g += partial[k * kParameters + p];
      update(w, g, first[o], second[o]);
      weights[p] = w;
    }
  }

  __device__ __forceinline__ void train() {
    load();
    AdamStep step = run.adam;
    step.lr = run.lr[blockIdx.x];
    AdamUpdate<float> update(step);
    for (int64_t epoch = 0; epoch < run.epochs; ++epoch) {
      begin_epoch(epoch);
      for (int t = 0; t < run.steps; ++t) {
        const int begin = t * run.batch;
        const int left = run.samples - begin, rows = left < run.batch ? left : run.batch;
        const float share = 1.0f / static_cast<float>(rows);
        begin_step();
        for (int r = warp * kRows; r < rows; r += kWarps * kRows) pass(begin + r, rows - r, share);
        leave_gradients();
        __syncthreads();  // all gradients are there
        update.root_scale = rates[t].root_scale, update.rate = rates[t].rate;
        update_own(update);
        __syncthreads();  // all weights are new
      }
      const double mean = block_sum<kThreads>(loss) / run.steps;
      const int64_t right = block_sum<kThreads>(correct);
      const int64_t at = blockIdx.x * run.epochs + epoch;
      if (threadIdx.x == 0) run.loss[at] = mean, run.correct[at] = right;
    }
    share_out(kParameters, [&](int p) {
      if (float* to = outside(p)) *to = weights[p];
    });
  }
};

template <int kFeatures, int kPerLane, int kClasses>
__global__ void __launch_bounds__(kThreads, 1) train_models(Run run) {
  Trainer<kFeatures, kPerLane, kClasses>(run).train();
}

// --- the host ---

template <int kFeatures, int kPerLane, int kClasses>
void run_models(const CudaContext& ctx, const Run& run, int64_t models, int64_t samples) {
  using Form = Trainer<kFeatures, kPerLane, kClasses>;
  const int64_t steps = (samples + run.batch - 1) / run.batch;
  const int64_t bytes = Form::shared_bytes(samples, steps);
  const int64_t room = kMostShared - Form::shared_bytes(0, 0);
  const int64_t of_batch = Form::shared_bytes(run.batch, 1) - Form::shared_bytes(0, 0);
  PINION_REQUIRE(device, bytes <= kMostShared, "toy_train on CUDA: expected data that fits ",
                 kMostShared, " bytes of shared memory, about ", room * run.batch / of_batch,
                 " samples of ", run.features, " features with ", run.hidden, " hidden units and ",
                 run.classes, " classes, got ", samples, " samples", kInstead);
  Run plan = run;
  plan.samples = static_cast<int>(samples), plan.steps = static_cast<int>(steps);
  launch(train_models<kFeatures, kPerLane, kClasses>,
         {one_block_each(models), kThreads, static_cast<size_t>(bytes)}, ctx, plan);
}

template <int kFeatures, int kPerLane, class... A>
void for_classes(int64_t classes, const A&... a) {
  if (classes <= 2) return run_models<kFeatures, kPerLane, 2>(a...);
  if (classes <= 4) return run_models<kFeatures, kPerLane, 4>(a...);
  run_models<kFeatures, kPerLane, 16>(a...);
}

}  // namespace

void toy_train(const CudaContext& ctx, ToyTrainArgs args) {
  const int64_t samples = args.x.shape[0], models = args.w1.shape[0];
  const int64_t features = args.x.shape[1], hidden = args.w1.shape[1], classes = args.w2.shape[1];
  PINION_REQUIRE(device,
                 features <= kMostFeatures && hidden <= kMostHidden && classes <= kMostClasses,
                 "toy_train on CUDA: expected at most ", kMostFeatures, " features, ", kMostHidden,
                 " hidden units and ", kMostClasses, " classes, got ", features, ", ", hidden,
                 " and ", classes, kInstead);
  if (models == 0 || args.epochs == 0) return;
  Run run{};
  run.features = static_cast<int>(features), run.hidden = static_cast<int>(hidden);
  run.classes = static_cast<int>(classes);
  run.batch = static_cast<int>(args.batch < samples ? args.batch : samples);
  run.epochs = args.epochs;
  run.x = args.x.as<float>(), run.target = args.target.as<int64_t>();
  run.w1 = args.w1.as<float>(), run.b1 = args.b1.as<float>();
  run.w2 = args.w2.as<float>(), run.b2 = args.b2.as<float>();
  run.lr = args.lr.as<double>(), run.seed = args.seed.as<int64_t>();
  run.stream = args.stream;
  run.adam = args.adam;
  run.loss = args.loss.as<double>(), run.correct = args.correct.as<int64_t>();
  if (features <= 12 && hidden <= 32) return for_classes<12, 1>(classes, ctx, run, models, samples);
  if (features <= 12) return for_classes<12, 2>(classes, ctx, run, models, samples);
  if (hidden <= 32) return for_classes<32, 1>(classes, ctx, run, models, samples);
  for_classes<32, 2>(classes, ctx, run, models, samples);
}

}  // namespace pinion::kernels::cuda
