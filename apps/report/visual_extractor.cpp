// SPDX-License-Identifier: Apache-2.0
// The networks by name, their initial values, and the way from a grid to a sequence.
#include "pinion/apps/report/visual_extractor.h"

#include <array>
#include <cmath>

#include "pinion/nn/init.h"
#include "pinion/nn/ops.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

namespace {

struct Architecture {
  const char* name;
  std::array<int, 4> blocks;
  bool bottleneck;
};
constexpr Architecture kResNets[] = {
    {"resnet18", {2, 2, 2, 2}, false},  {"resnet34", {3, 4, 6, 3}, false},
    {"resnet50", {3, 4, 6, 3}, true},   {"resnet101", {3, 4, 23, 3}, true},
    {"resnet152", {3, 8, 36, 3}, true},
};

// Filters [K,R,S,C] from N(0, 2 / (K R S)): He et al. 2015, by what leaves the layer.
nn::Conv2d convolution(int64_t in, int64_t out, int64_t window, int64_t stride) {
  nn::Conv2d conv(in, out, window, {.stride = stride, .padding = window / 2}, false);
  nn::init::normal(conv.weight, 0, std::sqrt(2.0 / static_cast<double>(out * window * window)));
  return conv;
}

}  // namespace

ResidualBlock::ResidualBlock(int64_t in, int64_t out, int64_t stride, bool bottleneck) {
  const auto add = [&](int64_t from, int64_t to, int64_t window, int64_t step) {
    convs.push_back(convolution(from, to, window, step));
    norms.emplace_back(to);
  };
  if (bottleneck) {
    add(in, out / 4, 1, 1);
    add(out / 4, out / 4, 3, stride);
    add(out / 4, out, 1, 1);
  } else {
    add(in, out, 3, stride);
    add(out, out, 3, 1);
  }
  if (in == out && stride == 1) return;
  shortcut = convolution(in, out, 1, stride);
  shortcut_norm.emplace(out);
}

Tensor ResidualBlock::operator()(const Tensor& x, int64_t groups) const {
  Tensor y = x;
  for (size_t i = 0; i + 1 < convs.size(); ++i)
    y = norms[i](convs[i](y), {.groups = groups, .relu = true});
  const Tensor past = shortcut ? (*shortcut_norm)((*shortcut)(x), {.groups = groups}) : x;
  return norms.back()(convs.back()(y), {.groups = groups, .residual = past, .relu = true});
}

void ResidualBlock::fields(nn::Fields& f) {
  for (size_t i = 0; i < convs.size(); ++i) {
    f("conv" + std::to_string(i + 1), convs[i]);
    f("bn" + std::to_string(i + 1), norms[i]);
  }
  if (!shortcut) return;
  f("downsample.0", *shortcut);
  f("downsample.1", *shortcut_norm);
}

VisualExtractor::VisualExtractor(const std::string& name, int64_t views) : views_(views) {
  PINION_CHECK(views >= 1, "visual extractor: expected at least 1 view, got ", views);
  const auto stage = [&](int64_t in, int64_t out, int64_t stride, int blocks, bool bottleneck) {
    auto& list = stages_.emplace_back();
    for (int i = 0; i < blocks; ++i)
      list.emplace_back(i == 0 ? in : out, out, i == 0 ? stride : 1, bottleneck);
  };
  if (name == "nano") {
    width_ = 48, channels_ = 1, pooled_ = false;
    conv_ = convolution(1, 12, 5, 2);
    stage(12, 24, 2, 1, false);
    stage(24, 48, 2, 1, false);
    stage(48, 48, 2, 1, false);
    constexpr int64_t kPlaces = 16;  // 64 / 2^4, squared
    positions_ = nn::new_parameter({views, kPlaces, width_});
    nn::init::normal(positions_, 0, 0.02);
  } else {
    const Architecture* found = nullptr;
    for (const Architecture& a : kResNets)
      if (name == a.name) found = &a;
    PINION_REQUIRE(usage, found != nullptr,
                   "--visual_extractor: expected resnet18, resnet34, resnet50, resnet101, "
                   "resnet152 or nano, got ",
                   quoted(name));
    channels_ = 3, pooled_ = true;
    conv_ = convolution(3, 64, 7, 2);
    int64_t in = 64;
    for (int i = 0; i < 4; ++i) {
      const int64_t out = (found->bottleneck ? 256 : 64) << i;
      stage(in, out, i == 0 ? 1 : 2, found->blocks[static_cast<size_t>(i)], found->bottleneck);
      in = out;
    }
    width_ = in;
  }
  norm_.emplace(conv_->weight.size(0));
}

Tensor VisualExtractor::operator()(const Tensor& images) const {
  PINION_CHECK(images.rank() == 4 && images.size(3) == channels_ && images.size(0) % views_ == 0,
               "visual extractor: expected images [", views_, " B,H,W,", channels_, "], got ",
               images.shape());
  Tensor x = (*norm_)((*conv_)(images), {.groups = views_, .relu = true});
  if (pooled_) x = nn::max_pool2d(x, {.window = 3, .stride = 2, .padding = 1});
  for (const auto& blocks : stages_)
    for (const ResidualBlock& block : blocks) x = block(x, views_);

  const int64_t batch = images.size(0) / views_, places = x.size(1) * x.size(2);
  x = nn::transpose(nn::reshape(x, {views_, batch, places, width_}), 0, 1);
  if (positions_.defined()) {
    const int64_t row = views_ * places * width_;
    PINION_REQUIRE(usage, positions_.numel() == row,
                   "visual extractor nano: expected images of 64 x 64, got ", images.size(1), " x ",
                   images.size(2));
    x = nn::add_bias(nn::reshape(x, {batch, row}), nn::reshape(positions_, {row}));
  }
  return nn::reshape(x, {batch, views_ * places, width_});
}

void VisualExtractor::fields(nn::Fields& f) {
  f("model.0", *conv_);
  f("model.1", *norm_);
  for (size_t i = 0; i < stages_.size(); ++i) f("model." + std::to_string(i + 4), stages_[i]);
  f("positions", positions_);
}

std::string name_from_torchvision(const std::string& name) {
  if (name.starts_with("conv1.")) return "model.0." + name.substr(6);
  if (name.starts_with("bn1.")) return "model.1." + name.substr(4);
  if (!name.starts_with("layer") || name.size() < 7 || name[6] != '.') return {};
  return "model." + std::to_string(name[5] - '0' + 3) + name.substr(6);
}

}  // namespace pinion::report
