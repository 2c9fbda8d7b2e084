// SPDX-License-Identifier: Apache-2.0
// How many films a second one core brings from their files to a training batch, by the CPU time of
// this thread: decoding alone, with scaling, cutting, mirroring and normalising, and from the 8-bit
// cache. bench/peers/images.py does the same with Pillow, on the files that --keep leaves.
//
//   pinion_images [--keep FOLDER]
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string_view>

#include "pinion/apps/report/film.h"
#include "pinion/apps/report/study_batches.h"
#include "pinion/runtime/fs.h"

namespace pinion::report {

namespace {

constexpr int kRounds = 7;

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Films a second, of the fastest of several rounds.
double rate_of(int films, const std::function<void()>& all_films) {
  double best = 1e9;
  for (int round = 0; round < kRounds; ++round) {
    const double before = cpu_seconds();
    all_films();
    best = std::min(best, cpu_seconds() - before);
  }
  return films / best;
}

// One kind of file: its rates, on a line.
void run(const std::string& folder, const char* kind, int64_t height, int64_t width, bool jpeg,
         int films) {
  StudySet set{folder, DatasetName::mimic_cxr, {}};
  std::vector<std::string> files;
  for (int i = 0; i < films; ++i) {
    const auto index = static_cast<uint64_t>(i);
    const Findings findings = draw_findings(1, 0, index);
    const Image film = resize(draw_study(findings, 256, 1, 0, index).frontal, height, width);
    const std::string name = fmt::format("{}-{}.{}", kind, i, jpeg ? "jpg" : "png");
    write_file_atomic(folder + "/" + name, jpeg ? encode_jpeg(film, 95) : encode_png(film));
    files.push_back(read_file(folder + "/" + name, kMaxImageBytes));
    set.splits[0].push_back({name, report_of(findings), {name}});
  }
  const auto shared = std::make_shared<const StudySet>(set);
  const auto tokenizer =
      std::make_shared<const Tokenizer>(shared->cleaned_reports(Split::train), 1);
  const auto batches = [&] {
    return StudyBatches(shared, Split::train, tokenizer, ImageForm(), 60, Augmentation{.5, 1});
  };
  std::vector<int64_t> all;
  for (int64_t i = 0; i < films; ++i) all.push_back(i);

  const double decoded = rate_of(films, [&] {
    for (const std::string& file : files) decode_image(file, "film");
  });
  const double whole = rate_of(films, [&] { batches().get(all); });
  const StudyBatches kept = batches();
  kept.get(all);
  const double cached = rate_of(films, [&] { kept.get(all); });
  fmt::print("{:<16} {:>9.0f} {:>9.0f} {:>9.0f}\n", kind, decoded, whole, cached);
}

}  // namespace

}  // namespace pinion::report

int main(int argc, char** argv) {
  const bool keep = argc == 3 && std::string_view(argv[1]) == "--keep";
  const std::string folder =
      keep ? argv[2] : std::filesystem::temp_directory_path() / "pinion-images";
  pinion::make_dirs(folder);
  fmt::print("films a second and core  decoded   a batch    cached\n");
  pinion::report::run(folder, "png-256x256", 256, 256, false, 32);
  pinion::report::run(folder, "jpeg-256x256", 256, 256, true, 32);
  pinion::report::run(folder, "png-420x512", 420, 512, false, 32);
  pinion::report::run(folder, "jpeg-2048x2500", 2048, 2500, true, 4);
  if (!keep) std::filesystem::remove_all(folder);
}
