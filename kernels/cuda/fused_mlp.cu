// SPDX-License-Identifier: Apache-2.0
// A whole MLP over tiles of rows that stay in shared memory: forward, loss, backward and weight
// gradients of one tile before the next, so that no activation travels to memory. Blocks take tiles
// in turn, each sums gradients of its own, and these are added in the order of blocks. 16-bit
// products run on the tensor cores, f32 ones on the ordinary cores; sums are f32.
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/mma.cuh"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/formulas.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBlocks = 132;                // at most: one for each multiprocessor of an H100
constexpr int kPad = 16;                    // widths are padded to the depth of a product
constexpr int kColumns = 32;                // of a product of 16 rows
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

// Rows begin 16 bytes past a multiple of their width, so that eight of them lie in all banks.
template <class T>
__host__ __device__ constexpr int stride_of(int padded_width) {
  return padded_width + 16 / static_cast<int>(sizeof(T));
}

// --- products of matrices in shared memory: 16 rows from i, kColumns columns from j ---

struct Product {
  FragmentC c[kColumns / 8];
};

// f(row, column, element) for the lane's elements in columns below n.
template <class F>
__device__ __forceinline__ void for_elements_of(Product& product, int i, int j, int n, F f) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int part = 0; part < kColumns / 8; ++part)
    if (j + part * 8 < n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        f(i + g + e / 2 * 8, j + part * 8 + t * 2 + e % 2, product.c[part].v[e]);
}

// f(index, sum) for the lane's part of dW, which lies as fragments do: product by product, in each
// element by element, the lanes beside one another. add_blocks() finds its way back.
template <class F>
__device__ __forceinline__ void for_sums_of(Product& product, int i, int j, int n, F f) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int part = 0; part < kColumns / 8; ++part)
    if (j + part * 8 < n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        f(i * n + j * 16 + (part * 4 + e) * kWarp + lane, product.c[part].v[e]);
}

// Element (i, k) of a matrix that is stored as it is or as its transpose.
template <bool kTransposed, class T>
__device__ __forceinline__ T element(const T* x, int stride, int i, int k) {
  return kTransposed ? x[k * stride + i] : x[i * stride + k];
}

// product += a b over `depth`, a multiple of 16, of n columns.
template <bool kTransposedA, bool kTransposedB, class T>
__device__ __forceinline__ void accumulate(Product& product, const T* a, int stride_a, const T* b,
                                           int stride_b, int i, int j, int n, int depth) {
  if constexpr (sizeof(T) == 2) {
    for (int k = 0; k < depth; k += 16) {
      const FragmentA left = fragment_a<kTransposedA>(a, stride_a, i, k);
#pragma unroll
      for (int part = 0; part < kColumns / 8; part += 2) {
        if (j + part * 8 >= n) break;
        const PairB right = fragments_b<kTransposedB>(b, stride_b, k, j + part * 8);
        multiply_add<T>(product.c[part], left, right.left);
        multiply_add<T>(product.c[part + 1], left, right.right);
      }
    }
  } else {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
    for (int k = 0; k < depth; ++k) {
      const T upper = element<kTransposedA>(a, stride_a, i + g, k);
      const T lower = element<kTransposedA>(a, stride_a, i + g + 8, k);
#pragma unroll
      for (int part = 0; part < kColumns / 8; ++part) {
        if (j + part * 8 >= n) break;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const T right = element<kTransposedB>(b, stride_b, k, j + part * 8 + t * 2 + e);
          product.c[part].v[e] += upper * right;
          product.c[part].v[e + 2] += lower * right;
        }
      }
    }
  }
}

// f(i, j) for the products that cover [rows, columns], shared out among the warps.
template <class F>
__device__ __forceinline__ void for_products(int rows, int columns, F f) {
  const int across = (columns + kColumns - 1) / kColumns;
  for (int p = static_cast<int>(threadIdx.x) / kWarp; p < rows / 16 * across; p += kWarps)
    f(p / across * 16, p % across * kColumns);
}

// --- one block ---

template <class T>
struct Block {
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
    const int stride = stride_of<T>(layer.in_padded);
    for (int e = static_cast<int>(threadIdx.x); e < layer.out_padded * layer.in_padded;
         e += kThreads) {
      const int o = e / layer.in_padded, i = e % layer.in_padded;
      const bool there = o < layer.out && i < layer.in;
      to[o * stride + i] = there ? from[int64_t{o} * layer.in + i] : T(0.0f);
    }
  }
  __device__ __forceinline__ void need_weight(int l) const {
    if (plan.weights_stay) return;
    __syncthreads();  // the layer before has been used
    load_weight(l);
    __syncthreads();
  }

  __device__ __forceinline__ void load_rows(int64_t first) const {
    const Layer& layer = plan.layer[0];
    const T* from = static_cast<const T*>(plan.x);
    T* to = at(plan.activation_at[0]);
    const int stride = stride_of<T>(layer.in_padded);
    for (int e = static_cast<int>(threadIdx.x); e < plan.tile_rows * layer.in_padded;
         e += kThreads) {
      const int r = e / layer.in_padded, i = e % layer.in_padded;
      const bool there = first + r < plan.rows && i < layer.in;
      to[r * stride + i] = there ? from[(first + r) * layer.in + i] : T(0.0f);
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
      const int in_stride = stride_of<T>(layer.in_padded), stride = stride_of<T>(layer.out_padded);
      T *y = at(plan.activation_at[l + 1]), *before = at(plan.before_at[l + 1]);
      need_weight(l);
      for_products(plan.tile_rows, layer.out_padded, [&](int i, int j) {
        Product product{};
        accumulate<false, true>(product, at(plan.activation_at[l]), in_stride, weight(l), in_stride,
                                i, j, layer.out_padded, layer.in_padded);
        for_elements_of(product, i, j, layer.out_padded, [&](int r, int c, float sum) {
          const T v = T(layer.bias && c < layer.out ? sum + layer.bias[c] : sum);
          if (last && plan.y && first + r < plan.rows && c < layer.out)
            plan.y[(first + r) * layer.out + c] = static_cast<float>(v);
          if (!last && keeps_input) before[r * stride + c] = v;
          y[r * stride + c] = last ? v : T(activated(static_cast<float>(v)));
        });
      });
      __syncthreads();
    }
  }

  // The gradient of the loss at the last layer's output into the first gradient; the lane's share
  // of the loss. A warp takes a row.
  __device__ __forceinline__ double loss(int64_t first) const {
    const Layer& head = plan.layer[plan.layers - 1];
    const int stride = stride_of<T>(head.out_padded), lane = static_cast<int>(threadIdx.x) % kWarp;
    double sum = 0;
    for (int r = static_cast<int>(threadIdx.x) / kWarp; r < plan.tile_rows; r += kWarps) {
      const T* y = at(plan.activation_at[plan.layers]) + r * stride;
      T* dy = at(plan.gradient_at[0]) + r * stride;
      if (first + r >= plan.rows)
        for (int c = lane; c < head.out_padded; c += kWarp) dy[c] = T(0.0f);
      else if (plan.loss == MlpLoss::mse)
        sum += squared_error(y, first + r, head, lane, dy);
      else
        sum += cross_entropy(y, first + r, head, lane, dy);
    }
    return sum;
  }
  __device__ __forceinline__ double squared_error(const T* y, int64_t row, const Layer& head,
                                                  int lane, T* dy) const {
    const float* target = static_cast<const float*>(plan.target) + row * head.out;
    const float scale = 2.0f / static_cast<float>(plan.rows * head.out);
    float sum = 0;
    for (int c = lane; c < head.out_padded; c += kWarp) {
      const float d = c < head.out ? static_cast<float>(y[c]) - target[c] : 0;
      dy[c] = T(d * scale);
      sum += d * d;
    }
    return sum;
  }
  // A target that is no class gives NaN.
  __device__ __forceinline__ double cross_entropy(const T* y, int64_t row, const Layer& head,
                                                  int lane, T* dy) const {
    constexpr int kEach = static_cast<int>(FusedMlpArgs::kMaxWidth) / kWarp;
    const int64_t id = static_cast<const int64_t*>(plan.target)[row];
    const bool wrong = id < 0 || id >= head.out;
    float v[kEach], top = -INFINITY, sum = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int c = lane + e * kWarp;
      v[e] = c < head.out ? static_cast<float>(y[c]) : -INFINITY;
      top = greater_or_nan(top, v[e]);
    }
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
      top = greater_or_nan(top, __shfl_xor_sync(kFullWarp, top, lanes));
#pragma unroll
    for (int e = 0; e < kEach; ++e) sum += math::exp_nonpositive(v[e] - top);
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
      sum += __shfl_xor_sync(kFullWarp, sum, lanes);
    const float share = 1.0f / static_cast<float>(plan.rows), scale = share / sum;
    double loss = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int c = lane + e * kWarp;
      const float p = math::exp_nonpositive(v[e] - top) * scale;
      if (c == id) loss = static_cast<double>(math::log(sum) + top - v[e]);
      const float d = wrong ? NAN : c == id ? p - share : p;
      if (c < head.out_padded) dy[c] = T(c < head.out ? d : 0.0f);
    }
    return wrong ? static_cast<double>(NAN) : loss;
  }

  // Weight gradients into the sums, and the gradient of each layer's input from its output's.
  __device__ __forceinline__ void backward(int64_t first) const {
    T *dy = at(plan.gradient_at[0]), *dx = at(plan.gradient_at[1]);
    for (int l = plan.layers - 1; l >= 0; --l) {
      __syncthreads();  // dy is written
      weight_gradient(plan.layer[l], dy, at(plan.activation_at[l]));
      if (l > 0 || plan.dx) {
        need_weight(l);
        input_gradient(l, first, dy, dx);
      }
      T* const swap = dy;
      dy = dx, dx = swap;
    }
    __syncthreads();
  }

  // dW += dy^T x, db += column sums of dy. Each element belongs to one lane.
  __device__ __forceinline__ void weight_gradient(const Layer& layer, const T* dy,
                                                  const T* x) const {
    const int dy_stride = stride_of<T>(layer.out_padded), x_stride = stride_of<T>(layer.in_padded);
    float* dw = sums + layer.sums_at;
    for_products(layer.out_padded, layer.in_padded, [&](int i, int j) {
      Product product;
      for_sums_of(product, i, j, layer.in_padded, [&](int at, float& sum) { sum = dw[at]; });
      accumulate<true, false>(product, dy, dy_stride, x, x_stride, i, j, layer.in_padded,
                              plan.tile_rows);
      for_sums_of(product, i, j, layer.in_padded, [&](int at, float sum) { dw[at] = sum; });
    });
    float* db = dw + layer.out_padded * layer.in_padded;
    for (int c = static_cast<int>(threadIdx.x); c < layer.out_padded; c += kThreads) {
      float sum = 0;
      for (int r = 0; r < plan.tile_rows; ++r) sum += static_cast<float>(dy[r * dy_stride + c]);
      db[c] += sum;
    }
  }

  // dx = dy W through the activation before the layer; the first layer's goes to memory.
  __device__ __forceinline__ void input_gradient(int l, int64_t first, const T* dy, T* dx) const {
    const Layer& layer = plan.layer[l];
    const int dy_stride = stride_of<T>(layer.out_padded), stride = stride_of<T>(layer.in_padded);
    const T *y = at(plan.activation_at[l]), *before = at(plan.before_at[l]);
    const bool kept_input = plan.activation != Activation::relu;
    for_products(plan.tile_rows, layer.in_padded, [&](int i, int j) {
      Product product{};
      accumulate<false, false>(product, dy, dy_stride, weight(l), stride, i, j, layer.in_padded,
                               layer.out_padded);
      for_elements_of(product, i, j, layer.in_padded, [&](int r, int c, float d) {
        if (l > 0) {
          const int k = r * stride + c;
          const float input = kept_input ? static_cast<float>(before[k]) : 0;
          dx[k] = T(through(input, static_cast<float>(y[k]), d));
        } else if (first + r < plan.rows && c < layer.in) {
          plan.dx[(first + r) * layer.in + c] = static_cast<float>(T(d));
        }
      });
    });
  }
};

template <class T, bool kTrain>
__global__ void __launch_bounds__(kThreads, 1) run_mlp(Plan plan) {
  unsigned char* const shared = dynamic_shared<unsigned char>();
  float* const own_slab = plan.sums + int64_t{blockIdx.x} * plan.sums_size;
  float* const shared_sums = reinterpret_cast<float*>(shared + plan.sums_shared_at);
  const Block<T> block{plan, shared, plan.sums_shared ? shared_sums : own_slab};
  if (plan.weights_stay)
    for (int l = 0; l < plan.layers; ++l) block.load_weight(l);
  if (kTrain)
    for (int e = static_cast<int>(threadIdx.x); e < plan.sums_size; e += kThreads)
      block.sums[e] = 0;
  double loss = 0;
  for (int64_t first = int64_t{blockIdx.x} * plan.tile_rows; first < plan.rows;
       first += int64_t{gridDim.x} * plan.tile_rows) {
    block.load_rows(first);
    __syncthreads();
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
__global__ void __launch_bounds__(kThreads) add_blocks(Plan plan, int blocks) {
  const int e = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
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
  const int rows = k / (16 * layer.in_padded), in_rows = k % (16 * layer.in_padded);
  const int lane = in_rows % kWarp, element = in_rows / kWarp % 4, part = in_rows / (4 * kWarp);
  const int o = rows * 16 + lane / 4 + element / 2 * 8, i = part * 8 + lane % 4 * 2 + element % 2;
  if (c < 0 && o < layer.out && i < layer.in) layer.dweight[o * layer.in + i] = sum;
  if (c >= 0 && c < layer.out && layer.dbias) layer.dbias[c] = sum;
}

// --- the host ---

int padded(int64_t width) { return static_cast<int>((width + kPad - 1) / kPad * kPad); }

Plan plan_of(const FusedMlpArgs& args, bool train) {
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
template <class T>
int64_t lay_out(Plan& plan, bool train, int tile_rows, bool weights_stay, bool sums_shared) {
  plan.tile_rows = tile_rows;
  plan.weights_stay = weights_stay;
  plan.sums_shared = sums_shared;
  constexpr int64_t kSize = sizeof(T);
  int64_t weights = 0, largest = 0, widest = 0;
  for (int l = 0; l < plan.layers; ++l) {
    Layer& layer = plan.layer[l];
    const int64_t n = layer.out_padded * int64_t{stride_of<T>(layer.in_padded)};
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
    const int64_t bytes = tile_rows * stride_of<T>(width) * kSize;
    plan.activation_at[l] = take(bytes);
    const bool keeps = plan.activation != Activation::relu && l > 0 && l < plan.layers;
    plan.before_at[l] = keeps ? take(bytes) : 0;
  }
  for (int& gradient : plan.gradient_at)
    gradient = train ? take(tile_rows * stride_of<T>(static_cast<int>(widest)) * kSize) : 0;
  plan.sums_shared_at = train && sums_shared ? take(plan.sums_size * 4) : 0;
  return end;
}

// The best layout that fits: weights that stay, sums in shared memory, many rows.
template <class T>
int64_t choose_layout(Plan& plan, bool train) {
  const struct {
    int rows;
    bool weights_stay, sums_shared;
  } choices[] = {{64, true, true},  {32, true, true},   {64, true, false},
                 {32, true, false}, {64, false, false}, {16, false, false}};
  int64_t bytes = 0;
  for (const auto& c : choices) {
    bytes = lay_out<T>(plan, train, c.rows, c.weights_stay, c.sums_shared);
    if (bytes <= kMostShared) return bytes;
  }
  fail(ErrorKind::device, {"fused MLP on CUDA: expected layers that fit ", kMostShared,
                           " bytes of shared memory, got ", bytes, " bytes for ", plan.layers,
                           " layers from ", plan.layer[0].in, " features; use nn::Mlp"});
}

unsigned blocks_of(const Plan& plan) {
  const int64_t tiles = (plan.rows + plan.tile_rows - 1) / plan.tile_rows;
  return static_cast<unsigned>(tiles < kBlocks ? tiles : kBlocks);
}

template <class F>
void for_dtype(const FusedMlpArgs& args, F f) {
  if (args.x.dtype == DType::bf16) return f.template operator()<BFloat16>();
  if (args.x.dtype == DType::f32) return f.template operator()<float>();
  fail_dtype("fused MLP", args.x.dtype, "f32 or bf16");
}

}  // namespace

void fused_mlp_train(const CudaContext& ctx, FusedMlpArgs args) {
  for_dtype(args, [&]<class T>() {
    Plan plan = plan_of(args, true);
    const auto bytes = static_cast<size_t>(choose_layout<T>(plan, true));
    const unsigned blocks = blocks_of(plan);
    const Scratch scratch(ctx, blocks * (plan.sums_size * int64_t{sizeof(float)} + 8));
    plan.sums = scratch.as<float>();  // an even number of them for each block
    plan.losses = reinterpret_cast<double*>(plan.sums + blocks * int64_t{plan.sums_size});
    launch(run_mlp<T, true>, {blocks, kThreads, bytes}, ctx, plan);
    launch(add_blocks,
           {static_cast<unsigned>((plan.sums_size + kThreads - 1) / kThreads), kThreads}, ctx, plan,
           static_cast<int>(blocks));
  });
}

void fused_mlp_forward(const CudaContext& ctx, FusedMlpArgs args) {
  if (args.rows == 0) return;
  for_dtype(args, [&]<class T>() {
    Plan plan = plan_of(args, false);
    const auto bytes = static_cast<size_t>(choose_layout<T>(plan, false));
    launch(run_mlp<T, false>, {blocks_of(plan), kThreads, bytes}, ctx, plan);
  });
}

}  // namespace pinion::kernels::cuda
