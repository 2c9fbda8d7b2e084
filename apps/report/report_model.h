// SPDX-License-Identifier: Apache-2.0
// The whole generator: films in, scores of words out.
#pragma once

#include <string>

#include "pinion/apps/report/encoder_decoder.h"
#include "pinion/apps/report/visual_extractor.h"

namespace pinion::report {

struct ReportModel : nn::Module {
  VisualExtractor visual_extractor;
  EncoderDecoder encoder_decoder;

  // options.d_vf is taken from the extractor.
  ReportModel(const std::string& extractor, int64_t views, TransformerOptions options);
  // images [views * B,H,W,channels], view after view; ids and padding as EncoderDecoder takes them.
  Tensor operator()(const Tensor& images, const Tensor& ids, const Tensor& padding) {
    return encoder_decoder(visual_extractor(images), ids, padding);
  }
  void fields(nn::Fields& f) override;
};

}  // namespace pinion::report
