// SPDX-License-Identifier: Apache-2.0
// A report for machines (JSON), for a terminal (text), and for people (HTML, with bars).
#pragma once

#include <string>

#include "pinion/bench/dp_vs_ddp/matrix.h"

namespace pinion::bench {

std::string json_of(const Report& report);
std::string text_of(const Report& report);
std::string html_of(const Report& report);

}  // namespace pinion::bench
