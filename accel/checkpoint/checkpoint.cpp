// SPDX-License-Identifier: Apache-2.0
// The order of steps that all ranks take together to save and to load.
#include "pinion/accel/checkpoint/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <exception>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "pinion/accel/checkpoint/reader.h"
#include "pinion/accel/checkpoint/root.h"
#include "pinion/accel/checkpoint/writer.h"
#include "pinion/accel/rank_talk.h"
#include "pinion/dist/store/store.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {
namespace {

using nlohmann::json;

constexpr size_t kMaxDifferences = 20;  // listed in a message

// A name for this process that no other run of the directory has had.
std::string new_run_name() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return cat({static_cast<long>(now.tv_sec), "-", static_cast<long>(now.tv_nsec), "-",
              static_cast<long>(getpid())});
}

// Copies on the host of what may change while the writer is at work.
State detached(State state, bool copy) {
  for (StateTensor& t : state.tensors) {
    const bool on_host = t.tensor.device() == Device{};
    if (!on_host)
      t.tensor = t.tensor.to(Device{});
    else if (copy)
      t.tensor = t.tensor.clone();
  }
  return state;
}

// The values of a JSON object by pointer, "/model/width".
std::map<std::string, std::string> leaves(const json& object) {
  std::map<std::string, std::string> out;
  const json flat = object.flatten();
  for (const auto& [pointer, value] : flat.items())
    if (!pointer.empty()) out[pointer] = value.dump();
  return out;
}

void check_config(const CheckpointReader& reader, const CheckpointOptions& options) {
  const auto there = leaves(json::parse(reader.manifest().config));
  const auto here = leaves(json::parse(options.config));
  const std::set<std::string> allowed(options.allow_config_change.begin(),
                                      options.allow_config_change.end());
  std::set<std::string> pointers;
  for (const auto& [pointer, value] : there) pointers.insert(pointer);
  for (const auto& [pointer, value] : here) pointers.insert(pointer);
  std::string text;
  size_t count = 0;
  for (const std::string& pointer : pointers) {
    const auto old = there.find(pointer), now = here.find(pointer);
    if (old != there.end() && now != here.end() && old->second == now->second) continue;
    const std::string key = pointer.substr(1, pointer.find('/', 1) - 1);
    if (allowed.count("*") || allowed.count(key) || ++count > kMaxDifferences) continue;
    text += cat({"\n  ", escaped(pointer.substr(1)), ": ",
                 old == there.end() ? "nothing" : escaped(old->second), " there, ",
                 now == here.end() ? "nothing" : escaped(now->second), " here"});
  }
  PINION_REQUIRE(checkpoint, count == 0, "checkpoint: the configuration of ",
                 pinion::quoted(reader.directory()), " differs in ", count,
                 count == 1 ? " value" : " values",
                 " that allow_config_change does not name:", text);
}

// So that the launcher knows that this start of the ranks has got on, if there is a launcher.
void tell_launcher(int64_t step) noexcept {
  try {
    if (const auto store = dist::Store::from_environment()) store->set("checkpoint", cat({step}));
  } catch (const std::exception& e) {
    log_debug({"checkpoint: the launcher was not told of step ", step, ": ", e.what()});
  }
}

}  // namespace

struct Checkpoints::Impl {
  struct Part {
    std::string name;
    Checkpointable* object;
    PartOptions options;
  };
  // A save under way: what the writer thread needs, and what it leaves.
  struct Job {
    int64_t step = 0;
    bool best = false;
    std::string directory;
    bool renamed = false;  // it is in its place
    std::vector<PartSnapshot> parts;
    std::string report;  // files_and_tensors_text()
    std::exception_ptr error;
    std::atomic<bool> done{false};
    std::thread thread;
  };

  Impl(CheckpointOptions o, dist::ProcessGroup* group)
      : options(std::move(o)), ranks(group, options.device) {
    PINION_REQUIRE(config, options.keep_last >= 1, "checkpoint: keep_last must be at least 1, got ",
                   options.keep_last);
    PINION_REQUIRE(config, options.keep_every >= 0,
                   "checkpoint: keep_every must not be negative, got ", options.keep_every);
    const json parsed = parse_json(options.config, "checkpoint: config", ErrorKind::config);
    PINION_REQUIRE(config, parsed.is_object(), "checkpoint: config must be a JSON object");
    run = ranks.first([&] {
      lock = std::make_unique<RootLock>(options.root);
      clean_root(options.root);
      return new_run_name();
    });
    rotation = std::make_unique<Rotation>(options.root, run, options.keep_last, options.keep_every);
  }

  ~Impl() {
    if (job && job->thread.joinable()) job->thread.join();
  }

  void write(Job& work) const {
    work.report =
        files_and_tensors_text(write_rank_files(work.directory, ranks.rank(), work.parts));
  }

  Manifest manifest_of(const Job& work, const std::vector<std::string>& reports) const {
    Manifest m;
    m.step = work.step;
    m.run = run;
    m.world_size = ranks.size();
    m.best = work.best;
    m.config = options.config;
    for (const PartSnapshot& part : work.parts)
      m.parts.push_back({part.name, part.options.placement, part.options.optional});
    for (const std::string& report : reports) add_files_and_tensors(report, m);
    return m;
  }

  // Of rank 0. What cannot be removed now is tried again by the next save.
  void publish_and_rotate(Job& work, const std::vector<std::string>& reports) {
    publish(work.directory, step_directory(options.root, work.step), manifest_of(work, reports),
            work.renamed);
    tell_launcher(work.step);
    try {
      if (exists(work.directory)) rotation->discard(work.directory, work.step);
      rotation->run(work.step, work.best);
    } catch (const Error& e) {
      log_warn({"checkpoint: step ", work.step, " is saved, but older ones stay: ", e.what()});
    }
  }

  // Once renamed, the directory is the one that was replaced: it stays until a later save, since
  // who knows whether the new one is durable.
  void abandon(const Job& work) const noexcept {
    if (ranks.rank() != 0 || work.renamed) return;
    try {
      remove_tree(work.directory);
    } catch (const Error&) {  // the error that brought us here is the one to report
    }
  }

  // Ends the save under way, on all ranks together.
  void finish() {
    const std::unique_ptr<Job> work = std::move(job);
    if (work->thread.joinable()) work->thread.join();
    try {
      const std::vector<std::string> reports = ranks.each([&] {
        if (work->error) std::rethrow_exception(work->error);
        return work->report;
      });
      if (ranks.size() > 1 || !options.async)
        ranks.first([&] { return publish_and_rotate(*work, reports), std::string(); });
    } catch (...) {
      abandon(*work);
      throw;
    }
    last_step = work->step;
  }

  // What the writer thread does: with one rank everything, else all that needs no other rank.
  void work_alone(Job& work) {
    try {
      write(work);
      if (ranks.size() == 1) publish_and_rotate(work, {work.report});
    } catch (...) {
      work.error = std::current_exception();
    }
    work.done.store(true);
  }

  std::vector<State> read_parts(CheckpointReader& reader) {
    const Manifest& m = reader.manifest();
    PINION_REQUIRE(checkpoint, m.version == kManifestVersion, "checkpoint: expected version ",
                   kManifestVersion, " of the format in ", pinion::quoted(reader.directory()),
                   ", got ", m.version, ": written by another version of this program");
    PINION_REQUIRE(checkpoint, m.world_size == ranks.size() || options.allow_world_size_change,
                   "checkpoint: ", pinion::quoted(reader.directory()), " was saved by ",
                   m.world_size, " ranks, this run has ", ranks.size(),
                   "; allow_world_size_change lets them read it");
    check_config(reader, options);
    for (const ManifestPart& stored : m.parts) {
      const auto at = std::find_if(parts.begin(), parts.end(),
                                   [&](const Part& p) { return p.name == stored.name; });
      PINION_REQUIRE(checkpoint, at != parts.end() || stored.optional, "checkpoint: state '",
                     stored.name, "' of ", pinion::quoted(reader.directory()), " is not expected");
      // What is whole may be read in slices, and slices as a whole.
      const bool readable = at == parts.end() || (at->options.placement == Placement::per_rank) ==
                                                     (stored.placement == Placement::per_rank);
      PINION_REQUIRE(checkpoint, readable, "checkpoint: state '", stored.name, "' of ",
                     pinion::quoted(reader.directory()), " was saved with another placement");
    }
    std::vector<State> states(parts.size());
    for (size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].options.optional && !m.part(parts[i].name)) continue;
      states[i] = reader.read(parts[i].name, parts[i].object->state(), parts[i].options.placement,
                              ranks.rank(), ranks.size());
    }
    return states;
  }

  // All ranks have read all states before any object changes.
  void load(const std::string& directory) {
    std::optional<CheckpointReader> reader;
    std::vector<State> states;
    ranks.each([&] {
      reader.emplace(directory);
      states = read_parts(*reader);
      return std::string();
    });
    ranks.each([&] {
      for (size_t i = 0; i < parts.size(); ++i) {
        if (reader->manifest().part(parts[i].name))
          parts[i].object->load_state(states[i]);
        else
          parts[i].object->start_fresh();
      }
      last_step = reader->manifest().step;
      return std::string();
    });
  }

  // The newest step <= limit whose share of this rank verifies, -1 when there is none.
  int64_t newest(int64_t limit, std::string& reasons) {
    for (const int64_t step : checkpoint_steps(options.root)) {
      if (step > limit) continue;
      const std::string directory = step_directory(options.root, step);
      try {
        CheckpointReader(directory).verify(ranks.rank(), ranks.size());
        return step;
      } catch (const Error& e) {
        log_warn({"checkpoint: ", pinion::quoted(directory), " is passed over: ", e.what()});
        reasons += cat({"\n  ", e.what()});
      }
    }
    return -1;
  }

  // The newest step that verifies on all ranks.
  int64_t agree_on_newest() {
    std::string reasons;
    int64_t limit = INT64_MAX;
    bool any = false;  // some rank saw a checkpoint
    for (;;) {
      std::vector<int64_t> found;
      for (const std::string& text : ranks.each([&] {
             const int64_t step = newest(limit, reasons);
             return cat({step, reasons.empty() ? "" : "!"});
           })) {
        found.push_back(std::stoll(text));
        any |= found.back() >= 0 || text.back() == '!';
      }
      const auto [least, most] = std::minmax_element(found.begin(), found.end());
      if (*least < 0) {
        PINION_REQUIRE(
            checkpoint, !any, "checkpoint: no checkpoint in ", pinion::quoted(options.root),
            " verifies on every rank:", reasons.empty() ? " see the other ranks" : "", reasons);
        return -1;
      }
      if (*least == *most) return *least;
      limit = *least;
    }
  }

  CheckpointOptions options;
  RankTalk ranks;
  std::string run;
  std::unique_ptr<RootLock> lock;  // of rank 0
  std::unique_ptr<Rotation> rotation;
  std::vector<Part> parts;
  std::unique_ptr<Job> job;  // under way
  int64_t last_step = -1;
  bool closed = false;
};

Checkpoints::Checkpoints(CheckpointOptions options, dist::ProcessGroup* group)
    : impl_(std::make_unique<Impl>(std::move(options), group)) {}

Checkpoints::~Checkpoints() = default;

void Checkpoints::add(const std::string& name, Checkpointable& part, const PartOptions& options) {
  PINION_CHECK(is_plain_name(name), "checkpoint: a part's name must be of [A-Za-z0-9._-], got ",
               pinion::quoted(name));
  for (const Impl::Part& p : impl_->parts)
    PINION_CHECK(p.name != name, "checkpoint: expected different names, got two parts ", name);
  impl_->parts.push_back({name, &part, options});
}

void Checkpoints::save(int64_t step, bool best) {
  PINION_CHECK(!impl_->closed, "checkpoint: save() after close()");
  PINION_CHECK(step >= 0, "checkpoint: expected a step >= 0, got ", step);
  wait();
  auto work = std::make_unique<Impl::Job>();
  work->step = step;
  work->best = best;
  work->directory = cat({impl_->options.root, "/.tmp-", step, "-", impl_->run});
  impl_->ranks.each([&] {
    for (const Impl::Part& part : impl_->parts)
      work->parts.push_back(
          {part.name, part.options, detached(part.object->state(), impl_->options.async)});
    return std::string();
  });
  impl_->ranks.first([&] {
    remove_tree(work->directory);  // of an attempt that failed so badly that it stayed
    make_private_dir(work->directory);
    return std::string();
  });
  impl_->job = std::move(work);
  Impl::Job& job = *impl_->job;
  if (impl_->options.async) {
    job.thread = std::thread([this, &job] { impl_->work_alone(job); });
    return;
  }
  try {
    impl_->write(job);
  } catch (...) {
    job.error = std::current_exception();
  }
  impl_->finish();
}

bool Checkpoints::poll() {
  if (!impl_->job) return true;
  const bool mine = impl_->job->done.load();
  for (const std::string& text : impl_->ranks.each([&] { return std::string(mine ? "1" : "0"); }))
    if (text == "0") return false;
  impl_->finish();
  return true;
}

void Checkpoints::wait() {
  if (impl_->job) impl_->finish();
}

void Checkpoints::close() {
  impl_->closed = true;
  wait();
  impl_->lock.reset();
}

std::optional<int64_t> Checkpoints::resume() {
  wait();
  const int64_t step = impl_->agree_on_newest();
  if (step < 0) {
    for (const Impl::Part& part : impl_->parts) part.object->start_fresh();
    return std::nullopt;
  }
  impl_->load(step_directory(impl_->options.root, step));
  return step;
}

int64_t Checkpoints::load(const std::string& directory) {
  wait();
  impl_->ranks.each([&] {
    CheckpointReader(directory).verify(impl_->ranks.rank(), impl_->ranks.size());
    return std::string();
  });
  impl_->load(directory);
  return impl_->last_step;
}

int64_t Checkpoints::last_step() const { return impl_->last_step; }
const CheckpointOptions& Checkpoints::options() const { return impl_->options; }
std::string Checkpoints::directory_of(int64_t step) const {
  return step_directory(impl_->options.root, step);
}

void merge_part(const std::string& directory, const std::string& part, const std::string& path) {
  CheckpointReader reader(directory);
  reader.verify();
  save_safetensors(path, reader.read_whole(part), {{"format", "pt"}});
}

}  // namespace pinion::accel
