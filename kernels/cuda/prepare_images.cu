// SPDX-License-Identifier: Apache-2.0
// Crops, flips and scales bytes of colour images: a thread has one pixel of the result.
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <class A>
struct Scale {
  A factor[3], offset[3];
};
struct Frame {
  int64_t height, width, h, w, channels;  // of x; of y
};

// N channels are stored at a time: 1, or all of a pixel.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) prepare(const uint8_t* x, const int32_t* place, Frame f,
                                                    int64_t pixels, Scale<Accumulator<T>> s, T* y) {
  using A = Accumulator<T>;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x; k < pixels; k += stride) {
    const int64_t j = k % f.w, i = k / f.w % f.h, n = k / (f.w * f.h);
    const int64_t top = place[n * 3], left = place[n * 3 + 1];
    const int64_t column = left + (place[n * 3 + 2] ? f.w - 1 - j : j);
    const uint8_t* pixel = x + ((n * f.height + top + i) * f.width + column) * 3;
    Pack<T, N> out{};
    T* to = y + k * f.channels;
    for (int c = 0; c < 3; ++c) {
      out.v[c % N] = T(static_cast<A>(pixel[c]) * s.factor[c] + s.offset[c]);
      if (N == 1) store_pack<N>(to + c, out);
    }
    if constexpr (N > 1) {
      store_pack<N>(to, out);
    } else {
      for (int64_t c = 3; c < f.channels; ++c) to[c] = T(A(0));
    }
  }
}

}  // namespace

void prepare_images(const CudaContext& ctx, ConstView x, ConstView place, ColourScale s, View y) {
  if (y.numel() == 0) return;
  const Frame f{x.shape[1], x.shape[2], y.shape[1], y.shape[2], y.shape[3]};
  const int64_t pixels = y.rows();
  for_float(y.dtype, "prepare_images", [&]<class T>() {
    using A = Accumulator<T>;
    Scale<A> scale;
    for (int c = 0; c < 3; ++c)
      scale.factor[c] = static_cast<A>(s.factor(c)), scale.offset[c] = static_cast<A>(s.offset(c));
    const auto run = [&](auto kernel) {
      launch(kernel, {blocks_for(pixels, kThreads), kThreads}, ctx, x.as<uint8_t>(),
             place.as<int32_t>(), f, pixels, scale, y.as<T>());
    };
    constexpr int N = 16 / static_cast<int>(sizeof(T));
    if constexpr (N >= 3)
      if (f.channels == N && reinterpret_cast<uintptr_t>(y.data) % 16 == 0)
        return run(prepare<T, N>);
    run(prepare<T, 1>);
  });
}

}  // namespace pinion::kernels::cuda
