// SPDX-License-Identifier: Apache-2.0
// oneDNN's convolutions of f32 images, one thread at a time. Filters go through an order of
// oneDNN's own, into which they are packed once for all the images of a call.
#pragma once

#include "pinion/kernels/image.h"

namespace pinion::kernels::onednn {

enum class ConvPass : uint8_t { forward, input_gradient, weight_gradient };

// A pass over `images` images: x or dx [images,h,w,c], filters [k,r,s,c], y or dy [images,p,q,k].
struct Convolution {
  ConvPass pass;
  int64_t images, h, w, c, k, r, s, p, q;
  Conv2d window;
  bool operator==(const Convolution& o) const {
    return pass == o.pass && images == o.images && h == o.h && w == o.w && c == o.c && k == o.k &&
           r == o.r && s == o.s && window.stride == o.window.stride &&
           window.padding == o.window.padding && window.dilation == o.window.dilation;
  }
};

// The floats that packed filters take, a function of all but `images`. 0: oneDNN has no
// implementation that is worth using. Call it only where available() in onednn.h is true.
int64_t packed_size(const Convolution& shape);
void pack(const Convolution& shape, const float* filters, float* packed);
void unpack(const Convolution& shape, const float* packed, float* filters);

// On the calling thread: y from x and packed filters, dx from dy and packed filters, or packed
// filter gradients from x and dy. What is computed is written, the rest read.
void convolve(const Convolution& shape, const float* x, const float* packed, const float* y);

}  // namespace pinion::kernels::onednn
