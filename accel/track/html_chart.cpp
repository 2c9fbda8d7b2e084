// SPDX-License-Identifier: Apache-2.0
// Line charts as SVG: axes with round ticks, a legend, and the last and best point of each series.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "pinion/accel/track/html_report.h"
#include "pinion/accel/track/text.h"

namespace pinion::accel {

namespace {

// Units of the drawing; the page scales it to the width there is.
constexpr double kWidth = 560, kHeight = 320;
constexpr double kLeft = 58, kRight = 22, kTop = 34, kBottom = 44;  // margins around the plot
constexpr int kXTicks = 8, kYTicks = 6;
constexpr size_t kMostMarked = 40;   // points; longer series are drawn without markers
constexpr size_t kMostDrawn = 2000;  // points of a path; longer series are thinned
constexpr int kColors = 6;
constexpr double kLetter = 6.6;  // width of a character at 12 units
// For readers without the page's style sheet.
constexpr std::array<const char*, kColors> kFallback = {"#2563eb", "#e0681a", "#0f9d76",
                                                        "#b8369c", "#7a6a00", "#64748b"};

struct Span {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void add(double v) {
    if (!std::isfinite(v)) return;
    low = std::min(low, v), high = std::max(high, v);
  }
  bool empty() const { return low > high; }
};

struct Axis {
  double low = 0, high = 1;
  std::vector<double> ticks;
  double share(double v) const { return (v - low) / (high - low); }
};

Axis axis_for(Span span, int wanted, bool widen_to_ticks) {
  if (span.empty()) span.low = 0, span.high = 1;
  // A flat line, or one whose extent is lost in rounding, stands in the middle.
  const double size = std::max(std::fabs(span.low), std::fabs(span.high));
  if (span.high - span.low <= size * 1e-9)
    span.low -= size > 0 ? size * 0.1 : 1, span.high += size > 0 ? size * 0.1 : 1;
  Axis axis{span.low, span.high, axis_ticks(span.low, span.high, wanted)};
  if (widen_to_ticks && axis.ticks.size() >= 2) {
    axis.low = std::min(axis.low, axis.ticks.front());
    axis.high = std::max(axis.high, axis.ticks.back());
  } else {
    std::erase_if(axis.ticks, [&](double t) { return t < axis.low || t > axis.high; });
  }
  return axis;
}

std::string value_text(double v, bool percent) {
  return percent ? fmt::format("{:.1f} %", 100 * v) : short_number(v);
}

class Plot {
 public:
  explicit Plot(const Chart& chart) : chart_(chart) {
    Span x, y;
    for (const Series& s : chart.series)
      for (size_t i = 0; i < points(s); ++i)
        if (std::isfinite(s.y[i])) x.add(s.x[i]), y.add(s.y[i]);
    x_ = axis_for(x, kXTicks, false);
    if (whole_numbers()) std::erase_if(x_.ticks, [](double t) { return t != std::floor(t); });
    y_ = axis_for(y, kYTicks, true);
    if (chart.percent) y_.high = std::min(y_.high, std::max(1.0, y.empty() ? 1.0 : y.high));
  }

  std::string svg() {
    out_ = fmt::format(
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" font-family=\"inherit\" "
        "font-size=\"12\">\n",
        kWidth, kHeight, html_escaped(chart_.title));
    axes();
    legend();
    for (size_t s = 0; s < chart_.series.size(); ++s) series(chart_.series[s], s);
    return out_ + "</svg>\n";
  }

 private:
  // Epochs and steps: a tick between two of them would mean nothing.
  bool whole_numbers() const {
    for (const Series& s : chart_.series)
      for (const double x : s.x)
        if (x != std::floor(x)) return false;
    return true;
  }
  static size_t points(const Series& s) { return std::min(s.x.size(), s.y.size()); }
  double px(double x) const { return kLeft + x_.share(x) * (kWidth - kLeft - kRight); }
  double py(double y) const { return kHeight - kBottom - y_.share(y) * (kHeight - kTop - kBottom); }
  static std::string color(size_t series) {
    const size_t c = series % kColors;
    return fmt::format("var(--s{},{})", c, kFallback[c]);
  }

  void text(double x, double y, const char* anchor, std::string_view words, const std::string& fill,
            std::string_view more = {}) {
    out_ +=
        fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" fill=\"{}\"{}>{}</text>\n",
                    x, y, anchor, fill, more, html_escaped(words));
  }

  void axes() {
    const std::string soft = "var(--soft,#5b6776)";
    // As many decimals as tell two ticks apart.
    const double step = y_.ticks.size() > 1 ? y_.ticks[1] - y_.ticks[0] : 1;
    const int decimals = std::clamp(
        -static_cast<int>(std::floor(std::log10(chart_.percent ? step * 100 : step))), 0, 9);
    for (const double t : y_.ticks) {
      if (t > y_.high) continue;
      out_ += fmt::format(
          "<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" "
          "stroke=\"var(--grid,#e9edf1)\"/>\n",
          kLeft, kWidth - kRight, py(t), py(t));
      const double shown = chart_.percent ? t * 100 : t;
      const bool plain = std::fabs(shown) < 1e6 && (shown == 0 || step >= 1e-6);
      text(kLeft - 8, py(t) + 4, "end",
           (plain ? fmt::format("{:.{}f}", shown, decimals) : fmt::format("{:.2g}", shown)) +
               (chart_.percent ? " %" : ""),
           soft);
    }
    for (const double t : x_.ticks) {
      out_ += fmt::format(
          "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{}\" y2=\"{}\" "
          "stroke=\"var(--soft,#5b6776)\"/>\n",
          px(t), px(t), kHeight - kBottom, kHeight - kBottom + 4);
      text(px(t), kHeight - kBottom + 18, "middle", fmt::format("{:g}", t), soft);
    }
    out_ += fmt::format("<path d=\"M{} {}H{}\" stroke=\"var(--soft,#5b6776)\" fill=\"none\"/>\n",
                        kLeft, kHeight - kBottom, kWidth - kRight);
    text((kLeft + kWidth - kRight) / 2, kHeight - 8, "middle", chart_.x_label, soft);
  }

  // One line above the plot: the name of the axis and, where there are several, of the series.
  void legend() {
    double x = 4;
    if (!chart_.y_label.empty()) {
      text(x, 16, "start", chart_.y_label, "var(--soft,#5b6776)");
      x += 20 + kLetter * static_cast<double>(columns_of(chart_.y_label));
    }
    for (size_t s = 0; s < chart_.series.size(); ++s) {
      const std::string name = clipped(chart_.series[s].name, 24);
      out_ += fmt::format(
          "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"12\" y2=\"12\" stroke=\"{}\" "
          "stroke-width=\"3\"/>\n",
          x, x + 16, color(s));
      text(x + 22, 16, "start", name, "var(--ink,#16202c)");
      x += 42 + kLetter * static_cast<double>(columns_of(name));
    }
  }

  // Indices of the points to draw: all, or the lowest and highest of each of many stretches.
  static std::vector<size_t> thinned(const Series& s) {
    const size_t n = points(s);
    std::vector<size_t> keep;
    if (n <= kMostDrawn) {
      for (size_t i = 0; i < n; ++i) keep.push_back(i);
      return keep;
    }
    const size_t buckets = kMostDrawn / 2;
    for (size_t b = 0; b < buckets; ++b) {
      const size_t begin = n * b / buckets, end = n * (b + 1) / buckets;
      size_t low = begin, high = begin;
      for (size_t i = begin; i < end; ++i) {
        if (!(s.y[low] <= s.y[i])) low = i;
        if (!(s.y[high] >= s.y[i])) high = i;
      }
      keep.push_back(std::min(low, high));
      if (low != high) keep.push_back(std::max(low, high));
    }
    if (keep.back() != n - 1) keep.push_back(n - 1);
    return keep;
  }

  void series(const Series& s, size_t number) {
    const std::string stroke = color(number);
    std::string path;
    size_t last = points(s), best = points(s);
    bool pen_down = false;
    for (const size_t i : thinned(s)) {
      if (!std::isfinite(s.y[i]) || !std::isfinite(s.x[i])) {
        pen_down = false;
        continue;
      }
      path += fmt::format("{}{:.1f} {:.1f}", pen_down ? 'L' : 'M', px(s.x[i]), py(s.y[i]));
      pen_down = true;
      last = i;
      if (best == points(s) ||
          (chart_.best == Best::lowest ? s.y[i] < s.y[best] : s.y[i] > s.y[best]))
        best = i;
    }
    if (last == points(s)) return;  // nothing to draw
    out_ += fmt::format(
        "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-linejoin=\"round\" "
        "stroke-linecap=\"round\"/>\n",
        path, stroke);
    if (points(s) <= kMostMarked)
      for (size_t i = 0; i < points(s); ++i)
        if (std::isfinite(s.y[i])) marker(s, i, stroke);
    if (chart_.best != Best::none && best != last) label(s, best, "best ", stroke);
    label(s, last, "", stroke);
  }

  void marker(const Series& s, size_t i, const std::string& fill) {
    out_ += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"><title>{}: {} at {} "
        "{:g}</title></circle>\n",
        px(s.x[i]), py(s.y[i]), fill, html_escaped(s.name), value_text(s.y[i], chart_.percent),
        html_escaped(chart_.x_label), s.x[i]);
  }

  // The value of a point beside it, inside the plot, with a ring around the point.
  void label(const Series& s, size_t i, const std::string& before, const std::string& stroke) {
    const double x = px(s.x[i]), y = py(s.y[i]);
    out_ += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\" fill=\"var(--card,#fff)\" stroke=\"{}\" "
        "stroke-width=\"2\"/>\n",
        x, y, stroke);
    const char* anchor = x > kWidth - 90 ? "end" : x < kLeft + 60 ? "start" : "middle";
    // Above the point, unless that is outside the plot; labels step out of each other's way.
    const auto taken = [&](double at) {
      return std::any_of(labels_.begin(), labels_.end(), [&](const auto& other) {
        return std::abs(other.first - x) < 80 && std::abs(other.second - at) < 14;
      });
    };
    double place = y - 12;
    while (place >= kTop + 6 && taken(place)) place -= 14;
    if (place < kTop + 6)
      for (place = y + 20; taken(place);) place += 14;
    labels_.emplace_back(x, place);
    text(anchor[0] == 'e' ? x + 6 : x, place, anchor, before + value_text(s.y[i], chart_.percent),
         stroke,
         " font-weight=\"600\" paint-order=\"stroke\" stroke=\"var(--card,#fff)\" "
         "stroke-width=\"4\"");
  }

  const Chart& chart_;
  Axis x_, y_;
  std::vector<std::pair<double, double>> labels_;  // where they are
  std::string out_;
};

}  // namespace

std::vector<double> axis_ticks(double low, double high, int wanted) {
  std::vector<double> ticks;
  if (!std::isfinite(low) || !std::isfinite(high) || !(low < high) || wanted < 1) return ticks;
  const double rough = high / wanted - low / wanted;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  if (!std::isfinite(power) || power == 0) return ticks;
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough * 0.999999) {
      step = factor * power;
      break;
    }
  const double first = std::floor(low / step + 1e-9), last = std::ceil(high / step - 1e-9);
  if (!(last - first < 1000)) return ticks;
  const int count = static_cast<int>(last - first);
  for (int k = 0; k <= count; ++k) ticks.push_back((first + k) * step + 0.0);
  return ticks;
}

std::string svg_chart(const Chart& chart) { return Plot(chart).svg(); }

}  // namespace pinion::accel
