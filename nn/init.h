// SPDX-License-Identifier: Apache-2.0
// Seeds, and the initial values of parameters by PyTorch's rules. All numbers are draws of Philox
// keyed by (seed, stream, step 0): they depend on neither device nor thread count, and agree with
// PyTorch's in distribution, not in bits.
#pragma once

#include <cstdint>

#include "pinion/runtime/tensor.h"

namespace pinion {

// Sets the seed of the process (0 before the first call) and restarts every count of streams.
void manual_seed(uint64_t seed);
uint64_t random_seed();

// What a stream is for. Each use counts its streams separately, so that adding a dropout layer to a
// model does not change its initial weights. The use is in the upper bits of the stream's number.
enum class StreamUse : uint8_t { init, noise, data };
// The next stream: streams are handed out in the order of the calls (that is, of construction), per
// thread, so that ranks that are threads of one process build equal models.
uint32_t next_stream(StreamUse use);

// All there is to say about random numbers to come, for checkpoints: the seed of the process, and
// how many streams of each use this thread has handed out.
struct RandomState {
  uint64_t seed = 0;
  uint32_t streams[3] = {};
};
RandomState random_state();
void set_random_state(const RandomState& state);  // of this thread; the seed of all

namespace nn {
// An f32 leaf on the CPU that asks for gradients, without values yet, in the books of parameters.
Tensor new_parameter(const Shape& shape);
}  // namespace nn

namespace nn::init {

// Each function fills a floating tensor, whatever it held; 16-bit types are drawn in f32 and
// rounded.
void constant(Tensor& t, double value);
inline void zeros(Tensor& t) { constant(t, 0); }
inline void ones(Tensor& t) { constant(t, 1); }
void uniform(Tensor& t, double low, double high);
void normal(Tensor& t, double mean = 0, double std = 1);
// A normal distribution without what falls outside [low, high].
void trunc_normal(Tensor& t, double mean = 0, double std = 1, double low = -2, double high = 2);

// Inputs and outputs of one element of a weight [out, in, ...]: both times the extents that follow.
struct Fans {
  int64_t in, out;
};
Fans fans_of(const Shape& shape);

enum class FanMode : uint8_t { in, out };
enum class Nonlinearity : uint8_t { linear, sigmoid, tanh, relu, leaky_relu };
double gain_of(Nonlinearity f, double slope = 0.01);  // slope: of leaky_relu below zero

void xavier_uniform(Tensor& t, double gain = 1);  // +-gain sqrt(6 / (in + out))
void xavier_normal(Tensor& t, double gain = 1);   // std gain sqrt(2 / (in + out))
void kaiming_uniform(Tensor& t, double slope = 0, FanMode mode = FanMode::in,
                     Nonlinearity f = Nonlinearity::leaky_relu);  // +-gain sqrt(3 / fan)
void kaiming_normal(Tensor& t, double slope = 0, FanMode mode = FanMode::in,
                    Nonlinearity f = Nonlinearity::leaky_relu);  // std gain / sqrt(fan)

}  // namespace nn::init
}  // namespace pinion
