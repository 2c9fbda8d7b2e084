// SPDX-License-Identifier: Apache-2.0
// A whole MLP over row blocks that stay in L2: forward, loss, backward and weight gradients of one
// block before the next is touched, so that no activation travels to memory. Chunks of rows lie on
// a fixed grid; each sums weight gradients of its own, and these are added in the order of chunks.
// bf16 operands are widened once; what a layer hands on is rounded to bf16, sums stay in float.
#include "pinion/kernels/cpu/gemm.h"
#include "pinion/kernels/cpu/scratch.h"
#include "pinion/kernels/formulas.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int64_t kBlockRows = 96;    // a multiple of every tile height; 7 layers of 128 in 344 KiB
constexpr int64_t kChunkRows = 4608;  // 48 blocks: the grid of partial gradients
constexpr int64_t kWidth = kPanelWidth<float, 2>;

PINION_INLINE int64_t padded(int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }
PINION_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// What values become when a bf16 layer stores them.
PINION_INLINE void round(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(BFloat16(x[i]));
}

struct Layer {
  int64_t in, out, in_padded, out_padded;
  float* forward;    // W^T in panels over out: [out_padded / kWidth][in][kWidth]
  float* backward;   // W in panels over in: [in_padded / kWidth][out][kWidth]
  float* bias;       // [out_padded]
  int64_t gradient;  // where dW [out, in_padded] and then db [out_padded] lie in a chunk's sums
};

struct Plan {
  const FusedMlpArgs& args;
  bool bf16;
  Layer layers[FusedMlpArgs::kMaxLayers] = {};
  int64_t widest = 0;           // padded width of the widest layer
  int64_t weights_size = 0;     // floats for all packed weights and biases
  int64_t gradient_size = 0;    // floats for one chunk's sums
  int64_t activation_size = 0;  // floats for one block's layers, and once more for GELU

  explicit Plan(const FusedMlpArgs& a) : args(a), bf16(a.x.dtype == DType::bf16) {
    widest = padded(a.width[0]);
    for (int l = 0; l < a.layers; ++l) {
      Layer& layer = layers[l];
      layer = {a.width[l], a.width[l + 1], padded(a.width[l]), padded(a.width[l + 1]), nullptr,
               nullptr,    nullptr,        gradient_size};
      gradient_size += layer.out * layer.in_padded + layer.out_padded;
      weights_size += layer.out_padded * layer.in + layer.in_padded * layer.out + layer.out_padded;
      widest = widest < layer.out_padded ? layer.out_padded : widest;
      activation_size += kBlockRows * layer.out_padded;
    }
    activation_size += kBlockRows * layers[0].in_padded;
  }

  float weight(int l, int64_t o, int64_t i) const {
    const ConstView& w = args.weight[l];
    const int64_t at = o * layers[l].in + i;
    return bf16 ? float(w.as<BFloat16>()[at]) : w.as<float>()[at];
  }

  // value(p, j) over [depth, width) as panels: [padded(width) / kWidth][depth][kWidth], 0 beyond.
  template <class F>
  static float* pack_panels(float* out, int64_t depth, int64_t width, F value) {
    for (int64_t j = 0; j < padded(width); j += kWidth)
      for (int64_t p = 0; p < depth; ++p)
        for (int64_t i = j; i < j + kWidth; ++i) *out++ = i < width ? value(p, i) : 0;
    return out;
  }

  void pack(float* memory, bool for_backward) {
    for (int l = 0; l < args.layers; ++l) {
      Layer& layer = layers[l];
      layer.forward = memory;
      memory = pack_panels(memory, layer.in, layer.out,
                           [&](int64_t i, int64_t o) { return weight(l, o, i); });
      layer.bias = memory;
      const float* bias = args.bias[l] ? args.bias[l].as<float>() : nullptr;
      memory =
          pack_panels(memory, 1, layer.out, [&](int64_t, int64_t o) { return bias ? bias[o] : 0; });
      if (!for_backward) continue;
      layer.backward = memory;
      memory = pack_panels(memory, layer.out, layer.in,
                           [&](int64_t o, int64_t i) { return weight(l, o, i); });
    }
  }
};

// The memory of one block: activations of every layer, GELU's inputs, and two gradients in turn.
struct Block {
  const Plan& plan;
  int64_t rows = 0;
  float* activation[FusedMlpArgs::kMaxLayers + 1];
  float* before[FusedMlpArgs::kMaxLayers + 1];  // before the activation, for GELU
  float *dy, *dx;

  static int64_t size(const Plan& plan) {
    return plan.activation_size * (plan.args.activation == Activation::relu ? 1 : 2) +
           2 * kBlockRows * plan.widest;
  }

  Block(const Plan& p, float* memory) : plan(p) {
    const bool gelu = p.args.activation != Activation::relu;
    for (int l = 0; l <= p.args.layers; ++l) {
      const int64_t n = kBlockRows * (l ? p.layers[l - 1].out_padded : p.layers[0].in_padded);
      activation[l] = memory;
      memory += n;
      before[l] = gelu ? memory : nullptr;
      memory += gelu ? n : 0;
    }
    dy = memory;
    dx = memory + kBlockRows * p.widest;
  }

  void load_rows(int64_t begin) {
    const int64_t in = plan.layers[0].in, stride = plan.layers[0].in_padded;
    for (int64_t r = 0; r < rows; ++r) {
      float* to = activation[0] + r * stride;
      if (plan.bf16) {
        const BFloat16* from = plan.args.x.as<BFloat16>() + (begin + r) * in;
        for (int64_t i = 0; i < in; ++i) to[i] = float(from[i]);
      } else {
        const float* from = plan.args.x.as<float>() + (begin + r) * in;
        for (int64_t i = 0; i < in; ++i) to[i] = from[i];
      }
      for (int64_t i = in; i < stride; ++i) to[i] = 0;
    }
  }

  void forward() {
    for (int l = 0; l < plan.args.layers; ++l) {
      const Layer& layer = plan.layers[l];
      const bool last = l + 1 == plan.args.layers;
      const bool relu = !last && plan.args.activation == Activation::relu;
      float* y = activation[l + 1];
      for (int64_t j = 0; j < layer.out_padded; j += kWidth)
        multiply_panel<float, 2>(rows, layer.in, {activation[l], layer.in_padded, 1}, false,
                                 layer.forward + j * layer.in, kWidth, {},
                                 {y + j, layer.out_padded}, {layer.bias + j, relu});
      const int64_t n = rows * layer.out_padded;
      if (plan.bf16) round(y, n);
      if (last || relu) continue;
      for (int64_t i = 0; i < n; ++i) before[l + 1][i] = y[i];
      if (plan.args.activation == Activation::gelu)
        for (int64_t i = 0; i < n; ++i) y[i] = formulas::Gelu{}(y[i]);
      else
        for (int64_t i = 0; i < n; ++i) y[i] = formulas::GeluTanh{}(y[i]);
      if (plan.bf16) round(y, n);
    }
  }

  // The block's share of the loss; leaves its gradient in dy.
  double loss(int64_t begin) {
    const Layer& head = plan.layers[plan.args.layers - 1];
    const float* y = activation[plan.args.layers];
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = y + r * head.out_padded;
      float* g = dy + r * head.out_padded;
      sum += plan.args.loss == MlpLoss::mse ? mse_row(row, begin + r, head.out, g)
                                            : cross_entropy_row(row, begin + r, head.out, g);
      if (plan.bf16) round(g, head.out);
      for (int64_t o = head.out; o < head.out_padded; ++o) g[o] = 0;
    }
    return sum;
  }

  double mse_row(const float* y, int64_t at, int64_t out, float* g) const {
    const float* target = plan.args.target.as<float>() + at * out;
    const float scale = 2.0f / static_cast<float>(plan.args.rows * out);
    float sum = 0;
    for (int64_t o = 0; o < out; ++o) {
      const float d = y[o] - target[o];
      g[o] = d * scale;
      sum += d * d;
    }
    return sum;
  }

  double cross_entropy_row(const float* y, int64_t at, int64_t out, float* g) const {
    const int64_t id = plan.args.target.as<int64_t>()[at];
    if (id < 0 || id >= out) {
      for (int64_t o = 0; o < out; ++o) g[o] = __builtin_nanf("");
      return __builtin_nan("");
    }
    float peak = y[0];
    for (int64_t o = 1; o < out; ++o) peak = y[o] > peak ? y[o] : peak;
    float sum = 0;
    for (int64_t o = 0; o < out; ++o) sum += g[o] = math::exp(y[o] - peak);
    const float scale = 1.0f / static_cast<float>(plan.args.rows);
    for (int64_t o = 0; o < out; ++o) g[o] *= scale / sum;
    g[id] -= scale;
    return static_cast<double>(math::log(sum) + peak - y[id]);
  }

  void backward(int64_t begin, float* gradients) {
    for (int l = plan.args.layers - 1; l >= 0; --l) {
      weight_gradient(plan.layers[l], activation[l], gradients + plan.layers[l].gradient);
      if (l > 0 || plan.args.dx) input_gradient(l);
      float* swap = dy;
      dy = dx, dx = swap;
    }
    if (!plan.args.dx) return;
    const int64_t in = plan.layers[0].in;
    float* out = plan.args.dx.as<float>() + begin * in;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < in; ++i) out[r * in + i] = dy[r * plan.layers[0].in_padded + i];
  }

  // dW += dy^T x, db += column sums of dy.
  void weight_gradient(const Layer& layer, const float* x, float* dw) {
    for (int64_t j = 0; j < layer.in_padded; j += kWidth)
      multiply_panel<float, 2>(layer.out, rows, {dy, 1, layer.out_padded}, false, x + j,
                               layer.in_padded, {dw + j, layer.in_padded},
                               {dw + j, layer.in_padded});
    float* db = dw + layer.out * layer.in_padded;
    for (int64_t j = 0; j < layer.out_padded; j += kLanes<float>) {
      Vec<float> sum = load(db + j);
      for (int64_t r = 0; r < rows; ++r) sum += load(dy + r * layer.out_padded + j);
      store(db + j, sum);
    }
  }

  // dx = (dy W) through the activation that made this layer's input.
  void input_gradient(int l) {
    const Layer& layer = plan.layers[l];
    const Activation through = l > 0 ? plan.args.activation : Activation::none;
    for (int64_t j = 0; j < layer.in_padded; j += kWidth) {
      Finish<float> finish;
      if (through == Activation::relu) finish.gate = {activation[l] + j, layer.in_padded};
      multiply_panel<float, 2>(rows, layer.out, {dy, layer.out_padded, 1}, false,
                               layer.backward + j * layer.out, kWidth, {},
                               {dx + j, layer.in_padded}, finish);
    }
    const int64_t n = rows * layer.in_padded;
    const float* x = before[l];
    if (through == Activation::gelu)
      for (int64_t i = 0; i < n; ++i) dx[i] = formulas::GeluBackward{}(x[i], dx[i]);
    if (through == Activation::gelu_tanh)
      for (int64_t i = 0; i < n; ++i) dx[i] = formulas::GeluTanhBackward{}(x[i], dx[i]);
    if (plan.bf16) round(dx, n);
  }
};

// Adds the chunks' sums in their order and hands them out without padding.
void reduce(const CpuContext& ctx, const Plan& plan, float* sums, int64_t chunks) {
  const int64_t n = plan.gradient_size;
  for_rows(ctx, n, chunks, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t c = 1; c < chunks; ++c)
      for (int64_t i = begin; i < end; ++i) sums[i] += sums[c * n + i];
  });
  for (int l = 0; l < plan.args.layers; ++l) {
    const Layer& layer = plan.layers[l];
    const float* from = sums + layer.gradient;
    float* dw = plan.args.dweight[l].as<float>();
    for (int64_t o = 0; o < layer.out; ++o)
      for (int64_t i = 0; i < layer.in; ++i) dw[o * layer.in + i] = from[o * layer.in_padded + i];
    if (!plan.args.dbias[l]) continue;
    float* db = plan.args.dbias[l].as<float>();
    for (int64_t o = 0; o < layer.out; ++o) db[o] = from[layer.out * layer.in_padded + o];
  }
}

constexpr int64_t kFloat = sizeof(float);

}  // namespace

void fused_mlp_train(const CpuContext& ctx, FusedMlpArgs args) {
  Plan plan(args);
  const int64_t chunks = chunk_count(args.rows, kChunkRows), n = plan.gradient_size;
  const Scratch weights(plan.weights_size * kFloat), sums(chunks * (n * kFloat + 8));
  plan.pack(weights.as<float>(), true);
  double* losses = sums.as<double>();
  float* gradients = reinterpret_cast<float*>(losses + chunks);
  for_chunks(ctx, args.rows, kChunkRows, [&](int64_t begin, int64_t end, int64_t chunk) {
    const Scratch memory(Block::size(plan) * kFloat);
    float* own = gradients + chunk * n;
    for (int64_t i = 0; i < n; ++i) own[i] = 0;
    double loss = 0;
    for (int64_t at = begin; at < end; at += kBlockRows) {
      Block block(plan, memory.as<float>());
      block.rows = smaller(kBlockRows, end - at);
      block.load_rows(at);
      block.forward();
      loss += block.loss(at);
      block.backward(at, own);
    }
    losses[chunk] = loss;
  });
  double loss = 0;
  for (int64_t c = 0; c < chunks; ++c) loss += losses[c];
  const double terms = static_cast<double>(
      args.loss == MlpLoss::mse ? args.rows * args.width[args.layers] : args.rows);
  args.loss_value.as<float>()[0] = static_cast<float>(loss / terms);
  reduce(ctx, plan, gradients, chunks);
}

void fused_mlp_forward(const CpuContext& ctx, FusedMlpArgs args) {
  Plan plan(args);
  const Scratch weights(plan.weights_size * kFloat);
  plan.pack(weights.as<float>(), false);
  const int64_t out = args.width[args.layers];
  for_chunks(ctx, args.rows, kBlockRows * 8, [&](int64_t begin, int64_t end, int64_t) {
    const Scratch memory(Block::size(plan) * kFloat);
    for (int64_t at = begin; at < end; at += kBlockRows) {
      Block block(plan, memory.as<float>());
      block.rows = smaller(kBlockRows, end - at);
      block.load_rows(at);
      block.forward();
      const float* y = block.activation[args.layers];
      float* to = args.y.as<float>() + at * out;
      for (int64_t r = 0; r < block.rows; ++r)
        for (int64_t o = 0; o < out; ++o) to[r * out + o] = y[r * padded(out) + o];
    }
  });
}

}  // namespace pinion::kernels::PINION_RUNG
