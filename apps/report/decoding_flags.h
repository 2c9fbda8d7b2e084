// SPDX-License-Identifier: Apache-2.0
// The flags of decoding, the same for training, eval and generate.
#pragma once

#include "pinion/apps/report/decoding.h"
#include "pinion/apps/report/tokenizer.h"

namespace CLI {
class App;
}

namespace pinion::report {

struct DecodingFlags {
  DecodingOptions options;
  bool suppress_unknown = false;

  // The names and defaults are those of R2Gen.
  void add(CLI::App& app);
  // What to decode with: the flags that were given to the parsed app, the trained model's settings
  // for the others.
  DecodingOptions over(const DecodingOptions& trained, const CLI::App& app,
                       const Tokenizer& tokenizer) const;
  // The same of flags alone.
  DecodingOptions with(const Tokenizer& tokenizer) const;
};

}  // namespace pinion::report
