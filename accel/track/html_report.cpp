// SPDX-License-Identifier: Apache-2.0
// The page: style, headline values, tables and matrices. Charts are drawn in html_chart.cpp.
#include "pinion/accel/track/html_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "pinion/accel/track/metrics.h"
#include "pinion/accel/track/text.h"

namespace pinion::accel {

namespace {

constexpr std::string_view kStyle = R"css(
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#16202c;--soft:#5b6776;--line:#e3e7ec;
--grid:#e9edf1;--s0:#2563eb;--s1:#e0681a;--s2:#0f9d76;--s3:#b8369c;--s4:#7a6a00;--s5:#64748b;
--hit:37 99 235;--miss:220 80 30}
@media(prefers-color-scheme:dark){:root{--bg:#10151c;--card:#18202a;--ink:#e7ecf2;--soft:#97a3b2;
--line:#2a3441;--grid:#26303c;--s0:#6ea0ff;--s1:#ff9a55;--s2:#3fd0a2;--s3:#ee86d6;--s4:#d9c34a;
--s5:#9aa8ba;--hit:90 145 255;--miss:255 130 70}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:36px 20px 56px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:18px;margin:34px 0 0}
h3{font-size:14px;margin:0 0 10px;font-weight:600}
.sub{color:var(--soft);margin:0}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;
margin-top:18px}
.values{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:14px;
margin-top:22px}
.values>div{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:12px 16px}
.values dt{color:var(--soft);font-size:13px}
.values dd{margin:2px 0 0;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:18px;
margin-top:18px}
.charts>section{margin:0}
svg{display:block;width:100%;height:auto}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:6px 14px 6px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}
tr:last-child>*{border-bottom:0}
th{font-weight:600}
thead th{color:var(--soft);font-weight:500}
.num{text-align:right}
.confusion td,.confusion th{padding:8px 14px;text-align:right;border:0}
.confusion tbody td{min-width:64px;border-radius:6px}
.confusion th:first-child{text-align:left;padding-left:0}
.confusion .side{color:var(--soft)}
footer{color:var(--soft);font-size:13px;margin-top:28px}
.pictures{display:flex;flex-wrap:wrap;gap:20px}
.pictures>div{flex:1 1 320px}
.pictures p{margin:0 0 8px}
figure{margin:0}
figure img{display:block;width:100%;border-radius:6px}
figcaption{color:var(--soft);font-size:13px;margin-top:3px}
figcaption.marked{color:rgb(var(--miss));font-weight:600}
.large{display:flex;gap:10px}
.large figure{flex:1 1 0;max-width:256px}
.small{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:14px;
margin-top:16px}
@media print{body{background:#fff}section,.values>div{break-inside:avoid}}
)css";

bool is_number(std::string_view text) {
  double v;
  const char* end = text.data() + text.size();
  if (text.ends_with('%')) --end;
  const auto result = std::from_chars(text.data(), end, v);
  return result.ec == std::errc() && result.ptr == end;
}

// Which columns hold numbers only.
std::vector<bool> number_columns(const Table& table) {
  size_t columns = table.header.size();
  for (const auto& row : table.rows) columns = std::max(columns, row.size());
  std::vector<bool> numbers(columns, true);
  for (const auto& row : table.rows)
    for (size_t c = 0; c < row.size(); ++c) numbers[c] = numbers[c] && is_number(row[c]);
  return numbers;
}

// One cell of the matrix, shaded by its share of the true class.
std::string confusion_cell(const ConfusionMatrix& m, int64_t truth, int64_t predicted) {
  const int64_t count = m.count(truth, predicted), of = m.support(truth);
  const double share = of > 0 ? static_cast<double>(count) / static_cast<double>(of) : 0;
  const char* color = truth == predicted ? "--hit" : "--miss";
  return fmt::format(
      "<td style=\"background:rgb(var({}) / {:.2f})\" title=\"{} predicted as {}: {} of "
      "{}\">{}</td>",
      color, 0.04 + 0.46 * share, html_escaped(m.name(truth)), html_escaped(m.name(predicted)),
      count, of, grouped(count));
}

}  // namespace

std::string html_escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text.substr(i));
    const char c = text[i];
    if (length == 0)
      out += "\xef\xbf\xbd";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += c == '\n' || c == '\t' ? " " : "\xef\xbf\xbd";
    else
      out += text.substr(i, length);
    i += std::max<size_t>(1, length);
  }
  return out;
}

HtmlReport::HtmlReport(std::string_view title, std::string_view subtitle)
    : title_(html_escaped(title)), subtitle_(html_escaped(subtitle)) {}

void HtmlReport::open_block(bool chart) {
  if (in_charts_ && !chart) body_ += "</div>\n";
  if (!in_charts_ && chart) body_ += "<div class=\"charts\">\n";
  in_charts_ = chart;
}

void HtmlReport::add_heading(std::string_view text) {
  open_block(false);
  body_ += "<h2>" + html_escaped(text) + "</h2>\n";
}

void HtmlReport::add_text(std::string_view text) {
  open_block(false);
  body_ += "<p>" + html_escaped(text) + "</p>\n";
}

void HtmlReport::add_values(
    const std::vector<std::pair<std::string, std::string>>& name_and_value) {
  open_block(false);
  body_ += "<dl class=\"values\">\n";
  for (const auto& [name, value] : name_and_value)
    body_ +=
        fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", html_escaped(name), html_escaped(value));
  body_ += "</dl>\n";
}

std::string base64(std::string_view bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t word = 0;
    for (size_t k = 0; k < 3; ++k)
      word = word << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k)
      out += i + k <= bytes.size() ? kDigits[word >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

void HtmlReport::add_pictures(const std::vector<Picture>& pictures,
                              const std::vector<std::pair<std::string, std::string>>& lines,
                              const std::vector<Picture>& small) {
  open_block(false);
  const auto figures = [&](const char* kind, const std::vector<Picture>& list) {
    body_ += fmt::format("<div class=\"{}\">", kind);
    for (const Picture& p : list)
      body_ += fmt::format(
          "<figure><img alt=\"{0}\" src=\"data:image/png;base64,{1}\"><figcaption{2}>{0}"
          "</figcaption></figure>",
          html_escaped(p.caption), base64(p.png), p.marked ? " class=\"marked\"" : "");
    body_ += "</div>\n";
  };
  body_ += "<section><div class=\"pictures\">\n";
  figures("large", pictures);
  body_ += "<div>";
  for (const auto& [name, text] : lines)
    body_ += fmt::format("<p><b>{}</b> {}</p>", html_escaped(name), html_escaped(text));
  body_ += "</div></div>\n";
  if (!small.empty()) figures("small", small);
  body_ += "</section>\n";
}

void HtmlReport::add_chart(const Chart& chart) {
  open_block(true);
  body_ += fmt::format("<section><h3>{}</h3>\n{}</section>\n", html_escaped(chart.title),
                       svg_chart(chart));
}

void HtmlReport::add_bars(const Bars& bars) {
  open_block(true);
  body_ +=
      fmt::format("<section><h3>{}</h3>\n{}</section>\n", html_escaped(bars.title), svg_bars(bars));
}

void HtmlReport::add_table(const Table& table) {
  open_block(false);
  const std::vector<bool> numbers = number_columns(table);
  const auto row_of = [&](const std::vector<std::string>& cells, const char* tag) {
    std::string out = "<tr>";
    for (size_t c = 0; c < cells.size(); ++c)
      out += fmt::format("<{0}{1}>{2}</{0}>", tag,
                         numbers[c] && !table.rows.empty() ? " class=\"num\"" : "",
                         html_escaped(cells[c]));
    return out + "</tr>\n";
  };
  body_ +=
      fmt::format("<section><h3>{}</h3><div class=\"scroll\"><table>\n", html_escaped(table.title));
  if (!table.header.empty()) body_ += "<thead>" + row_of(table.header, "th") + "</thead>\n";
  body_ += "<tbody>\n";
  for (const auto& row : table.rows) body_ += row_of(row, "td");
  body_ += "</tbody></table></div></section>\n";
}

void HtmlReport::add_confusion(std::string_view title, const ConfusionMatrix& matrix) {
  open_block(false);
  const int64_t n = matrix.classes();
  body_ += fmt::format(
      "<section><h3>{}</h3><div class=\"scroll\"><table class=\"confusion\">\n<thead><tr>"
      "<th class=\"side\">true \\ predicted</th>",
      html_escaped(title));
  for (int64_t c = 0; c < n; ++c)
    body_ += fmt::format("<th scope=\"col\">{}</th>", html_escaped(matrix.name(c)));
  body_ += "<th>precision</th><th>recall</th></tr></thead>\n<tbody>\n";
  for (int64_t t = 0; t < n; ++t) {
    body_ += fmt::format("<tr><th scope=\"row\">{}</th>", html_escaped(matrix.name(t)));
    for (int64_t c = 0; c < n; ++c) body_ += confusion_cell(matrix, t, c);
    body_ += fmt::format(
        "<td class=\"side\">{:.1f}&#8239;%</td><td class=\"side\">{:.1f}&#8239;%</td></tr>\n",
        100 * matrix.precision(t), 100 * matrix.recall(t));
  }
  body_ += "</tbody></table></div></section>\n";
}

std::string HtmlReport::html() const {
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n<header><h1>{0}</h1>\n",
      title_, kStyle);
  if (!subtitle_.empty()) out += "<p class=\"sub\">" + subtitle_ + "</p>\n";
  out += "</header>\n" + body_ + (in_charts_ ? "</div>\n" : "");
  return out + "<footer>Made by Pinion</footer>\n</main>\n</body>\n</html>\n";
}

}  // namespace pinion::accel
