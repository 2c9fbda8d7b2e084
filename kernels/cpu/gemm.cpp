// SPDX-License-Identifier: Apache-2.0
// Blocked GEMM after Goto & van de Geijn, "Anatomy of high-performance matrix multiplication"
// (2008): b is packed once into panels as wide as a tile, a block of rows of a stays in L2, a panel
// of b in L1, and the tile in registers. Rows that do not fill a tile take smaller ones, so nothing
// is padded but the last panel. Where there is one block of rows, each panel is needed once: it is
// packed beside its product and never leaves the cache, so that a few rows cost one reading of b.
#include "pinion/kernels/cpu/gemm.h"

#include "pinion/kernels/cpu/onednn.h"
#include "pinion/kernels/cpu/packet.h"
#include "pinion/kernels/cpu/scratch.h"
#include "pinion/kernels/formulas.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int64_t kBlockRows = 96;        // a multiple of every tile height
constexpr int64_t kBlockCols = 512;       // a multiple of every panel width
constexpr int64_t kBlockDepth = 256;      // a panel of 16 floats by 256 is half of a 32 KiB L1
constexpr int64_t kLoneBlockCols = 128;   // of a single block of rows: something for every thread
constexpr int64_t kLoneBlockDepth = 512;  // and long strips of b
constexpr int64_t kThinDepth = 16;        // rows of b that a few rows of a run through side by side
constexpr int64_t kDirectElements = 8192;  // operands up to 32 KiB are read where they lie
constexpr int64_t kSplitDepth = 2048;      // sums longer than two of these may be split over chunks
constexpr int64_t kOnednnRows = 128;       // of a chunk, and the fewest that oneDNN is asked for
constexpr int64_t kOnednnLeast = 64;       // columns and depth that it is asked for
constexpr int64_t kChunkWork = 1 << 18;    // multiply-adds worth a chunk of their own, about 5 us

PINION_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
PINION_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// acc += a[0..Rows, 0..k] b[0..k, 0..width].
template <class Acc, int Rows, int Vectors>
PINION_INLINE void multiply_tile(int64_t k, const Acc* a, int64_t a_row, int64_t a_col,
                                 const Acc* b, int64_t ldb, Vec<Acc> (&acc)[Rows][Vectors]) {
  for (int64_t p = 0; p < k; ++p) {
    Vec<Acc> row[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) row[v] = load(b + v * kLanes<Acc>);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Vec<Acc> x = splat(a[i * a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) acc[i][v] += x * row[v];
    }
    a += a_col;
    b += ldb;
  }
}

template <class Acc, int Height, int Vectors>
PINION_INLINE void tiles(int64_t i, int64_t rows, int64_t k, Strided<const Acc> a, bool tiled,
                         const Acc* b, int64_t ldb, Rows<const Acc> start, Rows<Acc> out,
                         const Finish<Acc>& finish) {
  for (; i + Height <= rows; i += Height) {
    Vec<Acc> acc[Height][Vectors] = {};
    // f(the sums of row r and vector v, where they are in rows `of`)
    const auto each = [&](auto of, auto f) {
#pragma GCC unroll 16
      for (int r = 0; r < Height; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v)
          f(acc[r][v], of.data + (i + r) * of.stride + v * kLanes<Acc>);
    };
    if (start.data) each(start, [](Vec<Acc>& sum, auto* p) { sum = load(p); });
    if (tiled)
      multiply_tile<Acc, Height, Vectors>(k, a.data + i * k, 1, Height, b, ldb, acc);
    else
      multiply_tile<Acc, Height, Vectors>(k, &a(i, 0), a.row, a.col, b, ldb, acc);
    const Rows<const Acc> bias{finish.bias, 0};
    if (bias.data) each(bias, [](Vec<Acc>& sum, auto* p) { sum += load(p); });
    if (finish.relu) each(out, [](Vec<Acc>& sum, auto*) { sum = formulas::Relu{}(sum); });
    if (finish.gate.data)
      each(finish.gate,
           [](Vec<Acc>& sum, auto* p) { sum = formulas::ReluBackward{}(load(p), sum); });
    each(out, [](Vec<Acc>& sum, auto* p) { store(p, sum); });
  }
  if constexpr (Height > 1)
    if (i < rows)
      tiles<Acc, kNextTile<Height>, Vectors>(i, rows, k, a, tiled, b, ldb, start, out, finish);
}

}  // namespace

// Not inlined: once per type is enough, and every caller spends its time inside.
template <class Acc, int Vectors>
__attribute__((noinline)) void multiply_panel(int64_t rows, int64_t k, Strided<const Acc> a,
                                              bool tiled, const Acc* b, int64_t ldb,
                                              Rows<const Acc> start, Rows<Acc> out,
                                              const Finish<Acc>& finish) {
  tiles<Acc, kTileRows<Vectors>, Vectors>(0, rows, k, a, tiled, b, ldb, start, out, finish);
}
template void multiply_panel<float, 2>(int64_t, int64_t, Strided<const float>, bool, const float*,
                                       int64_t, Rows<const float>, Rows<float>,
                                       const Finish<float>&);
template void multiply_panel<double, 2>(int64_t, int64_t, Strided<const double>, bool,
                                        const double*, int64_t, Rows<const double>, Rows<double>,
                                        const Finish<double>&);

namespace {

// Rows [i, end) of a at depths [begin, begin + k), tile by tile: [k][rows of the tile].
template <class T, class Acc, int Rows>
__attribute__((noinline)) void pack_rows(Strided<const T> a, int64_t i, int64_t end, int64_t begin,
                                         int64_t k, Acc* out) {
  for (; i + Rows <= end; i += Rows, out += Rows * k)
    for (int64_t p = 0; p < k; ++p)
      for (int r = 0; r < Rows; ++r) out[p * Rows + r] = Acc(a(i + r, begin + p));
  if constexpr (Rows > 1)
    if (i < end) pack_rows<T, Acc, kNextTile<Rows>>(a, i, end, begin, k, out);
}

// Columns [j, j + count) of b, all of k, as [k][width]; missing columns are zero.
template <class T, class Acc>
__attribute__((noinline)) void pack_columns(Strided<const T> b, int64_t j, int64_t count, int64_t k,
                                            int64_t width, Acc* out) {
  constexpr int64_t L = kLanes<Acc>;
  for (int64_t x = 0; x < width; x += L) {
    const int64_t here = x < count ? smaller(L, count - x) : 0;
    if (b.row == 1 && k >= L) {
      for (int64_t p = 0; p < k; p += L) {
        const int64_t from = smaller(p, k - L);  // the last square overlaps the one before
        Vec<Acc> square[L];
#pragma GCC unroll 16
        for (int64_t i = 0; i < L; ++i)
          square[i] = i < here ? load_packet(&b(from, j + x + i)) : Vec<Acc>{};
#pragma GCC unroll 16
        for (int64_t i = 0; i < L; ++i)  // of the panel that is packed next
          __builtin_prefetch(&b(from, j + x + i) + width * b.col);
        transpose_lanes<Acc>(square);
#pragma GCC unroll 16
        for (int64_t i = 0; i < L; ++i) store(out + (from + i) * width + x, square[i]);
      }
    } else if (b.col == 1 && here == L) {
      for (int64_t p = 0; p < k; ++p) store(out + p * width + x, load_packet(&b(p, j + x)));
    } else if (b.col == 1 && here > 0) {
      for (int64_t p = 0; p < k; ++p) store(out + p * width + x, load_part(&b(p, j + x), here));
    } else {
      for (int64_t p = 0; p < k; ++p)
        for (int64_t i = 0; i < L; ++i)
          out[p * width + x + i] = i < here ? Acc(b(p, j + x + i)) : Acc(0);
    }
  }
}

// Finished sums of a panel to their place; no element beyond `count` is written.
template <class Acc, class Out>
__attribute__((noinline)) void put_rows(Rows<const Acc> from, int64_t rows, int64_t count,
                                        Rows<Out> to) {
  for (int64_t i = 0; i < rows; ++i, from.data += from.stride, to.data += to.stride) {
    int64_t x = 0;
    for (; x + kLanes<Acc> <= count; x += kLanes<Acc>)
      store_packet(to.data + x, load(from.data + x));
    if (x < count) store_part(to.data + x, load(from.data + x), count - x);
  }
}

// GELU runs over a finished block, still in cache. Row i, columns [j0, j1).
template <class Acc, class Out>
__attribute__((noinline)) void activate_row(Out* y, Out* pre, int64_t j0, int64_t j1,
                                            Activation activation) {
  for (int64_t j = j0; pre && j < j1; ++j) pre[j] = y[j];
  if (activation == Activation::gelu_tanh)
    for (int64_t j = j0; j < j1; ++j) y[j] = Out(formulas::GeluTanh{}(Acc(y[j])));
  else
    for (int64_t j = j0; j < j1; ++j) y[j] = Out(formulas::Gelu{}(Acc(y[j])));
}

// One product, cut into panels `Vectors` registers wide.
template <class T, class Out, int Vectors>
struct Product {
  using Acc = Accumulator<T>;
  static constexpr int64_t kWidth = kPanelWidth<Acc, Vectors>;
  static constexpr int kRows = kTileRows<Vectors>;
  static constexpr bool kNative = std::is_same_v<T, Acc>;

  int64_t m, n, k;
  Strided<const T> a, b;
  Out* c;
  int64_t ldc;
  Epilogue<Out> epilogue;
  bool direct_a, direct_b;  // read where they lie; else packed
  Acc* panels = nullptr;    // b packed: [panel][k][kWidth]; with direct_b a ragged last panel only

  // One block of rows: panels are packed as they are needed.
  bool lone() const { return m <= kBlockRows && !direct_b; }
  int64_t block_cols() const { return lone() ? kLoneBlockCols : kBlockCols; }
  // Few rows of a wait for memory alone, so rows of b are walked side by side in long stretches.
  int64_t block_depth() const {
    if (direct_b && k * n > kDirectElements) return kThinDepth;
    return lone() ? kLoneBlockDepth : kBlockDepth;
  }

  // What c holds, as the start of a panel's sums; by way of `part` where its rows do not fit.
  Rows<const Acc> sums_of(const Out* rows, int64_t height, int64_t count, Acc* part) const {
    if constexpr (std::is_same_v<Out, Acc>) {
      if (count == kWidth) return {rows, ldc};
    }
    for (int64_t i = 0; i < height; ++i)
      for (int64_t x = 0; x < kWidth; ++x)
        part[i * kWidth + x] = x < count ? Acc(rows[i * ldc + x]) : Acc(0);
    return {part, kWidth};
  }

  // Columns [j, j + kWidth) of rows [i0, i1): one depth after the other. `fresh` is room for a
  // panel of one depth, or null.
  void column(int64_t i0, int64_t i1, int64_t j, int64_t begin, int64_t depth, const Acc* packed_a,
              Acc* part, Acc* fresh) const {
    const int64_t count = smaller(kWidth, n - j);
    const bool last = begin + depth == k;
    const Acc* rows_b = fresh ? fresh : panels + (direct_b ? 0 : j * k) + begin * kWidth;
    if (fresh) pack_columns<T, Acc>({&b(begin, 0), b.row, b.col}, j, count, depth, kWidth, fresh);
    int64_t ldb = kWidth;
    Strided<const Acc> rows_a{packed_a, 1, 1};
    if constexpr (kNative) {
      if (direct_b && count == kWidth) rows_b = &b(begin, j), ldb = b.row;
      if (direct_a) rows_a = {&a(i0, begin), a.row, a.col};
    }
    constexpr bool same_type = std::is_same_v<Out, Acc>;
    const bool whole = count == kWidth, first = begin == 0;
    Out* to = c + i0 * ldc + j;
    // Sums start at those of the depths before, at what c holds, or at zero.
    Rows<const Acc> start{first ? nullptr : part, kWidth};
    if (first && epilogue.accumulate) start = sums_of(to, i1 - i0, count, part);
    Rows<Acc> out{part, kWidth};
    Finish<Acc> finish{nullptr, last && epilogue.activation == Activation::relu};
    Acc bias[kWidth];
    if constexpr (same_type) {
      if (last && whole) out = {to, ldc};
      if (last && whole && epilogue.bias) finish.bias = epilogue.bias + j;
    }
    if (last && epilogue.bias && !finish.bias) {
      for (int64_t x = 0; x < kWidth; ++x) bias[x] = x < count ? Acc(epilogue.bias[j + x]) : Acc(0);
      finish.bias = bias;
    }
    multiply_panel<Acc, Vectors>(i1 - i0, depth, rows_a, !direct_a, rows_b, ldb, start, out,
                                 finish);
    if (last && out.data == part) put_rows<Acc, Out>({part, kWidth}, i1 - i0, count, {to, ldc});
  }

  void block(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
    const int64_t rows = i1 - i0, most = smaller(k, block_depth());
    // Sums of a panel between depths; one panel's worth is enough where there is one depth.
    const int64_t part_size = rows * (k > most ? round_up(j1 - j0, kWidth) : kWidth);
    const int64_t a_size = direct_a ? 0 : rows * most, b_size = lone() ? most * kWidth : 0;
    const Scratch scratch((b_size + part_size + a_size) * static_cast<int64_t>(sizeof(Acc)));
    Acc* fresh = lone() ? scratch.as<Acc>() : nullptr;
    Acc* parts = scratch.as<Acc>() + b_size;
    Acc* packed_a = parts + part_size;
    int64_t begin = 0;
    do {
      const int64_t depth = smaller(most, k - begin);
      if (!direct_a) pack_rows<T, Acc, kRows>(a, i0, i1, begin, depth, packed_a);
      for (int64_t j = j0; j < j1; j += kWidth)
        column(i0, i1, j, begin, depth, packed_a, parts + (k > most ? (j - j0) * rows : 0), fresh);
      begin += depth;
    } while (begin < k);
    if (epilogue.activation < Activation::gelu) return;
    for (int64_t i = i0; i < i1; ++i)
      activate_row<Acc>(c + i * ldc, epilogue.pre ? epilogue.pre + i * ldc : nullptr, j0, j1,
                        epilogue.activation);
  }

  void run(const CpuContext& ctx) {
    const int64_t panel_count = chunk_count(n, kWidth);
    const int64_t copies = lone() ? 0 : direct_b ? (n % kWidth ? 1 : 0) : panel_count;
    const Scratch scratch(copies * k * kWidth * static_cast<int64_t>(sizeof(Acc)));
    panels = scratch.as<Acc>();
    for_rows(ctx, copies, k * kWidth, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t j = (panel_count - copies + p) * kWidth;
        pack_columns(b, j, smaller(kWidth, n - j), k, kWidth, panels + p * k * kWidth);
      }
    });
    const int64_t cols = block_cols();
    const int64_t col_blocks = chunk_count(n, cols), row_blocks = chunk_count(m, kBlockRows);
    const int64_t work = smaller(m, kBlockRows) * smaller(n, cols) * (k + 1);
    for_chunks(ctx, row_blocks * col_blocks, 1 + kChunkWork / work,
               [&](int64_t begin, int64_t end, int64_t) {
                 for (int64_t at = begin; at < end; ++at) {
                   const int64_t i = at % row_blocks * kBlockRows, j = at / row_blocks * cols;
                   block(i, smaller(m, i + kBlockRows), j, smaller(n, j + cols));
                 }
               });
  }
};

template <class T, class Out, int Vectors>
__attribute__((noinline)) void run_product(const CpuContext& ctx, int64_t m, int64_t n, int64_t k,
                                           Strided<const T> a, Strided<const T> b, Out* c,
                                           int64_t ldc, const Epilogue<Out>& epilogue) {
  constexpr bool native = std::is_same_v<T, Accumulator<T>>;
  const bool direct_a = native && (a.col == 1 || m * k <= kDirectElements);
  const bool direct_b =
      native && b.col == 1 && (k * n <= kDirectElements || m <= kTileRows<Vectors>);
  Product<T, Out, Vectors>{m, n, k, a, b, c, ldc, epilogue, direct_a, direct_b}.run(ctx);
}

// Row i's sums through the epilogue to their place.
template <class Acc, class Out>
__attribute__((noinline)) void finish_row(const Acc* sums, int64_t count, Out* out, const Out* bias,
                                          const Epilogue<Out>& epilogue) {
  const bool relu = epilogue.activation == Activation::relu;
  for (int64_t x = 0; x < count; ++x) {
    Acc v = sums[x] + (epilogue.accumulate ? Acc(out[x]) : Acc(0));
    if (bias) v += Acc(bias[x]);
    out[x] = Out(relu ? formulas::Relu{}(v) : v);
  }
}

// A small result of a long sum (a weight gradient): k is cut on a grid that depends on k alone, and
// the partial results are added in the order of k.
template <class T, class Out>
void split_product(const CpuContext& ctx, int64_t m, int64_t n, int64_t k, Strided<const T> a,
                   Strided<const T> b, Out* c, int64_t ldc, const Epilogue<Out>& epilogue) {
  using Acc = Accumulator<T>;
  const int64_t splits = chunk_count(k, kSplitDepth);
  const Scratch scratch(splits * m * n * static_cast<int64_t>(sizeof(Acc)));
  Acc* parts = scratch.as<Acc>();
  for_chunks(ctx, splits, 1, [&](int64_t s, int64_t, int64_t) {
    const int64_t p = s * kSplitDepth;
    run_product<T, Acc, 2>(ctx, m, n, smaller(kSplitDepth, k - p), {&a(0, p), a.row, a.col},
                           {&b(p, 0), b.row, b.col}, parts + s * m * n, n, {});
  });
  for_rows(ctx, m, n * splits, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t i = begin; i < end; ++i) {
      Acc* sum = parts + i * n;
      for (int64_t s = 1; s < splits; ++s)
        for (int64_t j = 0; j < n; ++j) sum[j] += parts[s * m * n + i * n + j];
      finish_row(sum, n, c + i * ldc, epilogue.bias, epilogue);
      if (epilogue.activation >= Activation::gelu)
        activate_row<Acc>(c + i * ldc, epilogue.pre ? epilogue.pre + i * ldc : nullptr, 0, n,
                          epilogue.activation);
    }
  });
}

// Large products by oneDNN, one thread to a chunk of rows; bias and activation follow while the
// chunk is in cache. False when oneDNN is not there or does not do this one.
template <class T, class Out>
bool onednn_product(const CpuContext& ctx, int64_t m, int64_t n, int64_t k, Strided<const T> a,
                    Strided<const T> b, Out* c, int64_t ldc, const Epilogue<Out>& epilogue) {
  if (m < kOnednnRows || n < kOnednnLeast || k < kOnednnLeast) return false;
  if (!onednn::available(ctx.isa, dtype_of<T>)) return false;
  const bool plain = !epilogue.bias && epilogue.activation == Activation::none;
  const auto rows = [&](int64_t begin, int64_t end, int64_t) {
    const onednn::Product product{end - begin, n,     k,     dtype_of<T>, dtype_of<Out>,      a.row,
                                  a.col,       b.row, b.col, ldc,         epilogue.accumulate};
    const bool done = onednn::multiply(product, &a(begin, 0), b.data, c + begin * ldc);
    for (int64_t i = begin; done && !plain && i < end; ++i) {
      Out* y = c + i * ldc;
      if (epilogue.bias || epilogue.activation == Activation::relu)
        for (int64_t j = 0; j < n; ++j) {
          const Accumulator<T> v =
              Accumulator<T>(y[j]) + (epilogue.bias ? Accumulator<T>(epilogue.bias[j]) : 0);
          y[j] = Out(epilogue.activation == Activation::relu ? formulas::Relu{}(v) : v);
        }
      if (epilogue.activation >= Activation::gelu)
        activate_row<Accumulator<T>>(y, epilogue.pre ? epilogue.pre + i * ldc : nullptr, 0, n,
                                     epilogue.activation);
    }
    return done;
  };
  // The first chunk tells whether there is an implementation; the others follow on all threads.
  if (!rows(0, kOnednnRows, 0)) return false;
  for_chunks(ctx, m - kOnednnRows, kOnednnRows, [&](int64_t begin, int64_t end, int64_t) {
    rows(kOnednnRows + begin, kOnednnRows + end, 0);
  });
  return true;
}

}  // namespace

template <class T, class Out>
void gemm(const CpuContext& ctx, int64_t m, int64_t n, int64_t k, Strided<const T> a,
          Strided<const T> b, Out* c, int64_t ldc, const Epilogue<Out>& epilogue) {
  if (m == 0 || n == 0) return;
  constexpr bool narrow_pays = std::is_same_v<T, float>;
  if (k >= 2 * kSplitDepth && m <= 2 * kBlockRows && n <= kBlockCols)
    split_product(ctx, m, n, k, a, b, c, ldc, epilogue);
  else if (onednn_product(ctx, m, n, k, a, b, c, ldc, epilogue))
    return;
  else if (narrow_pays && n <= kLanes<float>)
    run_product<T, Out, narrow_pays ? 1 : 2>(ctx, m, n, k, a, b, c, ldc, epilogue);
  else
    run_product<T, Out, 2>(ctx, m, n, k, a, b, c, ldc, epilogue);
}

#define PINION_GEMM(T, Out)                                                                  \
  template void gemm<T, Out>(const CpuContext&, int64_t, int64_t, int64_t, Strided<const T>, \
                             Strided<const T>, Out*, int64_t, const Epilogue<Out>&);
PINION_GEMM(float, float)
PINION_GEMM(double, double)
PINION_GEMM(BFloat16, BFloat16)
PINION_GEMM(BFloat16, float)
PINION_GEMM(Half, Half)
PINION_GEMM(Half, float)
#undef PINION_GEMM

}  // namespace pinion::kernels::PINION_RUNG
