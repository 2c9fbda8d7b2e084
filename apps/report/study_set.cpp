// SPDX-License-Identifier: Apache-2.0
// Reading an annotation file, with all that is wrong in it said at once.
#include "pinion/apps/report/study_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "pinion/runtime/fs.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

const char* name_of(Split split) {
  constexpr const char* kNames[] = {"train", "val", "test"};
  return kNames[static_cast<size_t>(split)];
}

namespace {

constexpr int64_t kMaxAnnotationBytes = int64_t{1} << 30;
constexpr size_t kMaxProblems = 20;
constexpr int64_t kMaxAspect = 16;  // scaled to a given short side, a film is not long without end

// What File(directory, path) takes: plain names between slashes.
bool stays_below(const std::string& path) {
  if (path.find('\0') != std::string::npos) return false;
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    const std::string name = path.substr(at, end - at);
    if (name.empty() || name == "." || name == "..") return false;
    at = end + 1;
  }
  return true;
}

class Reader {
 public:
  Reader(const std::string& path, int64_t views)
      : path_(path),
        views_(views),
        json_(load_json(path, kMaxAnnotationBytes, ErrorKind::data, &places_)) {}

  std::vector<StudyEntry> split(const char* name) {
    std::vector<StudyEntry> studies;
    const auto found = json_.is_object() ? json_.find(name) : json_.end();
    if (!json_.is_object() || found == json_.end() || !found->is_array()) {
      problem("",
              fmt::format("expected a list of studies '{}', got {}", name,
                          json_.is_object() && found != json_.end() ? found->type_name() : "none"));
      return studies;
    }
    for (size_t i = 0; i < found->size(); ++i)
      studies.push_back(study((*found)[i], fmt::format("/{}/{}", name, i)));
    return studies;
  }

  void finish() const {
    if (count_ == 0) return;
    std::string text = fmt::format("{}: {} problem{}", path_, count_, count_ == 1 ? "" : "s");
    for (const std::string& problem : problems_) text += "\n  " + problem;
    if (count_ > problems_.size()) text += "\n  and more";
    throw Error(ErrorKind::data, text);
  }

 private:
  void problem(const std::string& pointer, const std::string& text) {
    ++count_;
    if (problems_.size() < kMaxProblems) problems_.push_back(places_.where(pointer) + ": " + text);
  }

  StudyEntry study(const nlohmann::json& json, const std::string& at) {
    StudyEntry entry;
    if (!json.is_object()) {
      problem(at, fmt::format("expected a study as an object, got {}", json.type_name()));
      return entry;
    }
    entry.id = text(json, at, "id");
    entry.report = text(json, at, "report");
    if (!entry.id.empty() && !ids_.insert(entry.id).second)
      problem(at, "expected each id once, got " + quoted(entry.id, 64) + " again");
    const auto paths = json.find("image_path");
    const size_t needed = static_cast<size_t>(views_);
    if (paths == json.end() || !paths->is_array() || paths->size() < needed) {
      problem(at, fmt::format("study {}: expected 'image_path' with at least {} image{}",
                              quoted(entry.id, 64), needed, needed == 1 ? "" : "s"));
      return entry;
    }
    for (size_t i = 0; i < needed; ++i) {
      const auto& path = (*paths)[i];
      if (path.is_string() && stays_below(path.get_ref<const std::string&>()))
        entry.images.push_back(path.get<std::string>());
      else
        problem(fmt::format("{}/image_path/{}", at, i),
                fmt::format("study {}: expected a path below the image folder, got {}",
                            quoted(entry.id, 64), path.dump().substr(0, 80)));
    }
    return entry;
  }

  std::string text(const nlohmann::json& json, const std::string& at, const char* key) {
    const auto found = json.find(key);
    const bool good =
        found != json.end() && found->is_string() &&
        found->get_ref<const std::string&>().find_first_not_of(" \t\n\r") != std::string::npos;
    if (good) return found->get<std::string>();
    problem(at, fmt::format("expected a text that is not empty as '{}', got {}", key,
                            found == json.end()  ? "none"
                            : found->is_string() ? "an empty one"
                                                 : found->type_name()));
    return {};
  }

  std::string path_;
  int64_t views_;
  SourceMap places_;
  nlohmann::json json_;
  std::set<std::string> ids_;
  std::vector<std::string> problems_;
  size_t count_ = 0;
};

}  // namespace

std::vector<std::string> StudySet::cleaned_reports(Split split) const {
  std::vector<std::string> reports;
  for (const StudyEntry& study : of(split)) reports.push_back(clean_report(study.report, dataset));
  return reports;
}

Image StudySet::load(const StudyEntry& study, int64_t view) const {
  const std::string& name = study.images[static_cast<size_t>(view)];
  try {
    Image image = load_image(File(File(image_dir, OpenMode::directory), name));
    const auto [shorter, longer] = std::minmax(image.height, image.width);
    PINION_REQUIRE(data, longer <= kMaxAspect * shorter, image_dir, "/", name,
                   ": expected a film whose sides differ at most ", kMaxAspect, " times, got ",
                   image.height, " x ", image.width);
    return image;
  } catch (const Error& e) {
    fail(e.kind(), {"study ", quoted(study.id, 64), ": ", e.what()});
  }
}

namespace {

// What is wrong with the images of a study; "" when nothing is. Errors that are not the image's,
// memory that runs out say, are thrown on.
std::string fault_of(const StudySet& set, const StudyEntry& study) {
  try {
    for (int64_t view = 0; view < set.views(); ++view) set.load(study, view);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::data && e.kind() != ErrorKind::missing && e.kind() != ErrorKind::io)
      throw;
    return e.what();
  }
  return {};
}

}  // namespace

std::vector<std::string> take_out_bad_studies(StudySet& set, int threads,
                                              const std::function<void()>& on_study) {
  std::vector<const StudyEntry*> studies;
  for (const auto& split : set.splits)
    for (const StudyEntry& study : split) studies.push_back(&study);
  std::vector<std::string> faults(studies.size());
  std::atomic<size_t> next = 0;
  std::mutex mutex;  // of what follows
  std::exception_ptr error;
  {
    std::vector<std::jthread> crew;
    for (int i = 0; i < std::max(1, threads); ++i)
      crew.emplace_back([&] {
        try {
          for (size_t at = next++; at < studies.size(); at = next++) {
            faults[at] = fault_of(set, *studies[at]);
            const std::lock_guard lock(mutex);
            if (on_study) on_study();
          }
        } catch (...) {
          next = studies.size();
          const std::lock_guard lock(mutex);
          error = std::current_exception();
        }
      });
  }
  if (error) std::rethrow_exception(error);

  std::vector<std::string> bad;
  size_t at = 0;
  for (auto& split : set.splits) {
    std::vector<StudyEntry> good;
    for (StudyEntry& study : split) {
      const std::string& fault = faults[at++];
      if (fault.empty())
        good.push_back(std::move(study));
      else
        bad.push_back(fault);
    }
    split = std::move(good);
  }
  PINION_REQUIRE(
      data, static_cast<double>(bad.size()) <= kMaxBadShare * static_cast<double>(at),
      set.image_dir,
      ": expected the images of at least 99 % of the studies to be readable, but those of ",
      bad.size(), " of ", at, " are not; the first: ", bad.empty() ? "" : bad.front());
  return bad;
}

StudySet load_studies(const std::string& annotation_path, const std::string& image_dir,
                      DatasetName dataset) {
  StudySet set{image_dir, dataset, {}};
  Reader reader(annotation_path, set.views());
  for (const Split split : {Split::train, Split::val, Split::test})
    set.splits[static_cast<size_t>(split)] = reader.split(name_of(split));
  reader.finish();
  return set;
}

}  // namespace pinion::report
