// SPDX-License-Identifier: Apache-2.0
// A whole MLP over tiles of rows that stay in shared memory: forward, loss, backward and weight
// gradients of one tile before the next, so that no activation travels to memory. Blocks take tiles
// in turn, each sums gradients of its own, and these are added in the order of blocks. Sums are
// f32.
//
// A Way says how matrices lie in shared memory and how a block multiplies them: Element, Product
// (what a thread has of a product's sums), kThreads, kPad (widths are padded to it), kMostRows and
// kLeastRows of a tile, and as in fused_mlp.cu
//   Way(width, lines).at(line, column), .size()   where elements lie; all of them
//   for_products(rows, columns, f), accumulate(), for_elements_of(), for_sums_of(), place_of_sum()
//   sync()                                        a barrier behind which products see what was
//   stored
#pragma once

#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/formulas.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {

// By wgmma, for devices of capability 9.0 and bf16; false where the layers do not suit it.
bool run_mlp_by_warp_groups(const CudaContext& ctx, const FusedMlpArgs& args, bool train);

namespace {

constexpr int kBlocks = 132;                // at most: one for each multiprocessor of an H100
constexpr int64_t kMostShared = 220 << 10;  // bytes of shared memory, less what block_sum takes

struct Layer {
  int in, out, in_padded, out_padded;
  int weight_at;  // in elements, of the weights in shared memory
  int sums_at;    // in floats: dW in the order of for_sums_of(), then db [out_padded]
  const void* weight;
  const float* bias;  // or null
  float* dweight;
  float* dbias;  // or null
};

// Shared memory, in bytes: weights (of all layers, or of one at a time), the activations of every
// layer, GELU's inputs, two gradients in turn, and the sums unless they lie in device memory.
struct Plan {
  int layers, tile_rows;
  int64_t rows;
  Layer layer[FusedMlpArgs::kMaxLayers];
  Activation activation;
  MlpLoss loss;
  const void* x;
  const void* target;
  float *y, *dx, *loss_value;
  bool weights_stay, sums_shared;
  int activation_at[FusedMlpArgs::kMaxLayers + 1], before_at[FusedMlpArgs::kMaxLayers + 1];
  int gradient_at[2], sums_shared_at;
  int sums_size;   // floats of one block's sums
  float* sums;     // [blocks, sums_size]
  double* losses;  // [blocks]
};

// --- one block ---

template <class Way>
struct Block {
  using T = typename Way::Element;
  using Product = typename Way::Product;
  static constexpr int kThreads = Way::kThreads, kWarps = kThreads / kWarp;
  const Plan& plan;
  unsigned char* shared;
  float* sums;  // of this block

  template <class U = T>
  __device__ __forceinline__ U* at(int offset) const {
    return reinterpret_cast<U*>(shared + offset);
  }
  __device__ __forceinline__ T* weight(int l) const {
    return at(0) + (plan.weights_stay ? plan.layer[l].weight_at : 0);
  }

  // W [out_padded, in_padded] of layer l, with zeros in the padding.
  __device__ __forceinline__ void load_weight(int l) const {
    const Layer& layer = plan.layer[l];
    const T* from = static_cast<const T*>(layer.weight);
    T* to = weight(l);
    const Way way(layer.in_padded, layer.out_padded);
    for (int e = static_cast<int>(threadIdx.x); e < layer.out_padded * layer.in_padded;
         e += kThreads) {
      const int o = e / layer.in_padded, i = e % layer.in_padded;
      const bool there = o < layer.out && i < layer.in;
      to[way.at(o, i)] = there ? from[int64_t{o} * layer.in + i] : T(0.0f);
    }
  }
  __device__ __forceinline__ void need_weight(int l) const {
    if (plan.weights_stay) return;
    Way::sync();  // the layer before has been used
    load_weight(l);
    Way::sync();
  }

  __device__ __forceinline__ void load_rows(int64_t first) const {
    const Layer& layer = plan.layer[0];
    const T* from = static_cast<const T*>(plan.x);
    T* to = at(plan.activation_at[0]);
    const Way way(layer.in_padded, plan.tile_rows);
    for (int e = static_cast<int>(threadIdx.x); e < plan.tile_rows * layer.in_padded;
         e += kThreads) {
      const int r = e / layer.in_padded, i = e % layer.in_padded;
      const bool there = first + r < plan.rows && i < layer.in;
      to[way.at(r, i)] = there ? from[(first + r) * layer.in + i] : T(0.0f);
    }
  }

  __device__ __forceinline__ float activated(float v) const {
    switch (plan.activation) {
      case Activation::gelu: return formulas::Gelu{}(v);
      case Activation::gelu_tanh: return formulas::GeluTanh{}(v);
      default: return formulas::Relu{}(v);
    }
  }
  // dy through the activation whose input was `before` and whose result was y.
  __device__ __forceinline__ float through(float before, float y, float dy) const {
    switch (plan.activation) {
      case Activation::gelu: return formulas::GeluBackward{}(before, dy);
      case Activation::gelu_tanh: return formulas::GeluTanhBackward{}(before, dy);
      default: return formulas::ReluBackward{}(y, dy);
    }
  }

  // The layers' outputs into shared memory; the last one's also to y, where there is one.
  __device__ __forceinline__ void forward(int64_t first) const {
    for (int l = 0; l < plan.layers; ++l) {
      const Layer& layer = plan.layer[l];
      const bool last = l + 1 == plan.layers, keeps_input = plan.activation != Activation::relu;
      const Way in(layer.in_padded, plan.tile_rows), out(layer.out_padded, plan.tile_rows);
      const Way of_weight(layer.in_padded, layer.out_padded);
      T *y = at(plan.activation_at[l + 1]), *before = at(plan.before_at[l + 1]);
      need_weight(l);
      Way::for_products(plan.tile_rows, layer.out_padded, [&](int i, int j) {
        Product product{};
        Way::template accumulate<false, true>(product, at(plan.activation_at[l]), in, weight(l),
                                              of_weight, i, j, layer.out_padded, layer.in_padded);
        Way::for_elements_of(product, i, j, layer.out_padded, [&](int r, int c, float sum) {
          const T v = T(layer.bias && c < layer.out ? sum + layer.bias[c] : sum);
          if (last && plan.y && first + r < plan.rows && c < layer.out)
            plan.y[(first + r) * layer.out + c] = static_cast<float>(v);
          if (!last && keeps_input) before[out.at(r, c)] = v;
          y[out.at(r, c)] = last ? v : T(activated(static_cast<float>(v)));
        });
      });
      Way::sync();
    }
  }

  // The gradient of the loss at the last layer's output into the first gradient; the lane's share
  // of the loss. A warp takes a row.
  __device__ __forceinline__ double loss(int64_t first) const {
    const Layer& head = plan.layer[plan.layers - 1];
    const Way way(head.out_padded, plan.tile_rows);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const T* y = at(plan.activation_at[plan.layers]);
    T* dy = at(plan.gradient_at[0]);
    double sum = 0;
    for (int r = static_cast<int>(threadIdx.x) / kWarp; r < plan.tile_rows; r += kWarps) {
      if (first + r >= plan.rows)
        for (int c = lane; c < head.out_padded; c += kWarp) dy[way.at(r, c)] = T(0.0f);
      else if (plan.loss == MlpLoss::mse)
        sum += squared_error(y, way, r, first + r, head, lane, dy);
      else
        sum += cross_entropy(y, way, r, first + r, head, lane, dy);
    }
    return sum;
  }
  __device__ __forceinline__ double squared_error(const T* y, const Way& way, int r, int64_t row,
                                                  const Layer& head, int lane, T* dy) const {
    const float* target = static_cast<const float*>(plan.target) + row * head.out;
    const float scale = 2.0f / static_cast<float>(plan.rows * head.out);
    float sum = 0;
    for (int c = lane; c < head.out_padded; c += kWarp) {
      const float d = c < head.out ? static_cast<float>(y[way.at(r, c)]) - target[c] : 0;
      dy[way.at(r, c)] = T(d * scale);
      sum += d * d;
    }
    return sum;
  }
  // A target that is no class gives NaN.
  __device__ __forceinline__ double cross_entropy(const T* y, const Way& way, int r, int64_t row,
                                                  const Layer& head, int lane, T* dy) const {
    constexpr int kEach = static_cast<int>(FusedMlpArgs::kMaxWidth) / kWarp;
    const int64_t id = static_cast<const int64_t*>(plan.target)[row];
    const bool wrong = id < 0 || id >= head.out;
    float v[kEach], top = -INFINITY, sum = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int c = lane + e * kWarp;
      v[e] = c < head.out ? static_cast<float>(y[way.at(r, c)]) : -INFINITY;
      top = greater_or_nan(top, v[e]);
    }
    top = warp_fold(top, GreaterOrNan{});
#pragma unroll
    for (int e = 0; e < kEach; ++e) sum += math::exp_nonpositive(v[e] - top);
    sum = warp_sum(sum);
    const float share = 1.0f / static_cast<float>(plan.rows), scale = share / sum;
    double loss = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int c = lane + e * kWarp;
      const float p = math::exp_nonpositive(v[e] - top) * scale;
      if (c == id) loss = static_cast<double>(math::log(sum) + top - v[e]);
      const float d = wrong ? NAN : c == id ? p - share : p;
      if (c < head.out_padded) dy[way.at(r, c)] = T(c < head.out ? d : 0.0f);
    }
    return wrong ? static_cast<double>(NAN) : loss;
  }

  // Weight gradients into the sums, and the gradient of each layer's input from its output's.
  __device__ __forceinline__ void backward(int64_t first) const {
    T *dy = at(plan.gradient_at[0]), *dx = at(plan.gradient_at[1]);
    for (int l = plan.layers - 1; l >= 0; --l) {
      Way::sync();  // dy is written
      weight_gradient(plan.layer[l], dy, at(plan.activation_at[l]));
      if (l > 0 || plan.dx) {
        need_weight(l);
        input_gradient(l, first, dy, dx);
      }
      T* const swap = dy;
      dy = dx, dx = swap;
    }
    Way::sync();
  }

  // dW += dy^T x, db += column sums of dy. Each element belongs to one lane.
  __device__ __forceinline__ void weight_gradient(const Layer& layer, const T* dy,
                                                  const T* x) const {
    const Way of_dy(layer.out_padded, plan.tile_rows), of_x(layer.in_padded, plan.tile_rows);
    float* dw = sums + layer.sums_at;
    Way::for_products(layer.out_padded, layer.in_padded, [&](int i, int j) {
      Product product;
      Way::for_sums_of(product, i, j, layer.in_padded, [&](int at, float& sum) { sum = dw[at]; });
      Way::template accumulate<true, false>(product, dy, of_dy, x, of_x, i, j, layer.in_padded,
                                            plan.tile_rows);
      Way::for_sums_of(product, i, j, layer.in_padded, [&](int at, float sum) { dw[at] = sum; });
    });
    float* db = dw + layer.out_padded * layer.in_padded;
    for (int c = static_cast<int>(threadIdx.x); c < layer.out_padded; c += kThreads) {
      float sum = 0;
      for (int r = 0; r < plan.tile_rows; ++r) sum += static_cast<float>(dy[of_dy.at(r, c)]);
      db[c] += sum;
    }
  }

  // dx = dy W through the activation before the layer; the first layer's goes to memory.
  __device__ __forceinline__ void input_gradient(int l, int64_t first, const T* dy, T* dx) const {
    const Layer& layer = plan.layer[l];
    const Way of_dy(layer.out_padded, plan.tile_rows), of_dx(layer.in_padded, plan.tile_rows);
    const Way of_weight(layer.in_padded, layer.out_padded);
    const T *y = at(plan.activation_at[l]), *before = at(plan.before_at[l]);
    const bool kept_input = plan.activation != Activation::relu;
    Way::for_products(plan.tile_rows, layer.in_padded, [&](int i, int j) {
      Product product{};
      Way::template accumulate<false, false>(product, dy, of_dy, weight(l), of_weight, i, j,
                                             layer.in_padded, layer.out_padded);
      Way::for_elements_of(product, i, j, layer.in_padded, [&](int r, int c, float d) {
        if (l > 0) {
          const int k = of_dx.at(r, c);
          const float input = kept_input ? static_cast<float>(before[k]) : 0;
          dx[k] = T(through(input, static_cast<float>(y[k]), d));
        } else if (first + r < plan.rows && c < layer.in) {
          plan.dx[(first + r) * layer.in + c] = static_cast<float>(T(d));
        }
      });
    });
  }
};

template <class Way, bool kTrain>
__global__ void __launch_bounds__(Way::kThreads, 1) run_mlp(Plan plan) {
  constexpr int kThreads = Way::kThreads;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  float* const own_slab = plan.sums + int64_t{blockIdx.x} * plan.sums_size;
  float* const shared_sums = reinterpret_cast<float*>(shared + plan.sums_shared_at);
  const Block<Way> block{plan, shared, plan.sums_shared ? shared_sums : own_slab};
  if (plan.weights_stay)
    for (int l = 0; l < plan.layers; ++l) block.load_weight(l);
  if (kTrain)
    for (int e = static_cast<int>(threadIdx.x); e < plan.sums_size; e += kThreads)
      block.sums[e] = 0;
  double loss = 0;
  for (int64_t first = int64_t{blockIdx.x} * plan.tile_rows; first < plan.rows;
       first += int64_t{gridDim.x} * plan.tile_rows) {
    block.load_rows(first);
    Way::sync();
    block.forward(first);
    if (!kTrain) continue;
    loss += block.loss(first);
    block.backward(first);
  }
  if (!kTrain) return;
  loss = block_sum<kThreads>(loss);
  if (threadIdx.x == 0) plan.losses[blockIdx.x] = loss;
  if (!plan.sums_shared) return;
  for (int e = static_cast<int>(threadIdx.x); e < plan.sums_size; e += kThreads)
    own_slab[e] = block.sums[e];
}

// Adds the blocks' sums in their order and hands them out without padding.
template <class Way>
__global__ void __launch_bounds__(Way::kThreads) add_blocks(Plan plan, int blocks) {
  const int e = static_cast<int>(blockIdx.x * Way::kThreads + threadIdx.x);
  if (e == 0) {
    double loss = 0;
    for (int b = 0; b < blocks; ++b) loss += plan.losses[b];
    const int64_t out = plan.loss == MlpLoss::mse ? plan.layer[plan.layers - 1].out : 1;
    *plan.loss_value = static_cast<float>(loss / static_cast<double>(plan.rows * out));
  }
  if (e >= plan.sums_size) return;
  float sum = 0;
  for (int b = 0; b < blocks; ++b) sum += plan.sums[int64_t{b} * plan.sums_size + e];
  int l = 0;
  while (l + 1 < plan.layers && e >= plan.layer[l + 1].sums_at) ++l;
  const Layer& layer = plan.layer[l];
  const int k = e - layer.sums_at, c = k - layer.out_padded * layer.in_padded;
  const auto [o, i] = Way::place_of_sum(k, layer.in_padded);
  if (c < 0 && o < layer.out && i < layer.in) layer.dweight[o * layer.in + i] = sum;
  if (c >= 0 && c < layer.out && layer.dbias) layer.dbias[c] = sum;
}

// --- the host ---

inline Plan plan_of(const FusedMlpArgs& args, bool train, int pad) {
  const auto padded = [=](int64_t width) {
    return static_cast<int>((width + pad - 1) / pad * pad);
  };
  Plan plan{};
  plan.layers = args.layers;
  plan.rows = args.rows;
  plan.activation = args.activation;
  plan.loss = args.loss;
  plan.x = args.x.data;
  plan.target = args.target.data;
  plan.y = args.y ? args.y.as<float>() : nullptr;
  plan.dx = args.dx ? args.dx.as<float>() : nullptr;
  plan.loss_value = train ? args.loss_value.as<float>() : nullptr;
  for (int l = 0; l < args.layers; ++l) {
    Layer& layer = plan.layer[l];
    layer.in = static_cast<int>(args.width[l]), layer.in_padded = padded(layer.in);
    layer.out = static_cast<int>(args.width[l + 1]), layer.out_padded = padded(layer.out);
    layer.weight = args.weight[l].data;
    layer.bias = args.bias[l] ? args.bias[l].as<float>() : nullptr;
    layer.dweight = train ? args.dweight[l].as<float>() : nullptr;
    layer.dbias = train && args.dbias[l] ? args.dbias[l].as<float>() : nullptr;
    layer.sums_at = plan.sums_size;
    plan.sums_size += layer.out_padded * (layer.in_padded + 1);
  }
  return plan;
}

// Lays out shared memory for tiles of so many rows; the bytes it takes.
template <class Way>
int64_t lay_out(Plan& plan, bool train, int tile_rows, bool weights_stay, bool sums_shared) {
  plan.tile_rows = tile_rows;
  plan.weights_stay = weights_stay;
  plan.sums_shared = sums_shared;
  constexpr int64_t kSize = sizeof(typename Way::Element);
  int64_t weights = 0, largest = 0, widest = 0;
  for (int l = 0; l < plan.layers; ++l) {
    Layer& layer = plan.layer[l];
    const int64_t n = Way(layer.in_padded, layer.out_padded).size();
    layer.weight_at = static_cast<int>(weights);
    weights += n;
    largest = n > largest ? n : largest;
    widest = layer.out_padded > widest ? layer.out_padded : widest;
  }
  int64_t end = (weights_stay ? weights : largest) * kSize;
  const auto take = [&](int64_t bytes) {
    const auto begin = static_cast<int>(end);
    end += bytes;
    return begin;
  };
  for (int l = 0; l <= plan.layers; ++l) {
    const int width = l > 0 ? plan.layer[l - 1].out_padded : plan.layer[0].in_padded;
    const int64_t bytes = Way(width, tile_rows).size() * kSize;
    plan.activation_at[l] = take(bytes);
    const bool keeps = plan.activation != Activation::relu && l > 0 && l < plan.layers;
    plan.before_at[l] = keeps ? take(bytes) : 0;
  }
  for (int& gradient : plan.gradient_at)
    gradient = train ? take(Way(static_cast<int>(widest), tile_rows).size() * kSize) : 0;
  plan.sums_shared_at = train && sums_shared ? take(plan.sums_size * 4) : 0;
  return end;
}

// The best layout that fits: weights that stay, sums in shared memory, many rows. The bytes it
// takes, or of the last one tried where none fits.
template <class Way>
int64_t choose_layout(Plan& plan, bool train) {
  constexpr int kMost = Way::kMostRows;
  const struct {
    int rows;
    bool weights_stay, sums_shared;
  } choices[] = {{kMost, true, true},
                 {kMost / 2, true, true},
                 {kMost, true, false},
                 {kMost / 2, true, false},
                 {kMost, false, false},
                 {kMost / 2, false, false},
                 {Way::kLeastRows, false, false}};
  int64_t bytes = 0;
  for (const auto& c : choices) {
    if (c.rows < Way::kLeastRows) continue;
    bytes = lay_out<Way>(plan, train, c.rows, c.weights_stay, c.sums_shared);
    if (bytes <= kMostShared) break;
  }
  return bytes;
}

inline unsigned blocks_of(const Plan& plan) {
  const int64_t tiles = (plan.rows + plan.tile_rows - 1) / plan.tile_rows;
  return static_cast<unsigned>(tiles < kBlocks ? tiles : kBlocks);
}

// Runs the MLP where its layout fits; else the bytes that it would take.
template <class Way>
int64_t run(const CudaContext& ctx, const FusedMlpArgs& args, bool train) {
  Plan plan = plan_of(args, train, Way::kPad);
  const int64_t bytes = choose_layout<Way>(plan, train);
  if (bytes > kMostShared) return bytes;
  const unsigned blocks = blocks_of(plan);
  const auto shared = static_cast<size_t>(bytes);
  if (!train) {
    launch(run_mlp<Way, false>, {blocks, Way::kThreads, shared}, ctx, plan);
    return 0;
  }
  const Scratch scratch(ctx, blocks * (plan.sums_size * int64_t{sizeof(float)} + 8));
  plan.sums = scratch.as<float>();  // an even number of them for each block
  plan.losses = reinterpret_cast<double*>(plan.sums + blocks * int64_t{plan.sums_size});
  launch(run_mlp<Way, true>, {blocks, Way::kThreads, shared}, ctx, plan);
  launch(
      add_blocks<Way>,
      {static_cast<unsigned>((plan.sums_size + Way::kThreads - 1) / Way::kThreads), Way::kThreads},
      ctx, plan, static_cast<int>(blocks));
  return 0;
}

}  // namespace
}  // namespace pinion::kernels::cuda
