// SPDX-License-Identifier: Apache-2.0
// The relational memory's loop over words: a block for each report, which walks through all words
// in one launch. Rows of a study pass through shared memory, weights are read through L2, and what
// is saved lies in global memory, of which a block reads what it wrote itself.
#include <algorithm>

#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/recording.h"
#include "pinion/kernels/formulas.h"
#include "pinion/kernels/kernels.h"
#include "pinion/kernels/relational_memory.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
template <class T>
constexpr int kRows = sizeof(T) > 4 ? 2 : 4;  // slots that share one reading of a weight

// The arguments as device code takes them.
template <class T>
struct Pointers {
  int64_t batch, steps, slots, heads, width;
  double dropout;
  ReplayedKey key;  // of word 0
  const T *in, *in_bias, *out, *out_bias, *first, *first_bias, *second, *second_bias;
  const T *gates, *gates_bias, *words, *dy;
  T *y, *dwords, *memory, *projected, *attended, *sum, *hidden, *extra, *tanh_memory, *gated;
  T *tanh_next, *dhidden, *probabilities;

  explicit Pointers(const RelationalMemoryArgs& a)
      : batch(a.batch),
        steps(a.steps),
        slots(a.slots),
        heads(a.heads),
        width(a.width),
        dropout(a.dropout) {
    const auto linear = [](const RelationalMemoryArgs::Linear& l, const T*& w, const T*& b) {
      w = l.weight.as<T>(), b = l.bias.as<T>();
    };
    linear(a.in, in, in_bias), linear(a.out, out, out_bias), linear(a.first, first, first_bias);
    linear(a.second, second, second_bias), linear(a.gates, gates, gates_bias);
    words = a.words.as<T>(), memory = a.memory.as<T>(), projected = a.projected.as<T>();
    attended = a.attended.as<T>(), sum = a.sum.as<T>(), hidden = a.hidden.as<T>();
    extra = a.extra.as<T>(), tanh_memory = a.tanh_memory.as<T>(), gated = a.gated.as<T>();
    tanh_next = a.tanh_next.as<T>(), probabilities = a.probabilities.as<T>();
    const bool backward = a.dwords.data != nullptr;
    y = backward ? nullptr : a.y.as<T>(), dy = backward ? a.dy.as<T>() : nullptr;
    dwords = backward ? a.dwords.as<T>() : nullptr;
    dhidden = backward ? a.dhidden.as<T>() : nullptr;
    if (backward || a.dropout == 0) return;
    key = ReplayedKey(a.key);
    PhiloxKey last = a.key;
    last.step += static_cast<uint64_t>(std::max(a.steps, a.keys) - 1);
    (void)ReplayedKey(last);  // so that a recording counts as many uses
  }

  // Word t of the report of this block: its first row, and its place in [B,T,..].
  __device__ __forceinline__ int64_t row(int64_t t) const {
    return (t * batch + int64_t{blockIdx.x}) * slots;
  }
  __device__ __forceinline__ int64_t word(int64_t t) const {
    return int64_t{blockIdx.x} * steps + t;
  }
};

// f(i) for i in [0, n), by all threads of the block; they meet before and afterwards.
template <class F>
__device__ __forceinline__ void each(int64_t n, F f) {
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += kThreads) f(i);
  __syncthreads();
}

// put(s, n, bias[n] + sum over k of x[s,k] w[n,k]) for rows x in shared memory: an output to a
// warp, whose lanes share the sum.
template <class T, class Put>
__device__ void product(int64_t rows, int64_t depth, int64_t width, const T* x, const T* w,
                        const T* bias, Put put) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t n = threadIdx.x / kWarp; n < width; n += kWarps)
    for (int64_t s = 0; s < rows; s += kRows<T>) {
      T acc[kRows<T>] = {};
      for (int64_t k = lane; k < depth; k += kWarp) {
        const T weight = w[n * depth + k];
        for (int r = 0; r < kRows<T>; ++r)
          if (s + r < rows) acc[r] += x[(s + r) * depth + k] * weight;
      }
      for (int r = 0; r < kRows<T>; ++r) {
        const T total = warp_sum(acc[r]);
        if (lane == 0 && s + r < rows) put(s + r, n, total + bias[n]);
      }
    }
  __syncthreads();
}

// put(s, n, sum over k of x[s,k] w[k,n]): the same towards the inputs, an output to a thread.
template <class T, class Put>
__device__ void product_back(int64_t rows, int64_t depth, int64_t width, const T* x, const T* w,
                             Put put) {
  for (int64_t n = threadIdx.x; n < width; n += kThreads)
    for (int64_t s = 0; s < rows; s += kRows<T>) {
      T acc[kRows<T>] = {};
      for (int64_t k = 0; k < depth; ++k) {
        const T weight = w[k * width + n];
        for (int r = 0; r < kRows<T>; ++r)
          if (s + r < rows) acc[r] += x[(s + r) * depth + k] * weight;
      }
      for (int r = 0; r < kRows<T>; ++r)
        if (s + r < rows) put(s + r, n, acc[r]);
    }
  __syncthreads();
}

// The key (at C) or value (at 2 C in a slot's row, C in a word's) of place j, slots first.
template <class T>
__device__ __forceinline__ T* place(T* projected, T* word, int64_t slots, int64_t width, int64_t j,
                                    int64_t value) {
  return j < slots ? projected + (3 * j + 1 + value) * width : word + value * width;
}

// A head of a slot to a warp: lane 0 has the probabilities, all lanes its features.
template <class T>
__device__ void attend(const Pointers<T>& a, int64_t t) {
  const int64_t d = a.width / a.heads, keys = a.slots + 1, row = a.row(t);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const T scale = static_cast<T>(1 / sqrt(static_cast<double>(d)));
  const T* projected = a.projected + row * 3 * a.width;
  const T* word = a.words + a.word(t) * 4 * a.width;
  PhiloxKey key = a.key.now();
  key.step += static_cast<uint64_t>(t);
  for (int64_t i = threadIdx.x / kWarp; i < a.slots * a.heads; i += kWarps) {
    const int64_t s = i / a.heads, h = i % a.heads;
    T* const p = a.probabilities + (row + s) * 2 * a.heads * keys + h * keys;
    T* const factor = p + a.heads * keys;
    const T* q = projected + s * 3 * a.width + h * d;
    T top = static_cast<T>(-INFINITY);
    for (int64_t j = 0; j < keys; ++j) {
      const T* k = place(projected, word, a.slots, a.width, j, 0) + h * d;
      T dot = 0;
      for (int64_t c = lane; c < d; c += kWarp) dot += q[c] * k[c];
      dot = scale * warp_sum(dot);
      top = dot > top ? dot : top;
      if (lane == 0) p[j] = dot;
    }
    if (lane == 0) {
      T total = 0;
      for (int64_t j = 0; j < keys; ++j) total += p[j] = math::exp_nonpositive(p[j] - top);
      const int64_t first = ((int64_t{blockIdx.x} * a.heads + h) * a.slots + s) * keys;
      for (int64_t j = 0; j < keys; ++j) {
        p[j] /= total;
        const Philox4 drawn = philox(key, static_cast<uint64_t>(first + j) / 4);
        const bool keep =
            word_of(drawn, static_cast<int>((first + j) % 4)) < bernoulli_threshold(1 - a.dropout);
        factor[j] = a.dropout == 0 ? T(1) : keep ? static_cast<T>(1 / (1 - a.dropout)) : T(0);
      }
    }
    __syncwarp();
    for (int64_t c = h * d + lane; c < (h + 1) * d; c += kWarp) {
      T z = 0;
      for (int64_t j = 0; j < keys; ++j)
        z += p[j] * factor[j] * place(projected, word, a.slots, a.width, j, 1)[c];
      a.attended[(row + s) * a.width + c] = z;
    }
  }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) walk_forward(Pointers<T> a) {
  T* const x = dynamic_shared<T>();  // [S,C]
  const int64_t S = a.slots, C = a.width, n = S * C;
  for (int64_t t = 0; t < a.steps; ++t) {
    const int64_t row = a.row(t), at = row * C;
    const T* const word = a.words + a.word(t) * 4 * C + 2 * C;
    each(n, [&](int64_t i) { x[i] = a.memory[at + i]; });
    product(S, C, 3 * C, x, a.in, a.in_bias,
            [&](int64_t s, int64_t c, T v) { a.projected[(row + s) * 3 * C + c] = v; });
    attend(a, t);
    each(n, [&](int64_t i) { x[i] = a.attended[at + i]; });
    product(S, C, C, x, a.out, a.out_bias, [&](int64_t s, int64_t c, T v) {
      a.sum[at + s * C + c] = a.memory[at + s * C + c] + v;
    });
    each(n, [&](int64_t i) { x[i] = a.sum[at + i]; });
    product(S, C, C, x, a.first, a.first_bias,
            [&](int64_t s, int64_t c, T v) { a.hidden[at + s * C + c] = formulas::Relu{}(v); });
    each(n, [&](int64_t i) { x[i] = a.hidden[at + i]; });
    product(S, C, C, x, a.second, a.second_bias,
            [&](int64_t s, int64_t c, T v) { a.extra[at + s * C + c] = formulas::Relu{}(v); });
    each(n, [&](int64_t i) { x[i] = a.tanh_memory[at + i] = math::tanh(a.memory[at + i]); });
    product(S, C, 2 * C, x, a.gates, a.gates_bias, [&](int64_t s, int64_t c, T v) {
      a.gated[(row + s) * 2 * C + c] = math::sigmoid(word[c] + v);
    });
    each(n, [&](int64_t i) {
      const T* const gates = a.gated + (row + i / C) * 2 * C + i % C;
      const T next = math::tanh(a.sum[at + i] + a.extra[at + i]);
      const T m = gates[0] * next + gates[C] * a.memory[at + i];
      a.tanh_next[at + i] = next;
      a.memory[a.row(t + 1) * C + i] = m;
      a.y[a.word(t) * n + i] = m;
    });
  }
}

// The gradients in front of the gates and of the tanh; dm becomes what goes back through f.
template <class T>
__device__ void ungate(const Pointers<T>& a, int64_t t, T* dm) {
  const int64_t C = a.width, n = a.slots * C, row = a.row(t), at = row * C;
  T* const dword = a.dwords + a.word(t) * 4 * C;
  each(n, [&](int64_t i) {
    T* const gates = a.gated + (row + i / C) * 2 * C + i % C;
    const T grad = dm[i] + a.dy[a.word(t) * n + i], gi = gates[0], gf = gates[C];
    const T next = a.tanh_next[at + i], da = grad * gi * (T(1) - next * next);
    gates[0] = grad * next * gi * (T(1) - gi);
    gates[C] = grad * a.memory[at + i] * gf * (T(1) - gf);
    a.tanh_next[at + i] = da;
    a.extra[at + i] = a.extra[at + i] > T(0) ? da : T(0);
    dm[i] = grad * gf;
  });
  each(2 * C, [&](int64_t c) {
    T sum = 0;
    for (int64_t s = 0; s < a.slots; ++s) sum += a.gated[(row + s) * 2 * C + c];
    dword[2 * C + c] = sum;
  });
}

// ds [S H (S + 1)], the gradients of the scores, from that of Z in dz.
template <class T>
__device__ void score_gradients(const Pointers<T>& a, int64_t t, const T* dz, T* ds) {
  const int64_t d = a.width / a.heads, keys = a.slots + 1, row = a.row(t);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const T scale = static_cast<T>(1 / sqrt(static_cast<double>(d)));
  const T* projected = a.projected + row * 3 * a.width;
  const T* word = a.words + a.word(t) * 4 * a.width;
  for (int64_t i = threadIdx.x / kWarp; i < a.slots * a.heads; i += kWarps) {
    const int64_t s = i / a.heads, h = i % a.heads;
    const T* const p = a.probabilities + (row + s) * 2 * a.heads * keys + h * keys;
    const T* const factor = p + a.heads * keys;
    T* const g = ds + i * keys;
    T mean = 0;
    for (int64_t j = 0; j < keys; ++j) {
      const T* v = place(projected, word, a.slots, a.width, j, 1) + h * d;
      T dot = 0;
      for (int64_t c = lane; c < d; c += kWarp) dot += dz[s * a.width + h * d + c] * v[c];
      dot = factor[j] * warp_sum(dot);
      mean += p[j] * dot;
      if (lane == 0) g[j] = dot;
    }
    if (lane == 0)
      for (int64_t j = 0; j < keys; ++j) g[j] = scale * p[j] * (g[j] - mean);
  }
  __syncthreads();
}

// Replaces queries, keys and values by their gradients: a feature to a thread, which reads all of
// them, for the slots, before it writes.
template <class T>
__device__ void projection_gradients(const Pointers<T>& a, int64_t t, const T* dz, const T* ds,
                                     T* fresh) {
  const int64_t C = a.width, S = a.slots, keys = S + 1, row = a.row(t), d = C / a.heads;
  const T* const projected = a.projected + row * 3 * C;
  const T* const word = a.words + a.word(t) * 4 * C;
  T* const dword = a.dwords + a.word(t) * 4 * C;
  each(C, [&](int64_t c) {
    const int64_t h = c / d;
    for (int64_t j = 0; j < keys; ++j) {
      T dq = 0, dk = 0, dv = 0;
      for (int64_t s = 0; s < S; ++s) {
        const T* const p = a.probabilities + (row + s) * 2 * a.heads * keys + h * keys;
        dk += ds[(s * a.heads + h) * keys + j] * projected[s * 3 * C + c];
        dv += p[j] * p[a.heads * keys + j] * dz[s * C + c];
      }
      for (int64_t k = 0; j < S && k < keys; ++k)
        dq += ds[(j * a.heads + h) * keys + k] * place(projected, word, S, C, k, int64_t{0})[c];
      if (j < S) fresh[j * 3 * C + c] = dq;
      place(fresh, dword, S, C, j, int64_t{0})[c] = dk;
      place(fresh, dword, S, C, j, int64_t{1})[c] = dv;
    }
  });
  each(S * 3 * C, [&](int64_t i) { a.projected[row * 3 * C + i] = fresh[i]; });
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) walk_backward(Pointers<T> a) {
  const int64_t S = a.slots, C = a.width, n = S * C;
  T* const x = dynamic_shared<T>();  // [S,3C]
  T* const dm = x + 3 * n;           // [S,C]: the gradient of the memory behind the word
  T* const dz = dm + n;              // [S,C]
  T* const ds = dz + n;              // [S,H,S + 1]
  each(n, [&](int64_t i) { dm[i] = 0; });
  for (int64_t t = a.steps; t-- > 0;) {
    const int64_t row = a.row(t), at = row * C;
    ungate(a, t, dm);
    each(2 * n, [&](int64_t i) { x[i] = a.gated[row * 2 * C + i]; });
    product_back(S, 2 * C, C, x, a.gates, [&](int64_t s, int64_t c, T v) {
      const T y = a.tanh_memory[at + s * C + c];
      dm[s * C + c] += v * (T(1) - y * y);
    });
    each(n, [&](int64_t i) { x[i] = a.extra[at + i]; });
    product_back(S, C, C, x, a.second, [&](int64_t s, int64_t c, T v) {
      a.dhidden[at + s * C + c] = a.hidden[at + s * C + c] > T(0) ? v : T(0);
    });
    each(n, [&](int64_t i) { x[i] = a.dhidden[at + i]; });
    product_back(S, C, C, x, a.first, [&](int64_t s, int64_t c, T v) {
      dm[s * C + c] += a.tanh_next[at + s * C + c] += v;
    });
    each(n, [&](int64_t i) { x[i] = a.tanh_next[at + i]; });
    product_back(S, C, C, x, a.out, [&](int64_t s, int64_t c, T v) { dz[s * C + c] = v; });
    score_gradients(a, t, dz, ds);
    projection_gradients(a, t, dz, ds, x);
    product_back(S, 3 * C, C, x, a.in, [&](int64_t s, int64_t c, T v) { dm[s * C + c] += v; });
  }
}

// f for f32 and f64, the only types that the loop keeps its numbers in.
template <class F>
void for_wide(DType type, const char* who, const F& f) {
  if (type == DType::f32) return f.template operator()<float>();
  if (type == DType::f64) return f.template operator()<double>();
  fail_dtype(who, type, "f32 or f64");
}

}  // namespace

void relational_memory_forward(const CudaContext& ctx, RelationalMemoryArgs args) {
  if (args.batch == 0) return;
  for_wide(args.y.dtype, "relational_memory_forward", [&]<class T>() {
    const auto bytes = static_cast<size_t>(args.slots * args.width) * sizeof(T);
    launch(walk_forward<T>, {one_block_each(args.batch), kThreads, bytes}, ctx, Pointers<T>(args));
  });
}

void relational_memory_backward(const CudaContext& ctx, RelationalMemoryArgs args) {
  if (args.batch == 0) return;
  for_wide(args.dy.dtype, "relational_memory_backward", [&]<class T>() {
    const int64_t elements =
        5 * args.slots * args.width + args.slots * args.heads * (args.slots + 1);
    const auto bytes = static_cast<size_t>(elements) * sizeof(T);
    launch(walk_backward<T>, {one_block_each(args.batch), kThreads, bytes}, ctx, Pointers<T>(args));
  });
}

}  // namespace pinion::kernels::cuda
