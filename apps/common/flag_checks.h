// SPDX-License-Identifier: Apache-2.0
// Checks of numbers in flags, with messages in our words: CLI11's own print the limits of double.
#pragma once

#include <CLI/CLI.hpp>
#include <cmath>
#include <string>

namespace pinion::apps {

template <class Fits>
CLI::Validator number_check(const char* expected, const char* name, Fits fits) {
  const auto check = [=](const std::string& text) -> std::string {
    double value = 0;
    if (CLI::detail::lexical_cast(text, value) && std::isfinite(value) && fits(value)) return {};
    return std::string("expected ") + expected + ", got " + text;
  };
  return {check, name};
}

inline CLI::Validator positive() {
  return number_check("a number above 0", "POSITIVE", [](double value) { return value > 0; });
}
inline CLI::Validator non_negative() {
  return number_check("a number of at least 0", "NONNEGATIVE", [](double v) { return v >= 0; });
}

}  // namespace pinion::apps
