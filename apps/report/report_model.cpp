// SPDX-License-Identifier: Apache-2.0
// Puts the extractor before the encoder.
#include "pinion/apps/report/report_model.h"

namespace pinion::report {

namespace {

TransformerOptions with_features(TransformerOptions options, int64_t width) {
  options.d_vf = width;
  return options;
}

}  // namespace

ReportModel::ReportModel(const std::string& extractor, int64_t views, TransformerOptions options)
    : visual_extractor(extractor, views),
      encoder_decoder(with_features(options, visual_extractor.width())) {}

void ReportModel::fields(nn::Fields& f) {
  f("visual_extractor", visual_extractor);
  f("encoder_decoder", encoder_decoder);
}

}  // namespace pinion::report
