// SPDX-License-Identifier: Apache-2.0
// What is trained: the models and batches of the benchmark's cells, equal for every scheme.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "pinion/nn/attention.h"
#include "pinion/nn/layers.h"

namespace pinion::bench {

// A model and a batch. Blocks of attention stand before the linear layers, if there are any.
struct Cell {
  std::string name, what;
  std::vector<int64_t> widths;                // features, hidden layers, classes
  int64_t blocks = 0, length = 0, heads = 0;  // samples are then [length, widths[0]]
  int64_t per_device = 1;                     // samples of a step on each device
  int steps_per_block = 1;                    // of which one time is taken
};
std::span<const Cell> cells();
const Cell& cell_named(const std::string& name);  // throws Error (usage) that lists the names
int64_t parameter_count(const Cell& cell);
int64_t largest_layer(const Cell& cell);  // parameters of the largest of Net::units()
int64_t classes_of(const Cell& cell);

// How a unit of the model is run: ZeRO 3 gathers it first.
using RunUnit = std::function<Tensor(nn::Module& unit, const std::function<Tensor()>& f)>;

// A layer of a transformer's encoder, normalised before each part. No biases where attention does
// not feel them: their gradient would be rounding alone.
struct Block final : nn::Module {
  nn::LayerNorm norm1, norm2;
  nn::MultiHeadAttention attention;
  nn::Linear up, down;

  Block(int64_t width, int64_t heads);
  Tensor operator()(const Tensor& x);  // [B,T,width]
  void fields(nn::Fields& f) override;
};

struct Net final : nn::Module {
  std::vector<Block> blocks;
  std::vector<nn::Linear> layers;

  explicit Net(const Cell& cell);
  // x [B,features] or [B,T,features], ids i64 [B] -> logits [B,classes]. Counts the samples it sees
  // and, in its first call on a thread, gives the thread its core.
  Tensor operator()(const Tensor& x, const Tensor& ids);
  Tensor forward(const Tensor& x, const Tensor& ids, const RunUnit& run);
  std::vector<nn::Module*> units();
  void fields(nn::Fields& f) override;
};

// The sum, modulo 2^64, of a hash of each sample that a Net of this process has seen: equal sums
// mean the same samples, in whatever order and by whichever device.
uint64_t samples_seen();

struct Batch {
  Tensor x, ids, y;
};
// Samples [begin, end) of each of `count` batches of `global` samples.
std::vector<Batch> make_batches(const Cell& cell, int64_t global, int64_t begin, int64_t end,
                                int count);

}  // namespace pinion::bench
