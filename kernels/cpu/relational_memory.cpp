// SPDX-License-Identifier: Apache-2.0
// The relational memory's loop over words. Weights are packed once; then chunks of studies, on a
// grid that depends on the number of slots alone, walk through all words without waiting for each
// other. A chunk's rows of one word lie together, so products read and write the saved block.
#include "pinion/kernels/relational_memory.h"

#include "pinion/kernels/cpu/gemm.h"
#include "pinion/kernels/cpu/row.h"
#include "pinion/kernels/cpu/scratch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int64_t kChunkRows = 16;  // of a word: a multiple of the tiles' heights, or nearly so

// Studies of a chunk: the largest power of two whose slots make kChunkRows at most.
int64_t chunk_studies(int64_t slots) {
  int64_t n = 1;
  while (2 * n * slots <= kChunkRows) n *= 2;
  return n;
}

// One operand of x [.., depth] W' in panels, and a bias.
template <class T>
struct Packed {
  static constexpr int64_t kWidth = kPanelWidth<T, 2>;
  int64_t depth, width;
  const T *panels, *bias;

  static int64_t padded(int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }
  // Elements for the weight [out,in] and its bias.
  static int64_t size(int64_t out, int64_t in) {
    return padded(out) * in + padded(in) * out + padded(out);
  }

  // x W^T + b of the forward pass, or dy W of the backward pass; takes memory from `next`.
  Packed(const RelationalMemoryArgs::Linear& linear, bool forward, T*& next) {
    const int64_t out = linear.weight.shape[0], in = linear.weight.shape[1];
    depth = forward ? in : out, width = forward ? out : in;
    const int64_t by_depth = forward ? 1 : in, by_width = forward ? in : 1;
    const T* w = linear.weight.as<T>();
    panels = next;
    for (int64_t j = 0; j < width; j += kWidth)
      for (int64_t p = 0; p < depth; ++p)
        for (int64_t i = j; i < j + kWidth; ++i)
          *next++ = i < width ? w[p * by_depth + i * by_width] : T(0);
    bias = forward ? next : nullptr;
    if (!forward) return;
    for (int64_t i = 0; i < padded(width); ++i) *next++ = i < width ? linear.bias.as<T>()[i] : T(0);
  }
};

// f(packets at i) over n elements: each operand is loaded, the result stored.
template <class T, class F, class... In>
PINION_INLINE void map_row(int64_t n, T* to, F f, const In*... in) {
  for_packets<2, T>(
      n, [&](int64_t i, int) __attribute__((always_inline)) { store(to + i, f(load(in + i)...)); },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        store_part(to + i, f(load_part(in + i, count)...), count);
      });
}

// a b + c, rounded as multiply_panel does: the compiler would turn a loop over scalars into vectors
// of rounded products.
PINION_INLINE float multiply_add(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
PINION_INLINE double multiply_add(double a, double b, double c) {
#ifdef __FP_FAST_FMA
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

template <class T>
PINION_INLINE T dot(const T* a, const T* b, int64_t n) {
  Vec<T> sum = {};
  for_packets<1, T>(
      n, [&](int64_t i, int) __attribute__((always_inline)) { sum += load(a + i) * load(b + i); },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        sum += load_part(a + i, count) * load_part(b + i, count);
      });
  return lane_sum<T>(sum);
}
// to += scale x
template <class T>
PINION_INLINE void add_scaled(int64_t n, T scale, const T* x, T* to) {
  map_row(
      n, to, [&](Vec<T> y, Vec<T> v) __attribute__((always_inline)) { return y + v * scale; }, to,
      x);
}

// The loop of one chunk of studies.
template <class T>
struct Walk {
  const RelationalMemoryArgs& args;
  const int64_t C = args.width, S = args.slots, H = args.heads, d = C / H, keys = S + 1;
  const int64_t begin, end, rows = (end - begin) * S;
  const T scale = static_cast<T>(1 / __builtin_sqrt(static_cast<double>(d)));
  T* tail;  // [rows, kWidth]: a panel that is not full, or the scores of a query

  // The rows of word t, from study b or the chunk's first on.
  PINION_INLINE T* rows_of(const View& x, int64_t t, int64_t b) const {
    return x.as<T>() + (t * args.batch + b) * S * x.shape[1];
  }
  PINION_INLINE T* at(const View& x, int64_t t) const { return rows_of(x, t, begin); }
  // What word t of study b has of x [B,T,n].
  template <class Void>
  PINION_INLINE auto* word_of(const BasicView<Void>& x, int64_t t, int64_t b) const {
    return x.template as<T>() + (b * args.steps + t) * x.shape[2];
  }

  void product(const T* x, const Packed<T>& w, bool relu, T* y) const {
    constexpr int64_t W = Packed<T>::kWidth;
    for (int64_t j = 0; j < w.width; j += W) {
      const bool full = j + W <= w.width;
      const Rows<T> to = full ? Rows<T>{y + j, w.width} : Rows<T>{tail, W};
      multiply_panel<T, 2>(rows, w.depth, {x, w.depth, 1}, false, w.panels + j * w.depth, W, {}, to,
                           {w.bias ? w.bias + j : nullptr, relu, {}});
      for (int64_t r = 0; !full && r < rows; ++r)
        copy_words(tail + r * W, w.width - j, y + r * w.width + j);
    }
  }

  // f(key, value) of each place that slots of study b see: the slots, then the word. `words` and
  // `projected` are the operands or their gradients.
  template <class P, class W, class F>
  PINION_INLINE void each_key(P* projected, W* word, F f) const {
    for (int64_t j = 0; j < S; ++j) f(j, projected + j * 3 * C + C, projected + j * 3 * C + 2 * C);
    f(S, word, word + C);
  }
};

// --- forward ------------------------------------------------------------------------------------

template <class T>
struct Forward : Walk<T> {
  using Walk<T>::args, Walk<T>::C, Walk<T>::S, Walk<T>::H, Walk<T>::d, Walk<T>::keys;
  using Walk<T>::begin, Walk<T>::end, Walk<T>::rows, Walk<T>::scale, Walk<T>::at;
  using Walk<T>::rows_of, Walk<T>::word_of, Walk<T>::tail;
  using V = Vec<T>;

  void word(int64_t t, const Packed<T> (&weights)[5]) const {
    const auto& [in, out, first, second, gates] = weights;
    T* memory = at(args.memory, t);
    T* sum = at(args.sum, t);
    this->product(memory, in, false, at(args.projected, t));
    attend(t);
    this->product(at(args.attended, t), out, false, sum);
    add_scaled(rows * C, T(1), memory, sum);
    this->product(sum, first, true, at(args.hidden, t));
    this->product(at(args.hidden, t), second, true, at(args.extra, t));
    T* of_memory = at(args.tanh_memory, t);
    map_row(
        rows * C, of_memory, [](V m) __attribute__((always_inline)) { return math::tanh(m); },
        memory);
    this->product(of_memory, gates, false, at(args.gated, t));
    for (int64_t b = begin; b < end; ++b) gate(t, b);
  }

  void gate(int64_t t, int64_t b) const {
    const T* word = word_of(args.words, t, b) + 2 * C;
    for (int64_t s = 0; s < S; ++s) {
      T* const gates = rows_of(args.gated, t, b) + s * 2 * C;
      T* const next = rows_of(args.tanh_next, t, b) + s * C;
      const T* const memory = rows_of(args.memory, t, b) + s * C;
      T* const to = rows_of(args.memory, t + 1, b) + s * C;
      map_row(
          2 * C, gates,
          [](V g, V w) __attribute__((always_inline)) { return math::sigmoid(w + g); }, gates,
          word);
      map_row(
          C, next, [](V a, V e) __attribute__((always_inline)) { return math::tanh(a + e); },
          rows_of(args.sum, t, b) + s * C, rows_of(args.extra, t, b) + s * C);
      // In passes, so that each product is rounded as it is one step after the other.
      T* const y = word_of(args.y, t, b) + s * C;
      const auto multiply = [](V v, V w) __attribute__((always_inline)) { return v * w; };
      map_row(C, to, multiply, gates, next);
      map_row(C, y, multiply, gates + C, memory);
      add_scaled(C, T(1), y, to);
      copy_words(to, C, y);
    }
  }

  // In the order of attention_forward, so that the bits are those of one step after the other.
  void attend(int64_t t) const {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t s = 0; s < S; ++s)
        for (int64_t h = 0; h < H; ++h) attend_head(t, b, s, h);
  }

  void attend_head(int64_t t, int64_t b, int64_t s, int64_t h) const {
    const T* const projected = rows_of(args.projected, t, b) + h * d;
    const T* const word = word_of(args.words, t, b) + h * d;
    const T* const q = projected + s * 3 * C;
    T* const p = rows_of(args.probabilities, t, b) + (s * 2 * H + h) * keys;
    T* const factor = p + H * keys;
    T* const z = rows_of(args.attended, t, b) + s * C + h * d;
    this->each_key(projected, word, [&](int64_t j, const T* k, const T*) {
      T sum = 0;
      for (int64_t c = 0; c < d; ++c) sum = multiply_add(q[c] * scale, k[c], sum);
      tail[j] = sum;
    });
    const T inverse = T(1) / exponentials();
    draw(t, ((b * H + h) * S + s) * keys, factor);
    for (int64_t c = 0; c < d; ++c) z[c] = 0;
    this->each_key(projected, word, [&](int64_t j, const T*, const T* v) {
      p[j] = tail[j] * inverse;
      add_scaled(d, tail[j] * factor[j], v, z);
    });
    map_row(
        d, z, [&](V x) __attribute__((always_inline)) { return x * inverse; }, z);
  }

  // Scores in `tail` to their exponentials; the sum of these.
  PINION_INLINE T exponentials() const {
    constexpr int64_t L = kLanes<T>;
    for (int64_t j = keys; j % L != 0; ++j) tail[j] = static_cast<T>(-kInfinity);
    V top = splat(static_cast<T>(-kInfinity)), sum = {};
    for (int64_t j = 0; j < keys; j += L) top = larger(load(tail + j), top);
    const T highest = lane_max<T>(top);
    for (int64_t j = 0; j < keys; j += L) {
      const V e = math::exp_nonpositive(load(tail + j) - highest);
      store(tail + j, e);
      sum += e;
    }
    return lane_sum<T>(sum);
  }

  // What dropout multiplies elements [first, first + keys) of this word's probabilities by.
  void draw(int64_t t, int64_t first, T* factor) const {
    if (args.dropout == 0) {
      for (int64_t j = 0; j < keys; ++j) factor[j] = 1;
      return;
    }
    PhiloxKey key = args.key;
    key.step += static_cast<uint64_t>(t);
    const uint32_t threshold = bernoulli_threshold(1 - args.dropout);
    const T kept = static_cast<T>(1 / (1 - args.dropout));
    Philox4 words = {};
    for (int64_t j = 0; j < keys; ++j) {
      const int64_t i = first + j;
      if (j == 0 || i % 4 == 0) words = philox(key, static_cast<uint64_t>(i / 4));
      factor[j] = words.v[i % 4] < threshold ? kept : T(0);
    }
  }
};

// --- backward -----------------------------------------------------------------------------------

template <class T>
struct Backward : Walk<T> {
  using Walk<T>::args, Walk<T>::C, Walk<T>::S, Walk<T>::H, Walk<T>::d, Walk<T>::keys;
  using Walk<T>::begin, Walk<T>::end, Walk<T>::rows, Walk<T>::scale, Walk<T>::at;
  using Walk<T>::rows_of, Walk<T>::word_of;
  using V = Vec<T>;
  T *dm, *product_of, *dprojected;  // [rows,C], [rows,C], [S,3C]

  static int64_t scratch(const RelationalMemoryArgs& a, int64_t rows) {
    return 2 * rows * a.width + a.slots * 3 * a.width + a.heads * (a.slots + 1);
  }

  void word(int64_t t, const Packed<T> (&weights)[5]) const {
    const auto& [in, out, first, second, gates] = weights;
    T* const dsum = at(args.tanh_next, t);
    T* const dhidden = at(args.dhidden, t);
    for (int64_t b = begin; b < end; ++b) ungate(t, b);
    this->product(at(args.gated, t), gates, false, product_of);
    map_row(
        rows * C, dm,
        [](V m, V g, V y) __attribute__((always_inline)) { return m + g * (T(1) - y * y); }, dm,
        product_of, at(args.tanh_memory, t));
    this->product(at(args.extra, t), second, false, dhidden);
    map_row(
        rows * C, dhidden,
        [](V g, V y) __attribute__((always_inline)) { return y > T(0) ? g : V{}; }, dhidden,
        at(args.hidden, t));
    this->product(dhidden, first, false, product_of);
    add_scaled(rows * C, T(1), product_of, dsum);
    add_scaled(rows * C, T(1), dsum, dm);
    this->product(dsum, out, false, product_of);  // the gradient of Z
    for (int64_t b = begin; b < end; ++b) unattend(t, b);
    this->product(at(args.projected, t), in, false, product_of);
    add_scaled(rows * C, T(1), product_of, dm);
  }

  // dm, which is the gradient of M[t + 1] but for dy, to what of it goes to M[t] through f.
  void ungate(int64_t t, int64_t b) const {
    T* const dword = word_of(args.dwords, t, b);
    for (int64_t c = 0; c < 4 * C; ++c) dword[c] = 0;
    for (int64_t s = 0; s < S; ++s) {
      T* const g = dm + ((b - begin) * S + s) * C;
      T* const i = rows_of(args.gated, t, b) + s * 2 * C;
      T* const f = i + C;
      T* const next = rows_of(args.tanh_next, t, b) + s * C;
      T* const extra = rows_of(args.extra, t, b) + s * C;
      const T* const dy = word_of(args.dy, t, b) + s * C;
      const T* const memory = rows_of(args.memory, t, b) + s * C;
      const auto each = [&](auto get, auto put, int64_t c) __attribute__((always_inline)) {
        const V grad = get(g + c) + get(dy + c), gi = get(i + c), gf = get(f + c),
                a = get(next + c);
        const V da = grad * gi * (T(1) - a * a);
        put(i + c, grad * a * gi * (T(1) - gi));
        put(f + c, grad * get(memory + c) * gf * (T(1) - gf));
        put(next + c, da);
        put(extra + c, get(extra + c) > T(0) ? da : V{});
        put(g + c, grad * gf);
      };
      for_packets<1, T>(
          C,
          [&](int64_t c, int) __attribute__((always_inline)) {
            each(
                [](const T* p) __attribute__((always_inline)) { return load(p); },
                [](T * p, V v) __attribute__((always_inline)) { store(p, v); }, c);
          },
          [&](int64_t c, int64_t n) __attribute__((always_inline)) {
            each(
                [n](const T* p) __attribute__((always_inline)) { return load_part(p, n); },
                [n](T * p, V v) __attribute__((always_inline)) { store_part(p, v, n); }, c);
          });
      add_scaled(2 * C, T(1), i, dword + 2 * C);
    }
  }

  void unattend(int64_t t, int64_t b) const {
    T* const projected = rows_of(args.projected, t, b);
    const T* const word = word_of(args.words, t, b);
    T* const dword = word_of(args.dwords, t, b);
    T* const ds = dprojected + S * 3 * C;  // [H, keys]
    for (int64_t c = 0; c < S * 3 * C; ++c) dprojected[c] = 0;
    for (int64_t s = 0; s < S; ++s) {
      const T* const p = rows_of(args.probabilities, t, b) + s * 2 * H * keys;
      const T* const factor = p + H * keys;
      const T* const q = projected + s * 3 * C;
      const T* const dz = product_of + ((b - begin) * S + s) * C;
      this->each_key(projected, word, [&](int64_t j, const T*, const T* v) {
        for (int64_t h = 0; h < H; ++h)
          ds[h * keys + j] = factor[h * keys + j] * dot(dz + h * d, v + h * d, d);
      });
      for (int64_t h = 0; h < H; ++h) {
        T mean = 0;
        for (int64_t j = h * keys; j < (h + 1) * keys; ++j) mean += p[j] * ds[j];
        for (int64_t j = h * keys; j < (h + 1) * keys; ++j) ds[j] = scale * p[j] * (ds[j] - mean);
      }
      T* const dq = dprojected + s * 3 * C;
      this->each_key(projected, word, [&](int64_t j, const T* k, const T*) {
        for (int64_t h = 0; h < H; ++h) add_scaled(d, ds[h * keys + j], k + h * d, dq + h * d);
      });
      this->each_key(dprojected, dword, [&](int64_t j, T* dk, T* dv) {
        for (int64_t h = 0; h < H; ++h) {
          const int64_t i = h * keys + j;
          add_scaled(d, ds[i], q + h * d, dk + h * d);
          add_scaled(d, p[i] * factor[i], dz + h * d, dv + h * d);
        }
      });
    }
    copy_words(dprojected, S * 3 * C, projected);
  }
};

// The five weights, packed for one direction.
template <class T>
struct Weights {
  const Scratch memory;
  T* next = memory.template as<T>();
  const Packed<T> packed[5];

  static int64_t size(const RelationalMemoryArgs& a) {
    const int64_t C = a.width;
    return Packed<T>::size(3 * C, C) + 3 * Packed<T>::size(C, C) + Packed<T>::size(2 * C, C);
  }
  Weights(const RelationalMemoryArgs& a, bool forward)
      : memory(size(a) * static_cast<int64_t>(sizeof(T))),
        packed{{a.in, forward, next},
               {a.out, forward, next},
               {a.first, forward, next},
               {a.second, forward, next},
               {a.gates, forward, next}} {}
};

template <class T, class Step>
void walk(const CpuContext& ctx, const RelationalMemoryArgs& args, int64_t scratch, Step step) {
  const int64_t grain = chunk_studies(args.slots), rows = grain * args.slots;
  const int64_t tail = rows * Packed<T>::kWidth;
  for_chunks(ctx, args.batch, grain, [&](int64_t begin, int64_t end, int64_t) {
    const Scratch memory((tail + scratch) * static_cast<int64_t>(sizeof(T)));
    step(begin, end, memory.as<T>(), memory.as<T>() + tail);
  });
}

// f for f32 and f64, the only types that the loop keeps its numbers in.
template <class F>
PINION_INLINE void for_wide(DType type, const char* who, const F& f) {
  if (type == DType::f32) return f.template operator()<float>();
  if (type == DType::f64) return f.template operator()<double>();
  fail_dtype(who, type, "f32 or f64");
}

}  // namespace

void relational_memory_forward(const CpuContext& ctx, RelationalMemoryArgs args) {
  for_wide(args.y.dtype, "relational_memory_forward", [&]<class T>() {
    const Weights<T> weights(args, true);
    walk<T>(ctx, args, 0, [&](int64_t begin, int64_t end, T* tail, T*) {
      const Forward<T> chunk{{.args = args, .begin = begin, .end = end, .tail = tail}};
      for (int64_t t = 0; t < args.steps; ++t) chunk.word(t, weights.packed);
    });
  });
}

void relational_memory_backward(const CpuContext& ctx, RelationalMemoryArgs args) {
  for_wide(args.dy.dtype, "relational_memory_backward", [&]<class T>() {
    const Weights<T> weights(args, false);
    const int64_t rows = chunk_studies(args.slots) * args.slots;
    walk<T>(
        ctx, args, Backward<T>::scratch(args, rows),
        [&](int64_t begin, int64_t end, T* tail, T* own) {
          const int64_t n = rows * args.width;
          for (int64_t i = 0; i < n; ++i) own[i] = 0;
          const Backward<T> chunk{
              {.args = args, .begin = begin, .end = end, .tail = tail}, own, own + n, own + 2 * n};
          for (int64_t t = args.steps; t-- > 0;) chunk.word(t, weights.packed);
        });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
