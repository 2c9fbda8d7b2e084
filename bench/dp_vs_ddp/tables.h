// SPDX-License-Identifier: Apache-2.0
// The tables that the text and the HTML page share, and the sentences around them.
#pragma once

#include <string>
#include <vector>

#include "pinion/accel/track/html_report.h"
#include "pinion/bench/dp_vs_ddp/matrix.h"

namespace pinion::bench {

// Sentences that every reader needs: what the figures are, and what gives what.
std::vector<std::string> notes(const Report& report);

accel::Table gate_table(const Report& report);
accel::Table speed_table(const Report& report, const std::string& cell, int devices);
accel::Table memory_table(const Report& report, const std::string& cell, int devices);
accel::Table model_table(const Report& report, const std::string& cell);
// Speed, memory and ease of DataParallel, DDP by hand, Accelerator and ZeRO: ranges over the cells.
accel::Table summary_table(const Report& report);
// What the benchmark is meant to show, and whether it did.
accel::Table target_table(const Report& report);

}  // namespace pinion::bench
