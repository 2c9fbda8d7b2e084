// SPDX-License-Identifier: Apache-2.0
// What looks at the images: a residual network (He et al. 2016) without its last pooling and
// classifier, whose grid of features becomes a sequence, view after view.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "pinion/nn/layers_image.h"

namespace pinion::report {

// Two 3x3 convolutions, or 1x1, 3x3 and 1x1 with a quarter of the channels within (bottleneck); the
// stride is that of the (first) 3x3. What came in is added before the last ReLU.
struct ResidualBlock : nn::Module {
  std::vector<nn::Conv2d> convs;
  std::vector<nn::BatchNorm2d> norms;
  std::optional<nn::Conv2d> shortcut;  // where shape or channels change
  std::optional<nn::BatchNorm2d> shortcut_norm;

  ResidualBlock(int64_t in, int64_t out, int64_t stride, bool bottleneck);
  Tensor operator()(const Tensor& x, int64_t groups) const;  // [N,H,W,in] -> [N,h,w,out]
  void fields(nn::Fields& f) override;
};

class VisualExtractor : public nn::Module {
 public:
  // "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", or "nano": a network of 86,676
  // parameters for grey images of 64 x 64, with a learned table of positions. Throws Error (usage)
  // for another name.
  VisualExtractor(const std::string& name, int64_t views);

  int64_t width() const { return width_; }        // features of a place
  int64_t channels() const { return channels_; }  // of an image: 3, or 1
  // images [views * B,H,W,channels], all of one view before all of the next, -> [B, views * P,
  // width]. Each view is normalised by its own statistics, as in as many passes.
  Tensor operator()(const Tensor& images) const;
  // Under "model." the numbers of R2Gen's checkpoints: 0 and 1 the first convolution and its norm,
  // 4 to 7 the stages.
  void fields(nn::Fields& f) override;

 private:
  int64_t views_, width_, channels_;
  std::optional<nn::Conv2d> conv_;
  std::optional<nn::BatchNorm2d> norm_;
  bool pooled_;
  std::vector<std::vector<ResidualBlock>> stages_;
  Tensor positions_;  // [views, P, width], or undefined
};

// The name in a R2Gen checkpoint ("model.4.0.conv1.weight") of what torchvision calls
// "layer1.0.conv1.weight"; empty for what the extractor does not have: "fc.weight".
std::string name_from_torchvision(const std::string& name);

}  // namespace pinion::report
