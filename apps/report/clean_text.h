// SPDX-License-Identifier: Apache-2.0
// Cleaning of raw reports: the rules of R2Gen to the letter, quirks included, so that vocabularies
// and published scores can be compared. What is left are lower-case words and " . " between
// sentences.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pinion::report {

enum class DatasetName : unsigned char { iu_xray, mimic_cxr };

std::string clean_report(std::string_view report, DatasetName dataset);

// The words between white space.
std::vector<std::string_view> words_of(std::string_view text);

}  // namespace pinion::report
