// SPDX-License-Identifier: Apache-2.0
// Draws synthetic chest films, frontal and lateral, of given findings: sums of soft ellipses, lines
// and domes of attenuation, seen through 255 (1 - exp(-1.6 A)). The patient's right is at the left
// of the frontal film.
#pragma once

#include <cstdint>
#include <vector>

#include "pinion/apps/report/findings.h"
#include "pinion/apps/report/image.h"

namespace pinion::report {

// Where a finding shows in a view, in parts of the image's side.
struct FindingBox {
  Attribute attribute;
  int view;  // 0 frontal, 1 lateral
  double left, top, right, bottom;
};

struct Study {
  Image frontal, lateral;
  std::vector<FindingBox> boxes;  // of the findings that are there, before the study's jitter
};

// A pure function of its arguments. Every part draws its own random numbers: a study that differs
// in one finding is the same film but for what shows it. With a mark, the frontal film has a metal
// square in an upper corner: 1 at the left, 2 at the right, 3 in both.
Study draw_study(const Findings& findings, int64_t size, uint64_t seed, uint32_t split,
                 uint64_t index, int mark = 0);

}  // namespace pinion::report
