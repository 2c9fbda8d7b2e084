// SPDX-License-Identifier: Apache-2.0
// Scaled dot-product attention, a head of a sequence at a time: its keys and values are widened and
// packed once, then blocks of queries go through scores, softmax and the sum of values while they
// are in cache. Products are panels of gemm.h. The backward pass makes the probabilities again from
// the scores and the saved logarithms of their sums.
#include "pinion/kernels/cpu/gemm.h"
#include "pinion/kernels/cpu/philox_lanes.h"
#include "pinion/kernels/cpu/row.h"
#include "pinion/kernels/cpu/scratch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int64_t kWholeRows = 128;  // so many queries are one block; of more, a block has
constexpr int64_t kBlockRows = 96;   // rows, a multiple of every tile height, and fewer under a
constexpr int64_t kCausalRows = 24;  // causal mask: all of a block meet the keys its last row sees
constexpr int64_t kChunkRows = 192;  // of a long sequence, to one thread

template <class A>
inline constexpr int64_t kWidth = kPanelWidth<A, 2>;
template <class A>
PINION_INLINE int64_t padded(int64_t n) {
  return (n + kWidth<A> - 1) / kWidth<A> * kWidth<A>;
}

// Rows of d elements, `stride` apart, times `scale`, to rows of padded(d) with zeros at their ends;
// rows [n, rows) are zero.
template <class T>
[[gnu::noinline]] void widen(const T* from, int64_t stride, int64_t n, int64_t rows, int64_t d,
                             Accumulator<T> scale, Accumulator<T>* to) {
  using A = Accumulator<T>;
  constexpr int64_t L = kPacket<T>;
  const int64_t width = padded<A>(d);
  for (int64_t r = 0; r < rows; ++r, from += stride, to += width) {
    int64_t c = 0;
    if (r < n) {
      for (; c + L <= d; c += L) store(to + c, load_packet(from + c) * scale);
      if (c < d) store(to + c, load_part(from + c, d - c) * scale), c += L;
    }
    for (; c < width; c += L) store(to + c, Packet<T>{});
  }
}

// Rows [n, depth] to their transpose in panels [n / kWidth][depth][kWidth]; both are padded.
template <class A>
[[gnu::noinline]] void to_panels(const A* rows, int64_t n, int64_t depth, A* panels) {
  constexpr int64_t L = kLanes<A>;
  for (int64_t j = 0; j < n; j += kWidth<A>)
    for (int64_t p = 0; p < depth; p += L)
      for (int64_t x = 0; x < kWidth<A>; x += L) {
        Vec<A> square[L];
#pragma GCC unroll 16
        for (int64_t i = 0; i < L; ++i) square[i] = load(rows + (j + x + i) * depth + p);
        transpose_lanes<A>(square);
#pragma GCC unroll 16
        for (int64_t i = 0; i < L; ++i)
          store(panels + j * depth + (p + i) * kWidth<A> + x, square[i]);
      }
}

// Panels of columns: rows `row` apart, the next panel `panel` further.
template <class A>
struct Columns {
  const A* data;
  int64_t row, panel;
};
// c[m,n] = a[m,k] b[k,n] (+ c), n a multiple of the panels' width.
template <class A>
PINION_INLINE void multiply(int64_t m, int64_t n, int64_t k, Strided<const A> a, Columns<A> b,
                            bool accumulate, A* c, int64_t ldc) {
  for (int64_t j = 0; j < n; j += kWidth<A>, b.data += b.panel)
    multiply_panel<A, 2>(m, k, a, false, b.data, b.row, {accumulate ? c + j : nullptr, ldc},
                         {c + j, ldc});
}

// A row of d elements times `scale` to its place.
template <class T>
PINION_INLINE void put_row(const Accumulator<T>* from, Accumulator<T> scale, int64_t d, T* to) {
  for_packets<1, T>(
      d,
      [&](int64_t c, int)
          __attribute__((always_inline)) { store_packet(to + c, load(from + c) * scale); },
      [&](int64_t c, int64_t count)
          __attribute__((always_inline)) { store_part(to + c, load(from + c) * scale, count); });
}

// One head of one sequence; it is set to one after the other.
template <class T>
struct Head {
  using A = Accumulator<T>;
  using V = Vec<A>;
  using I = Number<Int<V>>;

  static int64_t block_rows(const AttentionArgs& args) {
    if (args.causal) return kCausalRows;
    return args.queries <= kWholeRows ? args.queries : kBlockRows;
  }

  Head(const AttentionArgs& of, bool backward)
      : args(of),
        keys(padded<A>(of.keys)),
        width(padded<A>(of.width)),
        rows(block_rows(of)),
        drops(of.dropout > 0),
        keep_scale(static_cast<A>(1 / (1 - of.dropout))),
        memory(((backward ? 6 : 3) * keys * width + (backward ? 3 : 2) * rows * width +
                (backward ? 2 : 1) * rows * keys + 2 * keys + 2 * kGroup + rows) *
               static_cast<int64_t>(sizeof(A))) {
    A* next = memory.as<A>();
    const auto take = [&](int64_t n) {
      A* const p = next;
      next += n;
      return p;
    };
    for (A** p : {&k_rows, &k_panels, &v_rows}) *p = take(keys * width);
    for (A** p : {&q, &out}) *p = take(rows * width);
    s = take(rows * keys);
    hidden = reinterpret_cast<I*>(take(keys));
    factors = take(keys + 2 * kGroup);
    sums = take(rows);
    if (!backward) return;
    for (A** p : {&v_panels, &dk, &dv}) *p = take(keys * width);
    dy = take(rows * width);
    ds = take(rows * keys);
  }

  void forward(int64_t b, int64_t h, int64_t begin, int64_t end) {
    begin_head(b, h);
    for (int64_t i = begin; i < end; i += rows) forward_block(i, smaller(end, i + rows));
  }

  void backward(int64_t b, int64_t h) {
    begin_head(b, h);
    to_panels(v_rows, keys, width, v_panels);
    for (int64_t i = 0; i < keys * width; ++i) dk[i] = dv[i] = 0;
    for (int64_t i = 0; i < args.queries; i += rows)
      backward_block(i, smaller(args.queries, i + rows));
    for (int64_t j = 0; j < args.keys; ++j) {
      put_row<T>(dk + j * width, A(1), args.width, at(args.dk, args.keys, j));
      put_row<T>(dv + j * width, A(1), args.width, at(args.dv, args.keys, j));
    }
  }

  // Where token t of the head begins, in one of the operands with `tokens` to a sequence.
  template <class Void>
  PINION_INLINE auto* at(const BasicHeads<Void>& x, int64_t tokens, int64_t t) const {
    return x.x.template as<T>() + (batch * tokens + t) * x.row + head * args.width;
  }

  void begin_head(int64_t b, int64_t h) {
    batch = b, head = h;
    widen(at(args.k, args.keys, 0), args.k.row, args.keys, keys, args.width, A(1), k_rows);
    widen(at(args.v, args.keys, 0), args.v.row, args.keys, keys, args.width, A(1), v_rows);
    to_panels(k_rows, keys, width, k_panels);
    const bool* mask = args.hidden ? args.hidden.as<bool>() + b * args.keys : nullptr;
    first_seen = mask ? args.keys : 0;
    for (int64_t j = args.keys; mask && j-- > 0;) {
      hidden[j] = -I(mask[j]);
      if (!mask[j]) first_seen = j;
    }
  }

  // How many keys rows [begin, end) must look at: all, if one of them sees none.
  PINION_INLINE int64_t keys_for(int64_t begin, int64_t end) const {
    return args.causal && begin >= first_seen ? smaller(end, args.keys) : args.keys;
  }

  // Scores of query i for keys from j on, `count` of them; -infinity for those that are not there.
  PINION_INLINE V visible(V score, int64_t i, int64_t j, int64_t count) const {
    const V low = math::constant<V>(AttentionArgs::kHidden);
    if (args.hidden) score = load(hidden + j) != 0 ? low : score;
    if (args.causal) score = lanes_below<A>(i + 1 - j) ? score : low;
    if (count < kLanes<A>) score = lanes_below<A>(count) ? score : math::constant<V>(-kInfinity);
    return score;
  }

  // For a row of the probabilities: 1 / (1 - p) where dropout keeps an element, else 0.
  PINION_INLINE const A* draw(int64_t i, int64_t n) {
    const int64_t first = ((batch * args.heads + head) * args.queries + i) * args.keys;
    const int64_t before = first % 4;  // elements of the first block that are of the row before
    const uint32_t threshold = bernoulli_threshold(1 - args.dropout);
    for (int64_t e = 0; e < before + n; e += kGroup) {
      FourWords words = philox_lanes(args.key, static_cast<uint64_t>(first + e) / 4);
      to_element_order(words.v);
      for (int64_t v = 0; v < 4; ++v) {
        const auto keep = words.v[v] < threshold;
        A* to = factors + e + v * kLanes<uint32_t>;
        if constexpr (sizeof(A) == 4)
          store(to, keep ? splat(keep_scale) : V{});
        else
          for (int64_t l = 0; l < kLanes<uint32_t>; ++l) to[l] = keep[l] ? keep_scale : A(0);
      }
    }
    return factors + before;
  }

  // f(j, elements that are there) for the packets of n elements.
  template <class F>
  PINION_INLINE static void each_packet(int64_t n, F f) {
    for (int64_t j = 0; j < n; j += kLanes<A>) f(j, n - j);
  }

  void scores_of(int64_t begin, int64_t n, int64_t count) {
    widen(at(args.q, args.queries, begin), args.q.row, n, n, args.width, static_cast<A>(args.scale),
          q);
    multiply<A>(n, padded<A>(count), args.width, {q, width, 1},
                {k_panels, kWidth<A>, width * kWidth<A>}, false, s, keys);
  }

  void forward_block(int64_t begin, int64_t end) {
    const int64_t n = end - begin, count = keys_for(begin, end);
    scores_of(begin, n, count);
    A* lse = args.lse.as<A>() + (batch * args.heads + head) * args.queries + begin;
    for (int64_t r = 0; r < n; ++r) lse[r] = softmax_row(begin + r, count, s + r * keys, sums[r]);
    multiply<A>(n, width, count, {s, keys, 1}, {v_rows, width, kWidth<A>}, false, out, width);
    for (int64_t r = 0; r < n; ++r)
      put_row<T>(out + r * width, A(1) / sums[r], args.width, at(args.y, args.queries, begin + r));
  }

  // Scores to their exponentials, zero where dropout takes them; their sum before that, and its
  // logarithm with the scores' own scale.
  PINION_INLINE A softmax_row(int64_t i, int64_t n, A* row, A& total) {
    V top = math::constant<V>(-kInfinity), sum = {};
    each_packet(
        n, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
          const V v = visible(load(row + j), i, j, count);
          store(row + j, v);
          top = larger(v, top);
        });
    const A highest = lane_max<A>(top);
    const A* factor = drops ? draw(i, n) : nullptr;
    each_packet(
        n, [&](int64_t j, int64_t) __attribute__((always_inline)) {
          const V e = math::exp_nonpositive(load(row + j) - highest);
          sum += e;
          store(row + j, factor ? e * load(factor + j) : e);
        });
    total = lane_sum<A>(sum);
    constexpr A low = static_cast<A>(AttentionArgs::kHidden);
    return highest == low ? low : highest + math::log(total);
  }

  void backward_block(int64_t begin, int64_t end) {
    const int64_t n = end - begin, count = keys_for(begin, end), across = padded<A>(count);
    scores_of(begin, n, count);
    widen(at(args.dy, args.queries, begin), args.dy.row, n, n, args.width, A(1), dy);
    multiply<A>(n, across, args.width, {dy, width, 1}, {v_panels, kWidth<A>, width * kWidth<A>},
                false, ds, keys);
    const A* lse = args.lse.as<A>() + (batch * args.heads + head) * args.queries + begin;
    for (int64_t r = 0; r < n; ++r)
      backward_row(begin + r, count, lse[r], s + r * keys, ds + r * keys);
    const auto add = [&](const A* rows_of_keys, const A* per_query, A* to) {
      multiply<A>(count, width, n, {rows_of_keys, 1, keys}, {per_query, width, kWidth<A>}, true, to,
                  width);
    };
    add(s, dy, dv);
    add(ds, q, dk);  // q has the scale
    multiply<A>(n, width, count, {ds, keys, 1}, {k_rows, width, kWidth<A>}, false, out, width);
    for (int64_t r = 0; r < n; ++r)
      put_row<T>(out + r * width, static_cast<A>(args.scale), args.width,
                 at(args.dq, args.queries, begin + r));
  }

  // Scores to what dropout leaves of the probabilities p, and the gradient g of that to the one of
  // the scores: p (drop(g) - sum of p drop(g)).
  PINION_INLINE void backward_row(int64_t i, int64_t n, A lse, A* row, A* gradient) {
    const bool sees_none = lse == static_cast<A>(AttentionArgs::kHidden);
    const A share = sees_none ? A(1) / static_cast<A>(args.keys) : A(1), flow = sees_none ? 0 : 1;
    const A* factor = drops ? draw(i, n) : nullptr;
    V sum = {};
    each_packet(
        n, [&](int64_t j, int64_t count) __attribute__((always_inline)) {
          const V p = math::exp_nonpositive(visible(load(row + j), i, j, count) - lse) * share;
          const V g = factor ? load(gradient + j) * load(factor + j) : load(gradient + j);
          store(row + j, p);
          store(gradient + j, g);
          sum += p * g;
        });
    const A mean = lane_sum<A>(sum);
    each_packet(
        n, [&](int64_t j, int64_t) __attribute__((always_inline)) {
          const V p = load(row + j);
          store(gradient + j, p * (load(gradient + j) - mean) * flow);
          if (factor) store(row + j, p * load(factor + j));
        });
  }

  const AttentionArgs& args;
  const int64_t keys, width, rows;  // padded, but for the rows of a block
  const bool drops;
  const A keep_scale;
  const Scratch memory;
  A *k_rows, *v_rows, *k_panels, *v_panels;  // [keys, width]; panels are of the transpose
  A *q, *dy, *out;                           // [rows, width], q times the scale
  A *s, *ds;                                 // [rows, keys]
  A *dk, *dv;                                // [keys, width]
  A *factors, *sums;
  I* hidden;  // -1 for keys that no query sees
  int64_t batch = 0, head = 0, first_seen = 0;
};

// Multiply-adds of so many queries of a head, in units of what a register does at once.
int64_t cost_of(const AttentionArgs& args, int64_t queries) {
  return queries * (args.keys / 8 + 1) * (args.width + 8) + 1;
}

}  // namespace

void attention_forward(const CpuContext& ctx, AttentionArgs args) {
  if (args.queries == 0) return;
  for_float(args.q.x.dtype, "attention_forward", [&]<class T>() {
    const int64_t rows = args.queries <= kWholeRows ? args.queries : kChunkRows;
    const int64_t parts = chunk_count(args.queries, rows), pieces = args.batch * args.heads * parts;
    for_rows(ctx, pieces, cost_of(args, rows), [&](int64_t begin, int64_t end, int64_t) {
      Head<T> head(args, false);
      for (int64_t at = begin; at < end; ++at) {
        const int64_t i = at % parts * rows, bh = at / parts;
        head.forward(bh / args.heads, bh % args.heads, i, smaller(args.queries, i + rows));
      }
    });
  });
}

void attention_backward(const CpuContext& ctx, AttentionArgs args) {
  for_float(args.q.x.dtype, "attention_backward", [&]<class T>() {
    const int64_t heads = args.batch * args.heads, cost = 3 * cost_of(args, args.queries);
    for_rows(ctx, heads, cost, [&](int64_t begin, int64_t end, int64_t) {
      Head<T> head(args, true);
      for (int64_t bh = begin; bh < end; ++bh) head.backward(bh / args.heads, bh % args.heads);
    });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
