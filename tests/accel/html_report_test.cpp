// SPDX-License-Identifier: Apache-2.0
// The report page: self-contained, well-formed, and faithful to what it is given.
#include "pinion/accel/track/html_report.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "pinion/accel/track/metrics.h"

namespace pinion::accel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

int occurrences(std::string_view text, std::string_view what) {
  int n = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// Every tag that opens closes, in order; returns what is wrong, or "".
std::string unbalanced(std::string_view html) {
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != html.npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    if (end == html.npos) return "a tag does not end";
    const std::string tag(html.substr(at + 1, end - at - 1));
    const std::string name =
        tag.substr(tag[0] == '/', tag.find_first_of(" /", 1) - (tag[0] == '/'));
    if (tag[0] == '!' || name == "meta" || tag.back() == '/') continue;
    if (tag[0] != '/') {
      open.push_back(name);
    } else if (open.empty() || open.back() != tag.substr(1)) {
      return "</" + tag.substr(1) + "> closes " + (open.empty() ? "nothing" : open.back());
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back() + " stays open";
}

Chart simple_chart() {
  return {.title = "Loss",
          .x_label = "epoch",
          .y_label = "nats",
          .series = {{"training", {1, 2, 3, 4}, {0.7, 0.5, 0.4, 0.45}}},
          .best = Best::lowest};
}

HtmlReport full_report() {
  HtmlReport report("A run", "of a test");
  report.add_values({{"loss", "0.5"}});
  report.add_chart(simple_chart());
  report.add_chart(simple_chart());
  report.add_heading("More");
  report.add_text("A paragraph.");
  report.add_table({"Numbers", {"name", "value"}, {{"a", "1"}, {"b", "2.5"}, {"short"}}});
  ConfusionMatrix m({"cat", "dog"});
  m.add(0, 0), m.add(0, 1), m.add(1, 1);
  report.add_confusion("Matrix", m);
  report.add_chart(simple_chart());
  return report;
}

TEST(HtmlReport, IsOneWellFormedPageThatNeedsNothingElse) {
  const std::string html = full_report().html();
  EXPECT_EQ(unbalanced(html), "");
  EXPECT_TRUE(html.starts_with("<!DOCTYPE html>"));
  for (const char* outside :
       {"http:", "https:", "//", "<script", "src=", "href=", "@import", "url("})
    EXPECT_EQ(html.find(outside), html.npos) << outside;
  EXPECT_THAT(html, HasSubstr("<meta charset=\"utf-8\">"));
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme:dark"));
  EXPECT_EQ(occurrences(html, "<svg"), 3);
  EXPECT_EQ(occurrences(html, "<div class=\"charts\">"), 2);
}

TEST(HtmlReport, EscapesEveryText) {
  const std::string evil = "<script>alert('1')</script>\"&\x01\xff";
  const std::string safe =
      "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;\xef\xbf\xbd\xef\xbf\xbd";
  EXPECT_EQ(html_escaped(evil), safe);
  EXPECT_EQ(html_escaped("größe\n€"), "größe €");
  HtmlReport report(evil, evil);
  report.add_heading(evil);
  report.add_text(evil);
  report.add_values({{evil, evil}});
  report.add_table({evil, {evil}, {{evil}}});
  report.add_chart({.title = evil, .x_label = evil, .y_label = evil, .series = {{evil, {1}, {2}}}});
  ConfusionMatrix m({evil, "b"});
  m.add(0, 0);
  report.add_confusion(evil, m);
  const std::string html = report.html();
  EXPECT_EQ(unbalanced(html), "");
  EXPECT_EQ(html.find("<script"), html.npos);
  EXPECT_EQ(html.find("\x01"), html.npos);
}

TEST(HtmlReport, SetsColumnsOfNumbersRight) {
  HtmlReport report("t");
  report.add_table({"T", {"name", "value"}, {{"a", "1"}, {"b", "97.5%"}}});
  const std::string html = report.html();
  EXPECT_THAT(html, HasSubstr("<th>name</th><th class=\"num\">value</th>"));
  EXPECT_THAT(html, HasSubstr("<td>a</td><td class=\"num\">1</td>"));
}

TEST(HtmlReport, ShowsTheConfusionMatrix) {
  const std::string html = full_report().html();
  EXPECT_THAT(html, HasSubstr("title=\"cat predicted as dog: 1 of 2\">1</td>"));
  EXPECT_THAT(html, HasSubstr("50.0&#8239;%"));
}

TEST(Chart, MarksTheLastAndTheBestValue) {
  const std::string svg = svg_chart(simple_chart());
  EXPECT_EQ(unbalanced(svg), "");
  EXPECT_THAT(svg, HasSubstr(">best 0.4</text>"));
  EXPECT_THAT(svg, HasSubstr(">0.45</text>"));
  EXPECT_THAT(svg, HasSubstr(">training</text>"));
  EXPECT_THAT(svg, HasSubstr(">epoch</text>"));
  EXPECT_EQ(occurrences(svg, "<title>"), 4);  // a marker for each point
}

TEST(Chart, KeepsLabelsApart) {
  const std::string svg = svg_chart(
      {.series = {{"a", {1, 2}, {0, 1}}, {"b", {1, 2}, {0, 1}}, {"c", {1, 2}, {0, 0.99}}}});
  std::vector<double> rows;  // of the bold texts
  for (size_t at = 0; (at = svg.find("<text", at)) != svg.npos; ++at) {
    const std::string tag = svg.substr(at, svg.find('>', at) - at);
    if (tag.find("font-weight") != tag.npos)
      rows.push_back(std::stod(tag.substr(tag.find(" y=\"") + 4)));
  }
  ASSERT_EQ(rows.size(), 3u);
  std::sort(rows.begin(), rows.end());
  EXPECT_GE(rows[1] - rows[0], 14);
  EXPECT_GE(rows[2] - rows[1], 14);
}

TEST(Chart, WritesSharesAsPercent) {
  Chart chart = simple_chart();
  chart.percent = true, chart.best = Best::highest;
  const std::string svg = svg_chart(chart);
  EXPECT_THAT(svg, HasSubstr(">best 70.0 %</text>"));
  EXPECT_THAT(svg, HasSubstr(">50 %</text>"));
}

TEST(Chart, LeavesGapsWhereThereIsNoNumber) {
  Chart chart = simple_chart();
  chart.series[0].y = {0.7, kNaN, 0.4, kInf};
  const std::string svg = svg_chart(chart);
  EXPECT_THAT(svg, Not(testing::ContainsRegex("nan|inf")));
  const size_t path = svg.find("stroke-width=\"2\"");
  const std::string d = svg.substr(svg.rfind("d=\"", path), path - svg.rfind("d=\"", path));
  EXPECT_EQ(occurrences(d, "M"), 2);
  EXPECT_EQ(occurrences(d, "L"), 0);
}

TEST(Chart, DrawsDegenerateSeries) {
  for (const std::vector<double>& y : {std::vector<double>{},
                                       {5},
                                       {0, 0, 0},
                                       {kNaN, kNaN},
                                       {1e300, -1e300},
                                       {1e-300, 2e-300},
                                       {3, 3}}) {
    std::vector<double> x(y.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i);
    for (const bool percent : {false, true}) {
      const std::string svg = svg_chart(
          {.title = "t", .series = {{"s", x, y}}, .best = Best::lowest, .percent = percent});
      EXPECT_EQ(unbalanced(svg), "");
      EXPECT_THAT(svg, Not(testing::ContainsRegex("=\"-?(nan|inf)")));
      EXPECT_LT(svg.size(), 20000u);
    }
  }
  EXPECT_EQ(unbalanced(svg_chart({})), "");
}

TEST(Chart, ThinsLongSeriesButKeepsTheirExtremes) {
  Chart chart{.title = "long", .series = {{"s", {}, {}}}, .best = Best::highest};
  for (int i = 0; i < 200000; ++i) {
    chart.series[0].x.push_back(i);
    chart.series[0].y.push_back(i == 123457 ? 9.5 : std::sin(i * 0.001));
  }
  const std::string svg = svg_chart(chart);
  EXPECT_LT(svg.size(), 60000u);
  EXPECT_THAT(svg, HasSubstr(">best 9.5</text>"));
}

TEST(Chart, TicksAreRoundNumbers) {
  EXPECT_THAT(axis_ticks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(axis_ticks(1, 5, 8), ElementsAre(1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5));
  EXPECT_THAT(axis_ticks(-3e6, 3e6, 6), ElementsAre(-3e6, -2e6, -1e6, 0, 1e6, 2e6, 3e6));
  const auto ticks = axis_ticks(0.498, 0.6755, 6);
  ASSERT_GE(ticks.size(), 4u);
  EXPECT_LE(ticks.front(), 0.498);
  EXPECT_GE(ticks.back(), 0.6755);
  EXPECT_TRUE(axis_ticks(1, 1, 5).empty());
  EXPECT_TRUE(axis_ticks(kNaN, 1, 5).empty());
  EXPECT_TRUE(axis_ticks(0, kInf, 5).empty());
}

TEST(HtmlReport, HoldsPictures) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");  // RFC 4648, section 10
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foob"), "Zm9vYg==");
  HtmlReport report("films");
  report.add_pictures({{"foo", "frontal"}, {"f", ""}}, {{"True", "a < b"}},
                      {{"fo", "no < yes .", true}});
  EXPECT_THAT(report.html(), HasSubstr("data:image/png;base64,Zm9v\">"));
  EXPECT_THAT(report.html(), HasSubstr("<b>True</b> a &lt; b"));
}

}  // namespace
}  // namespace pinion::accel
