// SPDX-License-Identifier: Apache-2.0
// Binds flags to options.
#include "pinion/apps/report/decoding_flags.h"

#include <CLI/CLI.hpp>

#include "pinion/apps/common/flag_checks.h"

namespace pinion::report {

void DecodingFlags::add(CLI::App& app) {
  DecodingOptions& d = options;
  app.add_option("--sample_method", d.method, "beam_search, greedy, sample, gumbel, topK, top0.P");
  app.add_option("--beam_size", d.beam_size)->check(CLI::Range(1, 64));
  app.add_option("--temperature", d.temperature)->check(apps::positive());
  app.add_option("--sample_n", d.sample_n, "reports of each study; scored is the first")
      ->check(CLI::Range(1, 64));
  app.add_option("--group_size", d.group_size, "groups that avoid each other's words")
      ->check(CLI::Range(1, 64));
  app.add_option("--diversity_lambda", d.diversity_lambda, "what a word of an earlier group costs")
      ->check(apps::non_negative());
  app.add_option("--length_penalty", d.length_penalty, "of beam search: wu_A or avg");
  app.add_option("--decoding_constraint", d.decoding_constraint, "no word twice in a row");
  app.add_option("--block_trigrams", d.block_trigrams,
                 "words that would repeat three are less likely; not in beam search");
  app.add_option("--suppress_UNK", suppress_unknown, "never write <unk>");
}

DecodingOptions DecodingFlags::with(const Tokenizer& tokenizer) const {
  DecodingOptions out = options;
  out.forbidden = suppress_unknown ? tokenizer.id_of(Tokenizer::kUnknown) : 0;
  return out;
}

DecodingOptions DecodingFlags::over(const DecodingOptions& trained, const CLI::App& app,
                                    const Tokenizer& tokenizer) const {
  DecodingOptions out = trained;
  const auto given = [&](const char* name) { return app.count(std::string("--") + name) > 0; };
  each_flag(
      [&](const char* name, auto& to, const auto& from) {
        if (given(name)) to = from;
      },
      out, options);
  if (given("suppress_UNK")) out.forbidden = with(tokenizer).forbidden;
  return out;
}

}  // namespace pinion::report
