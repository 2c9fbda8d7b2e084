// SPDX-License-Identifier: Apache-2.0
// HtmlReport: a page of figures about a run in one file, which needs neither network nor script:
// headline values, charts and bars (SVG), tables and confusion matrices, in the reader's light or
// dark theme.
//
//   HtmlReport report("Toy classifier", "5 epochs, 418 parameters");
//   report.add_values({{"loss", "0.498"}});
//   report.add_chart({.title = "Loss", .x_label = "epoch", .series = {{"training", {1, 2}, {.7,
//   .6}}}}); write_file_atomic("run/report.html", report.html());
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pinion::accel {

class ConfusionMatrix;

// Points joined by a line. A point that is not finite leaves a gap. Of very many points, the
// extremes of each column of pixels are drawn.
struct Series {
  std::string name;
  std::vector<double> x, y;  // of one length; x rises
};

enum class Best : uint8_t { none, lowest, highest };  // which point to mark

struct Chart {
  std::string title{};
  std::string x_label{}, y_label{};
  std::vector<Series> series{};
  Best best = Best::none;
  bool percent = false;  // y from 0 to 1 is written as 0 % to 100 %
};

// Horizontal bars from zero, one below the other, each with its value and, where low < high, its
// interval.
struct Bar {
  std::string name;
  double value = 0, low = 0, high = 0;
  bool faded = false;
};
struct Bars {
  std::string title{};
  std::vector<Bar> bars{};
};

struct Table {
  std::string title;
  std::vector<std::string> header;             // may be empty
  std::vector<std::vector<std::string>> rows;  // columns that hold only numbers are set right
};

struct Picture {
  std::string png;      // the bytes of a PNG file
  std::string caption;  // may be empty
  bool marked = false;  // the caption stands out
};

class HtmlReport {
 public:
  explicit HtmlReport(std::string_view title, std::string_view subtitle = {});

  // All text may hold any characters: it is escaped.
  void add_heading(std::string_view text);
  void add_text(std::string_view text);  // a paragraph
  void add_values(const std::vector<std::pair<std::string, std::string>>& name_and_value);
  void add_chart(const Chart& chart);  // neighbouring charts stand side by side where there is room
  void add_bars(const Bars& bars);     // as charts do
  void add_table(const Table& table);
  // Pictures side by side, with lines of text beside them: a bold name, then what it is; small
  // ones with their captions below.
  void add_pictures(const std::vector<Picture>& pictures,
                    const std::vector<std::pair<std::string, std::string>>& lines,
                    const std::vector<Picture>& small = {});
  void add_confusion(std::string_view title, const ConfusionMatrix& matrix);

  std::string html() const;  // the whole page

 private:
  void open_block(bool chart);  // closes or opens the row of charts

  std::string title_, subtitle_, body_;
  bool in_charts_ = false;
};

// Text with the five characters that HTML gives a meaning, and control characters, replaced; bytes
// that are not UTF-8 become U+FFFD.
std::string html_escaped(std::string_view text);

// RFC 4648, section 4.
std::string base64(std::string_view bytes);

// The chart as an <svg> element, for a page of one's own; its colours are CSS variables with values
// to fall back on.
std::string svg_chart(const Chart& chart);
std::string svg_bars(const Bars& bars);

// Round numbers (1, 2 or 5 times a power of ten apart) that span [low, high], about `wanted` of
// them.
std::vector<double> axis_ticks(double low, double high, int wanted);

}  // namespace pinion::accel
