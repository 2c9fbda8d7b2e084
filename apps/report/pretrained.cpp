// SPDX-License-Identifier: Apache-2.0
#include "pinion/apps/report/pretrained.h"

#include "pinion/nn/weights.h"

namespace pinion::report {

void load_pretrained(VisualExtractor& extractor, const std::string& path) {
  const SafetensorsReader file(path);
  std::vector<nn::NamedTensor> found;
  for (const SafetensorsEntry& entry : file.entries()) {
    const std::string name = name_from_torchvision(entry.name);
    if (!name.empty()) found.push_back({name, file.load(entry)});
  }
  PINION_REQUIRE(checkpoint, !found.empty(), path,
                 ": expected torchvision's names (conv1.weight, layer1.0.conv1.weight, …), got ",
                 file.entries().empty() ? "no tensors" : file.entries().front().name);
  nn::load_file_tensors(extractor, found, path.c_str());
}

}  // namespace pinion::report
