// SPDX-License-Identifier: Apache-2.0
// What kernels over images [N,H,W,C] take beside views: convolution and pooling windows, batch
// normalisation, and the index arithmetic that every device and the shape checks share.
#pragma once

#include "pinion/kernels/types.h"

namespace pinion::kernels {

// How filters [K,R,S,C] move over images: equal in both directions, zeros around the image.
struct Conv2d {
  int64_t stride = 1, padding = 0, dilation = 1;
};

// The extent of the result; 0 or less where the window does not fit.
PINION_INLINE int64_t window_count(int64_t in, int64_t window, int64_t stride, int64_t padding,
                                   int64_t dilation = 1) {
  const int64_t last = in + 2 * padding - dilation * (window - 1) - 1;
  return last < 0 ? 0 : last / stride + 1;
}

// A square window that moves over images. Window 0 is adaptive pooling (average only): result i of
// n covers [floor(i in / n), ceil((i + 1) in / n)).
struct Pool2d {
  int64_t window = 0, stride = 1, padding = 0;
};

struct Range {
  int64_t begin, end;
};

// The elements of [0, in) that result i of `out` covers.
PINION_INLINE Range covered_by(const Pool2d& p, int64_t i, int64_t in, int64_t out) {
  if (p.window == 0) return {i * in / out, ((i + 1) * in + out - 1) / out};
  const int64_t begin = i * p.stride - p.padding, end = begin + p.window;
  return {begin < 0 ? 0 : begin, end > in ? in : end};
}

// The results in [0, out) that cover element i.
PINION_INLINE Range covering(const Pool2d& p, int64_t i, int64_t in, int64_t out) {
  if (p.window == 0) return {i * out / in, ((i + 1) * out + in - 1) / in};
  const int64_t at = i + p.padding, end = at / p.stride + 1;
  return {at < p.window ? 0 : (at - p.window) / p.stride + 1, end > out ? out : end};
}

// How a batch is normalised; the statistics are of each of `groups` runs of consecutive images.
struct BatchNorm {
  int64_t groups = 1;
  double eps = 1e-5;      // added to the variance
  double momentum = 0.1;  // of the running statistics
  bool relu = false;      // y = max(0, ...), last of all
};

// What bytes of a colour image become: (byte / 255 - mean) / std for each of red, green and blue.
struct ColourScale {
  double mean[3] = {0, 0, 0}, std[3] = {1, 1, 1};
  PINION_INLINE double factor(int c) const { return 1 / (255 * std[c]); }
  PINION_INLINE double offset(int c) const { return -mean[c] / std[c]; }
};

}  // namespace pinion::kernels
