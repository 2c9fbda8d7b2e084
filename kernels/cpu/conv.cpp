// SPDX-License-Identifier: Apache-2.0
// Convolutions of [N,H,W,C] images with [K,R,S,C] filters. f32 goes to oneDNN where it is there,
// image by image in chunks of our pool, and the 16-bit types by way of f32 copies of one image.
// Everything else is a matrix product with patches of the images (Chellapilla, Puri & Simard 2006),
// laid out for a block of pixels at a time.
#include "pinion/kernels/cpu/gemm.h"
#include "pinion/kernels/cpu/map.h"
#include "pinion/kernels/cpu/onednn.h"
#include "pinion/kernels/cpu/onednn_conv.h"
#include "pinion/kernels/cpu/row.h"
#include "pinion/kernels/cpu/scratch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

using onednn::Convolution;
using onednn::ConvPass;

constexpr int64_t kPatchElements = 1 << 19;  // of a block of pixels, about 2 MiB of f32
constexpr int64_t kNearElements = 1 << 16;   // a quarter MiB: L2 holds the patches and their sums
constexpr int64_t kLeastPixels = 128;        // of a block: packing the filters must pay
constexpr int64_t kChunkWork = 1 << 22;      // multiply-adds worth a chunk of their own, 80 us
constexpr int64_t kParts = 16;               // partial weight gradients, at most
constexpr int64_t kPartElements = 1 << 24;   // of all of them together, 64 MiB of f32

struct Problem {
  int64_t n, h, w, c, k, r, s, p, q;
  Conv2d window;

  Problem(const Shape& x, const Shape& filters, const Shape& y, const Conv2d& move)
      : n(x[0]),
        h(x[1]),
        w(x[2]),
        c(x[3]),
        k(filters[0]),
        r(filters[1]),
        s(filters[2]),
        p(y[1]),
        q(y[2]),
        window(move) {}
  int64_t pixels() const { return n * p * q; }
  int64_t depth() const { return r * s * c; }
  int64_t image() const { return h * w * c; }
  int64_t result() const { return p * q * k; }
  int64_t filters() const { return k * depth(); }
  // A 1x1 window that moves by one sees the image as it is.
  bool plain() const { return r * s * window.stride == 1 && window.padding == 0; }
  bool empty() const { return n * image() * result() * filters() == 0; }
  int64_t block_pixels(int64_t elements = kPatchElements) const {
    return larger(kLeastPixels, elements / larger(depth(), int64_t{1}));
  }
  Convolution pass(ConvPass which, int64_t images) const {
    return {which, images, h, w, c, k, r, s, p, q, window};
  }
};

// f(patch, pixel) for the c elements of x at filter position (r, s) of pixels [begin, end), in the
// order [pixel, r, s]; a null pointer where the window is outside the image.
template <class T, class F>
PINION_INLINE void for_patches(const Problem& m, T* x, int64_t begin, int64_t end, F f) {
  for (int64_t at = begin; at < end; ++at) {
    const int64_t n = at / (m.p * m.q), p = at / m.q % m.p, q = at % m.q;
    for (int64_t r = 0; r < m.r; ++r) {
      const int64_t i = p * m.window.stride - m.window.padding + r * m.window.dilation;
      const bool inside = i >= 0 && i < m.h;
      for (int64_t s = 0; s < m.s; ++s) {
        const int64_t j = q * m.window.stride - m.window.padding + s * m.window.dilation;
        f(inside && j >= 0 && j < m.w ? x + ((n * m.h + i) * m.w + j) * m.c : nullptr);
      }
    }
  }
}

// Patches of pixels [begin, end) as rows of depth() elements.
template <class T>
__attribute__((noinline)) void take_patches(const Problem& m, const T* x, int64_t begin,
                                            int64_t end, T* out) {
  for_patches(
      m, x, begin, end, [&](const T* patch) __attribute__((always_inline)) {
        if (patch)
          copy_words(patch, m.c, out);
        else
          for (int64_t i = 0; i < m.c; ++i) out[i] = T(0.0f);
        out += m.c;
      });
}

// x += the patches, in their order.
template <class A>
__attribute__((noinline)) void add_patches(const Problem& m, const A* patches, int64_t begin,
                                           int64_t end, A* x) {
  for_patches(
      m, x, begin, end, [&](A * patch) __attribute__((always_inline)) {
        if (patch)
          for (int64_t i = 0; i < m.c; ++i) patch[i] += patches[i];
        patches += m.c;
      });
}

// --- own path
// -------------------------------------------------------------------------------------

template <class T>
void forward(const CpuContext& ctx, const Problem& m, const T* x, const T* w, T* y) {
  const int64_t depth = m.depth();
  const auto block = [&](int64_t begin, int64_t end, int64_t) {
    const Scratch scratch(m.plain() ? 0 : (end - begin) * depth * int64_t{sizeof(T)});
    const T* rows = m.plain() ? x + begin * depth : scratch.as<T>();
    if (!m.plain()) take_patches(m, x, begin, end, scratch.as<T>());
    gemm<T, T>(ctx, end - begin, m.k, depth, {rows, depth, 1}, {w, 1, depth}, y + begin * m.k, m.k);
  };
  for_chunks(ctx, m.pixels(), m.block_pixels(), block);
}

// Images are independent; within one, patches are added in their order.
template <class T>
void backward_input(const CpuContext& ctx, const Problem& m, const T* w, const T* dy, T* dx) {
  using A = Accumulator<T>;
  const int64_t depth = m.depth(), pixels = m.p * m.q, most = smaller(pixels, m.block_pixels());
  Problem one = m;
  one.n = 1;
  for_chunks(ctx, m.n, 1, [&](int64_t n, int64_t, int64_t) {
    constexpr bool kNarrow = sizeof(T) < sizeof(A);
    const Scratch scratch((most * depth + (kNarrow ? m.image() : 0)) * int64_t{sizeof(A)});
    A* patches = scratch.as<A>();
    T* out = dx + n * m.image();
    A* sums = patches + most * depth;
    if constexpr (!kNarrow) sums = out;
    for (int64_t i = 0; i < m.image(); ++i) sums[i] = 0;
    for (int64_t begin = 0; begin < pixels; begin += most) {
      const int64_t end = smaller(pixels, begin + most);
      gemm<T, A>(ctx, end - begin, depth, m.k, {dy + (n * pixels + begin) * m.k, m.k, 1},
                 {w, depth, 1}, patches, depth);
      add_patches(one, patches, begin, end, sums);
    }
    if constexpr (kNarrow)
      map_range(
          m.image(), false, [](Vec<float> v) { return v; }, out, static_cast<const float*>(sums));
  });
}

// dw = the sum of `parts` blocks in their order.
template <class T>
void add_parts(const CpuContext& ctx, Accumulator<T>* blocks, int64_t parts, int64_t size, T* dw) {
  for_rows(ctx, size, parts, [=](int64_t begin, int64_t end, int64_t) {
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t i = begin; i < end; ++i) blocks[i] += blocks[part * size + i];
    for (int64_t i = begin; i < end; ++i) dw[i] = T(blocks[i]);
  });
}

// How many pieces, of `pieces` at most, to take a weight gradient of that size in.
PINION_INLINE int64_t part_count(int64_t pieces, int64_t size) {
  return larger(int64_t{1}, smaller(pieces, smaller(kParts, kPartElements / size)));
}

template <class T>
void backward_weight(const CpuContext& ctx, const Problem& m, const T* x, const T* dy, T* dw) {
  using A = Accumulator<T>;
  const int64_t depth = m.depth(), size = m.filters();
  const int64_t block = m.block_pixels(size <= kNearElements ? kNearElements : kPatchElements);
  const int64_t blocks = chunk_count(m.pixels(), block);
  const int64_t grain = chunk_count(blocks, part_count(blocks, size)) * block;
  const int64_t parts = chunk_count(m.pixels(), grain);
  const Scratch sums(parts * size * int64_t{sizeof(A)});
  for_chunks(ctx, m.pixels(), grain, [&](int64_t first, int64_t last, int64_t part) {
    const int64_t most = smaller(block, last - first);
    const Scratch scratch(m.plain() ? 0 : most * depth * int64_t{sizeof(T)});
    Epilogue<A> epilogue;
    for (int64_t begin = first; begin < last; begin += block) {
      const int64_t end = smaller(last, begin + block);
      const T* rows = m.plain() ? x + begin * depth : scratch.as<T>();
      if (!m.plain()) take_patches(m, x, begin, end, scratch.as<T>());
      gemm<T, A>(ctx, m.k, depth, end - begin, {dy + begin * m.k, 1, m.k}, {rows, depth, 1},
                 sums.as<A>() + part * size, depth, epilogue);
      epilogue.accumulate = true;
    }
  });
  add_parts(ctx, sums.as<A>(), parts, size, dw);
}

// --- by oneDNN
// ------------------------------------------------------------------------------------

// n elements as floats: where they lie, or widened into `room`.
template <class T>
PINION_INLINE const float* as_floats(const T* x, int64_t n, float* room) {
  if constexpr (std::is_same_v<T, float>)
    return x;
  else {
    map_range(
        n, false, [](Vec<float> v) { return v; }, room, x);
    return room;
  }
}
template <class T>
PINION_INLINE void round_floats(const float* x, int64_t n, T* y) {
  map_range(
      n, false, [](Vec<float> v) { return v; }, y, x);
}
template <class T>
constexpr int64_t room_for(int64_t n) {
  return std::is_same_v<T, float> ? 0 : (n + 15) / 16 * 16;
}

// Where products with patches were measured to be faster than the kernels that oneDNN 2.6 has for
// AVX2: there it loses half of the speed of large windows with a stride, or on large images, and
// a third of that of their weight gradients. With few channels patches are all overhead.
PINION_INLINE bool patches_are_faster(const CpuContext& ctx, const Problem& m, ConvPass pass) {
  if (ctx.isa >= Isa::avx512 || m.r * m.s == 1) return false;
  if (pass == ConvPass::forward) return m.c >= 16 && (m.window.stride > 1 || m.p * m.q > 1024);
  return pass == ConvPass::weight_gradient && m.c >= 32;
}

// Floats of packed filters; 0 where oneDNN is not to be used.
template <class T>
PINION_INLINE int64_t packed_size(const CpuContext& ctx, const Problem& m, ConvPass pass) {
  if (std::is_same_v<T, double> || !onednn::available(ctx.isa, DType::f32)) return 0;
  return patches_are_faster(ctx, m, pass) ? 0 : onednn::packed_size(m.pass(pass, 1));
}

// y from x, or dx from dy: chunks of images, with the filters packed once.
template <class T>
void convolve_images(const CpuContext& ctx, const Problem& m, ConvPass pass, int64_t packed_floats,
                     const T* in, const T* w, T* out) {
  const bool forward = pass == ConvPass::forward;
  const int64_t in_size = forward ? m.image() : m.result();
  const int64_t out_size = forward ? m.result() : m.image();
  const Scratch scratch((packed_floats + room_for<T>(m.filters())) * int64_t{sizeof(float)});
  float* packed = scratch.as<float>();
  onednn::pack(m.pass(pass, 1), as_floats(w, m.filters(), packed + packed_floats), packed);
  const int64_t grain = 1 + kChunkWork / (m.result() * m.depth());
  for_chunks(ctx, m.n, grain, [&](int64_t begin, int64_t end, int64_t) {
    const int64_t n = end - begin, in_room = room_for<T>(n * in_size);
    const Scratch room((in_room + room_for<T>(n * out_size)) * int64_t{sizeof(float)});
    const float* from = as_floats(in + begin * in_size, n * in_size, room.as<float>());
    float* to = room.as<float>() + in_room;
    if constexpr (std::is_same_v<T, float>) to = out + begin * out_size;
    onednn::convolve(m.pass(pass, n), forward ? from : to, packed, forward ? to : from);
    if constexpr (!std::is_same_v<T, float>) round_floats(to, n * out_size, out + begin * out_size);
  });
}

template <class T>
void weight_gradient(const CpuContext& ctx, const Problem& m, int64_t packed_floats, const T* x,
                     const T* dy, T* dw) {
  const int64_t grain = chunk_count(m.n, part_count(m.n, packed_floats));
  const int64_t parts = chunk_count(m.n, grain), size = m.filters();
  const Scratch sums((parts * packed_floats + room_for<T>(size)) * int64_t{sizeof(float)});
  float* packed = sums.as<float>();
  for_chunks(ctx, m.n, grain, [&](int64_t begin, int64_t end, int64_t part) {
    const int64_t n = end - begin, x_room = room_for<T>(n * m.image());
    const Scratch room((x_room + room_for<T>(n * m.result())) * int64_t{sizeof(float)});
    onednn::convolve(m.pass(ConvPass::weight_gradient, n),
                     as_floats(x + begin * m.image(), n * m.image(), room.as<float>()),
                     packed + part * packed_floats,
                     as_floats(dy + begin * m.result(), n * m.result(), room.as<float>() + x_room));
  });
  if (parts > 1) add_parts(ctx, packed, parts, packed_floats, packed);
  float* plain = packed + parts * packed_floats;
  if constexpr (std::is_same_v<T, float>) plain = dw;
  onednn::unpack(m.pass(ConvPass::weight_gradient, 1), packed, plain);
  if constexpr (!std::is_same_v<T, float>) round_floats(plain, size, dw);
}

// Nothing to sum over: zeros.
void clear(const CpuContext& ctx, View y) {
  if (y.numel() > 0) fill(ctx, y, 0);
}

}  // namespace

void conv2d_forward(const CpuContext& ctx, ConstView x, ConstView w, Conv2d c, View y) {
  const Problem m(x.shape, w.shape, y.shape, c);
  if (m.empty()) return clear(ctx, y);
  for_float(x.dtype, "conv2d_forward", [&]<class T>() {
    const int64_t packed = packed_size<T>(ctx, m, ConvPass::forward);
    if constexpr (!std::is_same_v<T, double>)
      if (packed > 0)
        return convolve_images(ctx, m, ConvPass::forward, packed, x.as<T>(), w.as<T>(), y.as<T>());
    forward(ctx, m, x.as<T>(), w.as<T>(), y.as<T>());
  });
}

void conv2d_backward_input(const CpuContext& ctx, ConstView w, ConstView dy, Conv2d c, View dx) {
  const Problem m(dx.shape, w.shape, dy.shape, c);
  if (m.empty()) return clear(ctx, dx);
  for_float(dx.dtype, "conv2d_backward_input", [&]<class T>() {
    const int64_t packed = packed_size<T>(ctx, m, ConvPass::input_gradient);
    if constexpr (!std::is_same_v<T, double>)
      if (packed > 0)
        return convolve_images(ctx, m, ConvPass::input_gradient, packed, dy.as<T>(), w.as<T>(),
                               dx.as<T>());
    backward_input(ctx, m, w.as<T>(), dy.as<T>(), dx.as<T>());
  });
}

void conv2d_backward_weight(const CpuContext& ctx, ConstView x, ConstView dy, Conv2d c, View dw) {
  const Problem m(x.shape, dw.shape, dy.shape, c);
  if (m.empty()) return clear(ctx, dw);
  for_float(dw.dtype, "conv2d_backward_weight", [&]<class T>() {
    const int64_t packed = packed_size<T>(ctx, m, ConvPass::weight_gradient);
    if constexpr (!std::is_same_v<T, double>)
      if (packed > 0) return weight_gradient(ctx, m, packed, x.as<T>(), dy.as<T>(), dw.as<T>());
    backward_weight(ctx, m, x.as<T>(), dy.as<T>(), dw.as<T>());
  });
}

}  // namespace pinion::kernels::PINION_RUNG
