// SPDX-License-Identifier: Apache-2.0
// Weights that torchvision trained on ImageNet, into our extractor.
#pragma once

#include <string>

#include "pinion/apps/report/visual_extractor.h"

namespace pinion::report {

// Reads a safetensors file of a network of torchvision's, under its names; the classifier (fc) is
// left out. Such a file is made of what torchvision downloads by
//   safetensors.torch.save_file(torchvision.models.resnet101(weights="DEFAULT").state_dict(), path)
// Throws Error (checkpoint) for tensors that are missing or do not fit, with file and name.
void load_pretrained(VisualExtractor& extractor, const std::string& path);

}  // namespace pinion::report
