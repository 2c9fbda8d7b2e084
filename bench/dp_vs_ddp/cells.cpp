// SPDX-License-Identifier: Apache-2.0
// The cells' sizes, and the one model that all of them are made of.
#include "pinion/bench/dp_vs_ddp/cells.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "pinion/bench/dp_vs_ddp/machine.h"
#include "pinion/kernels/kernels.h"
#include "pinion/runtime/allocator.h"

namespace pinion::bench {
namespace {

std::atomic<uint64_t> seen{0};

uint64_t hash_of(uint64_t id) {  // splitmix64's finaliser (Steele et al. 2014)
  id += 0x9e3779b97f4a7c15;
  id = (id ^ (id >> 30)) * 0xbf58476d1ce4e5b9;
  id = (id ^ (id >> 27)) * 0x94d049bb133111eb;
  return id ^ (id >> 31);
}

void count_samples(const Tensor& ids) {
  uint64_t sum = 0;
  const auto* id = static_cast<const int64_t*>(ids.view().data);
  for (int64_t i = 0; i < ids.numel(); ++i) sum += hash_of(static_cast<uint64_t>(id[i]));
  seen.fetch_add(sum, std::memory_order_relaxed);
}

// In the order of Net::units().
std::vector<int64_t> unit_parameters(const Cell& cell) {
  const int64_t w = cell.widths[0];
  std::vector<int64_t> out(static_cast<size_t>(cell.blocks), 4 * w + 4 * w * w + 8 * w * w + 5 * w);
  for (size_t i = 1; i < cell.widths.size(); ++i)
    out.push_back((cell.widths[i - 1] + 1) * cell.widths[i]);
  return out;
}

}  // namespace

std::span<const Cell> cells() {
  static const std::vector<Cell> all = {
      {.name = "toy-mlp",
       .what = "MLP of 418 parameters: what a step costs besides arithmetic",
       .widths = {10, 32, 2},
       .per_device = 16,
       .steps_per_block = 20},
      {.name = "wide-mlp",
       .what = "wide layers, 2 samples a device: communication rules",
       .widths = {1024, 2048, 2048, 1024},
       .per_device = 2},
      {.name = "attention",
       .what = "two blocks of attention on 64 tokens: arithmetic rules",
       .widths = {128, 32},
       .blocks = 2,
       .length = 64,
       .heads = 4,
       .per_device = 8},
  };
  return all;
}

const Cell& cell_named(const std::string& name) {
  std::string names;
  for (const Cell& cell : cells()) {
    if (cell.name == name) return cell;
    names += (names.empty() ? "" : ", ") + cell.name;
  }
  fail(ErrorKind::usage, {"--cells: expected ", names, ", got ", name});
}

int64_t classes_of(const Cell& cell) { return cell.widths.back(); }

int64_t parameter_count(const Cell& cell) {
  const std::vector<int64_t> counts = unit_parameters(cell);
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

int64_t largest_layer(const Cell& cell) {
  const std::vector<int64_t> counts = unit_parameters(cell);
  return *std::max_element(counts.begin(), counts.end());
}

Block::Block(int64_t width, int64_t heads)
    : norm1(width),
      norm2(width),
      attention(width, heads, 0, false),
      up(width, 4 * width),
      down(4 * width, width) {}

Tensor Block::operator()(const Tensor& x) {
  const Tensor h = x + attention(norm1(x));
  return h + down(up(norm2(h), Activation::gelu));
}

void Block::fields(nn::Fields& f) {
  f("norm1", norm1);
  f("attention", attention);
  f("norm2", norm2);
  f("up", up);
  f("down", down);
}

Net::Net(const Cell& cell) {
  for (int64_t i = 0; i < cell.blocks; ++i) blocks.emplace_back(cell.widths[0], cell.heads);
  for (size_t i = 1; i < cell.widths.size(); ++i)
    layers.emplace_back(cell.widths[i - 1], cell.widths[i]);
}

Tensor Net::operator()(const Tensor& x, const Tensor& ids) {
  return forward(x, ids, [](nn::Module&, const std::function<Tensor()>& f) { return f(); });
}

Tensor Net::forward(const Tensor& x, const Tensor& ids, const RunUnit& run) {
  place_thread();
  count_samples(ids);
  Tensor h = x;
  for (Block& block : blocks) h = run(block, [&] { return block(h); });
  if (!blocks.empty()) h = nn::mean(h, 1);
  for (size_t i = 0; i < layers.size(); ++i)
    h = run(layers[i], [&] {
      return layers[i](h, i + 1 < layers.size() ? Activation::relu : Activation::none);
    });
  return h;
}

std::vector<nn::Module*> Net::units() {
  std::vector<nn::Module*> out;
  for (Block& block : blocks) out.push_back(&block);
  for (nn::Linear& layer : layers) out.push_back(&layer);
  return out;
}

void Net::fields(nn::Fields& f) {
  f("blocks", blocks);
  f("layers", layers);
}

uint64_t samples_seen() { return seen.load(); }

std::vector<Batch> make_batches(const Cell& cell, int64_t global, int64_t begin, int64_t end,
                                int count) {
  const MemoryTagScope tag(MemoryTag::data);
  const Shape shape =
      cell.blocks > 0 ? Shape{global, cell.length, cell.widths[0]} : Shape{global, cell.widths[0]};
  std::vector<Batch> out;
  for (int b = 0; b < count; ++b) {
    Tensor x(shape);
    on({}, [&](auto& ctx) {
      kernels::normal(ctx, x.mut(), {17, static_cast<uint32_t>(b), 0}, 0, 1);
    });
    std::vector<int64_t> ids, classes;
    for (int64_t i = begin; i < end; ++i) {
      ids.push_back(b * global + i);
      classes.push_back(ids.back() * 7919 % classes_of(cell));
    }
    out.push_back({x.rows(begin, end).clone(), Tensor::of(ids, {end - begin}),
                   Tensor::of(classes, {end - begin})});
  }
  return out;
}

}  // namespace pinion::bench
