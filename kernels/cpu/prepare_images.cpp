// SPDX-License-Identifier: Apache-2.0
// Crops, flips and scales bytes of colour images.
#include "pinion/kernels/cpu/rung.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::PINION_RUNG {

void prepare_images(const CpuContext& ctx, ConstView x, ConstView place, ColourScale s, View y) {
  const int64_t height = x.shape[1], width = x.shape[2];
  const int64_t h = y.shape[1], w = y.shape[2], channels = y.shape[3];
  const auto* bytes = x.as<uint8_t>();
  const auto* places = place.as<int32_t>();
  for_float(y.dtype, "prepare_images", [&]<class T>() {
    using A = Accumulator<T>;
    A factor[3], offset[3];
    for (int c = 0; c < 3; ++c)
      factor[c] = static_cast<A>(s.factor(c)), offset[c] = static_cast<A>(s.offset(c));
    T* const out = y.as<T>();
    for_rows(ctx, y.shape[0] * h, w * channels + 1, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t row = begin; row < end; ++row) {
        const int32_t* at = places + row / h * 3;
        const uint8_t* from = bytes + ((row / h * height + at[0] + row % h) * width + at[1]) * 3;
        T* to = out + row * w * channels;
        for (int64_t j = 0; j < w; ++j, to += channels) {
          const uint8_t* pixel = from + 3 * (at[2] ? w - 1 - j : j);
          for (int c = 0; c < 3; ++c) to[c] = T(static_cast<A>(pixel[c]) * factor[c] + offset[c]);
          for (int64_t c = 3; c < channels; ++c) to[c] = T(A(0));
        }
      }
    });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
