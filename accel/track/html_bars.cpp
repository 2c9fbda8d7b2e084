// SPDX-License-Identifier: Apache-2.0
// Horizontal bars as SVG: a name, a bar from zero, its value, and a whisker for its interval.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "pinion/accel/track/html_report.h"
#include "pinion/accel/track/text.h"

namespace pinion::accel {

namespace {

// Units of the drawing; the page scales it to the width there is.
constexpr double kWidth = 560, kRow = 26, kBar = 16;
constexpr double kLeft = 190, kRight = 68;  // room for names and values
constexpr size_t kNameColumns = 28;

}  // namespace

std::string svg_bars(const Bars& bars) {
  double most = 0;
  for (const Bar& b : bars.bars)
    for (const double v : {b.value, b.high})
      if (std::isfinite(v)) most = std::max(most, v);
  const auto width = [&](double v) {
    return std::isfinite(v) && v > 0 && most > 0 ? v / most * (kWidth - kLeft - kRight) : 0.0;
  };
  std::string out = fmt::format(
      "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" font-family=\"inherit\" "
      "font-size=\"12\">\n",
      kWidth, kRow * static_cast<double>(bars.bars.size()) + 4, html_escaped(bars.title));
  double y = 2;
  for (const Bar& b : bars.bars) {
    const double middle = y + kRow / 2;
    out += fmt::format(
        "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\" fill=\"var(--ink,#16202c)\">{}</text>\n"
        "<rect x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" rx=\"2\" "
        "fill=\"var(--s0,#2563eb)\"{}/>\n",
        kLeft - 8, middle + 4, html_escaped(clipped(b.name, kNameColumns)), kLeft,
        middle - kBar / 2, width(b.value), kBar, b.faded ? " fill-opacity=\"0.45\"" : "");
    if (b.low < b.high)
      out += fmt::format(
          "<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"var(--ink,#16202c)\" stroke-width=\"2\"/>\n",
          kLeft + width(b.low), middle, kLeft + width(b.high));
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"var(--soft,#5b6776)\">{}</text>\n",
                       kLeft + std::max(width(b.value), width(b.high)) + 6, middle + 4,
                       short_number(b.value));
    y += kRow;
  }
  return out + "</svg>\n";
}

}  // namespace pinion::accel
