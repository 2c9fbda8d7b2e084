// SPDX-License-Identifier: Apache-2.0
// make_cxr: writes a synthetic set of chest studies in the layout of IU X-Ray (annotation.json,
// images/ID/0.png and 1.png) or of MIMIC-CXR (images/p10/p10000000/s50000000/ID.jpg, a frontal film
// alone), and findings.json with what is there and where.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "pinion/accel/track/progress.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/report/film.h"
#include "pinion/kernels/cpu/parallel.h"
#include "pinion/runtime/device.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

namespace {

struct SetOptions {
  std::string output_dir = "data/cxr", preset = "demo";
  std::array<int64_t, 3> studies{};  // train, val, test
  int64_t size = 0;
  uint64_t seed = 1;
  bool pairs = false;
  bool mimic = false;
  Wording wording = Wording::plain;
  size_t attributes = kAlwaysSaid;  // that findings are drawn of
};

constexpr std::array<const char*, 3> kSplits = {"train", "val", "test"};

struct Planned {
  std::string id;
  size_t split;
  uint64_t index;
  Findings findings;
  Styles styles;
  std::vector<std::string> images;  // below images/
};

// The path of a film in MIMIC-CXR: patients in folders by their first two digits.
std::string mimic_path(const std::string& id, size_t number) {
  return fmt::format("p1{}/p1{:07}/s5{:07}/{}.jpg", number / 1'000'000, number, number, id);
}

// A test study a second time, with one finding put in or taken away: what the model says of that
// one should change, and of nothing else.
Findings toggled(Findings findings, uint64_t index, size_t attributes) {
  const size_t a = index % attributes;
  findings.values[a] = findings.values[a] == 0 ? 1 : 0;
  return findings;
}

std::vector<Planned> plan(const SetOptions& o) {
  std::vector<Planned> studies;
  for (size_t split = 0; split < kSplits.size(); ++split)
    for (int64_t i = 0; i < o.studies[split]; ++i) {
      const auto index = static_cast<uint64_t>(i);
      const Findings findings =
          draw_findings(o.seed, static_cast<uint32_t>(split), index, o.attributes);
      const Styles styles = draw_styles(o.wording, o.seed, static_cast<uint32_t>(split), index);
      const auto add = [&](const std::string& id, const Findings& f) {
        std::vector<std::string> images = {id + "/0.png", id + "/1.png"};
        if (o.mimic) images = {mimic_path(id, studies.size())};
        studies.push_back({id, split, index, f, styles, std::move(images)});
      };
      const std::string id = fmt::format("{}{:05}", kSplits[split], i);
      add(id, findings);
      if (o.pairs && split == 2) add(id + "-pair", toggled(findings, index, o.attributes));
    }
  return studies;
}

nlohmann::json facts_of(const Planned& planned, const Study& study) {
  nlohmann::json labels, boxes = nlohmann::json::array();
  for (size_t a = 0; a < kAttributes; ++a)
    labels[attribute_table()[a].name] =
        attribute_table()[a].values[planned.findings.values[a]].name;
  for (const FindingBox& box : study.boxes)
    if (static_cast<size_t>(box.view) < planned.images.size())
      boxes.push_back({{"finding", attribute_table()[static_cast<size_t>(box.attribute)].name},
                       {"view", box.view},
                       {"box", {box.left, box.top, box.right, box.bottom}}});
  return {{"labels", labels}, {"boxes", boxes}};
}

void write_film(const SetOptions& o, const Image& film, const std::string& name) {
  constexpr int kQuality = 95;
  const std::string path = o.output_dir + "/images/" + name;
  make_dirs(parent_dir(path));
  remove_file(path);
  File file(path, OpenMode::create);
  file.write(o.mimic ? encode_jpeg(film, kQuality) : encode_png(film));
  file.close();
}

int make(const SetOptions& o) {
  const std::vector<Planned> studies = plan(o);
  make_dirs(o.output_dir + "/images");
  std::vector<nlohmann::json> facts(studies.size());
  accel::Progress progress("Drawing", static_cast<int64_t>(studies.size()));
  // A few at a time on all threads, so that the bar moves.
  constexpr int64_t kAtOnce = 64;
  for (int64_t first = 0; first < static_cast<int64_t>(studies.size()); first += kAtOnce) {
    const int64_t count = std::min(kAtOnce, static_cast<int64_t>(studies.size()) - first);
    kernels::for_chunks(cpu_context(), count, 1, [&](int64_t begin, int64_t, int64_t) {
      const auto i = static_cast<size_t>(first + begin);
      const Planned& p = studies[i];
      const int mark = o.wording == Wording::visible ? p.styles[0] : 0;
      const Study study =
          draw_study(p.findings, o.size, o.seed, static_cast<uint32_t>(p.split), p.index, mark);
      for (size_t view = 0; view < p.images.size(); ++view)
        write_film(o, view == 0 ? study.frontal : study.lateral, p.images[view]);
      facts[i] = facts_of(p, study);
    });
    for (int64_t i = 0; i < count; ++i) progress.step();
  }
  progress.erase();

  nlohmann::json annotation, findings;
  for (const char* split : kSplits) annotation[split] = nlohmann::json::array();
  for (size_t i = 0; i < studies.size(); ++i) {
    const Planned& p = studies[i];
    annotation[kSplits[p.split]].push_back({{"id", p.id},
                                            {"report", report_of(p.findings, p.styles)},
                                            {"image_path", p.images},
                                            {"split", kSplits[p.split]}});
    findings[p.id] = std::move(facts[i]);
  }
  write_file_atomic(o.output_dir + "/findings.json", findings.dump(1));
  write_file_atomic(o.output_dir + "/annotation.json", annotation.dump(1));
  apps::print(fmt::format("{} studies of {}, {} x {}, in {}\n", studies.size(),
                          o.mimic ? "1 image" : "2 images", o.size, o.size, o.output_dir));
  return 0;
}

int run(int argc, char** argv) {
  SetOptions o;
  std::vector<int64_t> studies;
  std::string dataset_name = "iu_xray", style, findings;
  CLI::App app("Draws a synthetic set of chest studies with reports.");
  app.add_option("--dataset_name", dataset_name,
                 "whose layout: iu_xray, or mimic_cxr with one film a study, a JPEG")
      ->check(CLI::IsMember({"iu_xray", "mimic_cxr"}))
      ->capture_default_str();
  app.add_option("--style", style,
                 "wording of the reports: plain; visible: four styles, and marks on the film "
                 "show which; random: each sentence in any of them (default: plain for demo, "
                 "visible for full)")
      ->check(CLI::IsMember({"plain", "visible", "random"}));
  app.add_option("--findings", findings,
                 "few: the six that every report speaks of; many: also nodules, edema, the lungs' "
                 "volume, hernias, fractures, wires, scoliosis (default: few for demo, many for "
                 "full)")
      ->check(CLI::IsMember({"few", "many"}));
  app.add_option("--output_dir", o.output_dir, "where to write")->capture_default_str();
  app.add_option("--preset", o.preset,
                 "demo: 640, 96 and 96 studies of 64 x 64; full: 2069, 296 "
                 "and 590 of 256 x 256")
      ->check(CLI::IsMember({"demo", "full"}))
      ->capture_default_str();
  app.add_option("--studies", studies, "train, val and test studies instead of the preset's")
      ->expected(3)
      ->check(CLI::NonNegativeNumber);
  app.add_option("--size", o.size, "side of an image instead of the preset's")
      ->check(CLI::Range(16, 4096));
  app.add_option("--seed", o.seed, "of all random numbers")->capture_default_str();
  app.add_flag("--pairs", o.pairs, "each test study also with one finding toggled");
  if (!apps::parse_command_line(app, argc, argv)) return 0;
  const bool full = o.preset == "full";
  if (style.empty()) style = full ? "visible" : "plain";
  if (findings.empty()) findings = full ? "many" : "few";
  if (findings == "many") o.attributes = kAttributes;
  o.mimic = dataset_name == "mimic_cxr";
  o.wording = style == "visible"  ? Wording::visible
              : style == "random" ? Wording::random
                                  : Wording::plain;
  if (o.size == 0) o.size = full ? 256 : 64;
  if (studies.empty())
    o.studies = full ? std::array<int64_t, 3>{2069, 296, 590} : std::array<int64_t, 3>{640, 96, 96};
  else
    std::copy(studies.begin(), studies.end(), o.studies.begin());
  return make(o);
}

}  // namespace

}  // namespace pinion::report

int main(int argc, char** argv) {
  return pinion::apps::run_program("make_cxr", [&] { return pinion::report::run(argc, argv); });
}
