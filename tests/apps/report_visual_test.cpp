// SPDX-License-Identifier: Apache-2.0
// The visual extractors: their sizes and names, views that do not mix, and gradients.
#include <gmock/gmock.h>

#include "pinion/apps/report/visual_extractor.h"
#include "pinion/nn/init.h"
#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"

namespace pinion::report {
namespace {

Tensor noise(const Shape& shape) {
  Tensor x(shape);
  nn::init::normal(x);
  return x;
}

TEST(VisualExtractor, HasThePublishedSizes) {
  EXPECT_EQ(VisualExtractor("resnet101", 2).parameter_count(), 42'500'160);
  EXPECT_EQ(VisualExtractor("nano", 2).parameter_count(), 86'676);
  EXPECT_EQ(VisualExtractor("resnet18", 1).parameter_count(), 11'176'512);
}

TEST(VisualExtractor, TakesTorchvisionsNames) {
  EXPECT_EQ(name_from_torchvision("conv1.weight"), "model.0.weight");
  EXPECT_EQ(name_from_torchvision("bn1.running_var"), "model.1.running_var");
  EXPECT_EQ(name_from_torchvision("layer3.22.bn2.bias"), "model.6.22.bn2.bias");
  EXPECT_EQ(name_from_torchvision("fc.weight"), "");
  VisualExtractor extractor("resnet50", 2);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : extractor.state()) names.push_back(name);
  for (const char* name : {"layer1.0.downsample.1.num_batches_tracked", "layer4.2.conv3.weight"})
    EXPECT_THAT(names, testing::Contains(name_from_torchvision(name)));
  EXPECT_EQ(names.size(), 318U);  // torchvision's 320 without fc
}

TEST(VisualExtractor, TurnsEachViewIntoAStretchOfTheSequence) {
  VisualExtractor extractor("nano", 2);
  const Tensor images = noise({6, 64, 64, 1});  // 3 studies
  const Tensor y = extractor(images);
  EXPECT_EQ(y.shape(), (Shape{3, 32, 48}));

  // In training each view has its own statistics: other images in view 1 leave view 0 alone.
  const Tensor other = nn::concat({images.rows(0, 3), noise({3, 64, 64, 1})}, 0);
  const Tensor first = nn::slice(y, 1, 0, 16), first_again = nn::slice(extractor(other), 1, 0, 16);
  EXPECT_EQ(first.values<float>(), first_again.values<float>());
  const Tensor second = nn::slice(y, 1, 16, 32);
  EXPECT_NE(nn::slice(extractor(other), 1, 16, 32).values<float>(), second.values<float>());
}

TEST(VisualExtractor, TrainsEveryParameter) {
  for (const char* name : {"nano", "resnet18", "resnet50"}) {
    VisualExtractor extractor(name, 2);
    const Tensor y = extractor(noise({4, 64, 64, extractor.channels()}));
    EXPECT_EQ(y.size(2), extractor.width());
    backward(nn::sum(y * y));
    for (const auto& [parameter, tensor] : extractor.named_parameters())
      EXPECT_TRUE(tensor.grad().defined()) << name << " " << parameter;
  }
}

TEST(VisualExtractor, RefusesWhatItDoesNotKnow) {
  EXPECT_THROW(VisualExtractor("resnet7", 2), Error);
  EXPECT_THROW(VisualExtractor("nano", 2)(noise({3, 64, 64, 1})), Error);
  EXPECT_THROW(VisualExtractor("nano", 2)(noise({4, 32, 32, 1})), Error);
}

}  // namespace
}  // namespace pinion::report
