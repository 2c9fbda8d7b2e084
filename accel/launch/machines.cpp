// SPDX-License-Identifier: Apache-2.0
// What launchers tell each other.
#include "pinion/accel/launch/machines.h"

#include <algorithm>
#include <charconv>
#include <csignal>
#include <nlohmann/json.hpp>

#include "pinion/kernels/check.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kBeatLives{10'000};
constexpr std::chrono::milliseconds kEnds{30'000};  // for the other machines' ranks to stop
constexpr std::chrono::milliseconds kParts{5'000};  // for the other launchers to leave

int number_in(const std::string& text) {
  int number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

}  // namespace

Machines::Machines(const LaunchPlan& plan, const std::string& address,
                   const dist::StoreSecret& secret)
    : plan_(plan),
      store_(address, secret, plan.run_id, "machines/", plan.meeting_time),
      watch_(address, secret, plan.run_id, "machines/", plan.meeting_time) {
  watch_.watch("");
}

std::string Machines::key(std::string_view what, int machine) const {
  return cat({what, "/", epoch_, "/", machine});
}

std::vector<std::string> Machines::keys(std::string_view what) const {
  std::vector<std::string> all;
  all.reserve(static_cast<size_t>(plan_.machines));
  for (int m = 0; m < plan_.machines; ++m) all.push_back(key(what, m));
  return all;
}

void Machines::meet(int epoch) {
  epoch_ = epoch;
  order_ = 0;
  lost_ = false;
  const std::string shape = cat({plan_.machines, " machines with ", plan_.ranks, " ranks"});
  // A second launcher with our number is a mistake that would go unnoticed otherwise.
  PINION_REQUIRE(config, store_.compare_set(key("here", plan_.machine), std::nullopt, shape),
                 "machine_rank: another launcher of this run is machine ", plan_.machine,
                 " already");
  try {
    store_.wait(keys("here"), plan_.meeting_time);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::hang) throw;
    std::string missing;
    for (int m = 0; m < plan_.machines; ++m)
      if (!store_.check({key("here", m)})) missing += cat({missing.empty() ? "" : ", ", m});
    fail(ErrorKind::hang, {"launch: no launcher of machine ", missing, " came within ",
                           plan_.meeting_time.count() / 1000, " s"});
  }
  const auto shapes = store_.multi_get(keys("here"));
  for (int m = 0; m < plan_.machines; ++m)
    PINION_REQUIRE(config, shapes[static_cast<size_t>(m)] == shape, "launch: expected ", shape,
                   " on all of them, machine ", m, " was told ",
                   escaped(shapes[static_cast<size_t>(m)].value_or("nothing")));
  next_beat_ = {};
  beat();
}

void Machines::beat() {
  const auto now = Clock::now();
  if (now < next_beat_) return;
  next_beat_ = now + kBeat;
  store_.set(key("beat", plan_.machine), "", kBeatLives);
}

bool Machines::others_failed() {
  bool failed = false;
  while (const auto event = watch_.next_event(dist::Store::Milliseconds(0))) {
    const std::string mine = std::to_string(plan_.machine);
    if (event->key.ends_with("/" + mine)) continue;
    if (event->value && event->key.starts_with(cat({"signal/", epoch_, "/"})))
      signals_.push_back(number_in(*event->value));
    failed |= event->key.starts_with(cat({"failed/", epoch_, "/"}));
    lost_ |= !event->value && event->key.starts_with(cat({"beat/", epoch_, "/"}));
  }
  return failed || lost_;
}

void Machines::failed_here() {
  if (order_ == 0) order_ = store_.add(cat({"order/", epoch_}), 1);
}

void Machines::pass_on(int signal) {
  store_.set(key("signal", plan_.machine), std::to_string(signal));
}

int Machines::next_signal() {
  if (signals_.empty()) return 0;
  const int signal = signals_.front();
  signals_.pop_front();
  return signal;
}

void Machines::stop_others() { store_.set(key("failed", plan_.machine), ""); }

Verdict Machines::agree(const Verdict& mine, const std::function<int()>& next_here) {
  failed_here();
  const nlohmann::json record = {{"order", order_},
                                 {"code", mine.code},
                                 {"weight", mine.weight},
                                 {"stop", mine.stop_signal},
                                 {"text", escaped(mine.text)}};
  store_.set(key("end", plan_.machine), record.dump());
  // A machine that only waits for its peers' ranks to finish waits as long as they work.
  while (!store_.check(keys("end")) && !others_failed()) {
    while (const int signal = next_here())
      if (signal != SIGCHLD) pass_on(signal);
    beat();
    watch_.next_event(kBeat);
  }
  try {
    store_.wait(keys("end"), kEnds);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::hang) throw;
  }
  Verdict best;
  int64_t best_order = 0;
  int stop = 0;
  const auto ends = store_.multi_get(keys("end"));
  for (int m = 0; m < plan_.machines; ++m) {
    const auto& text = ends[static_cast<size_t>(m)];
    const nlohmann::json end =
        text ? parse_json(*text, "store")
             : nlohmann::json{{"order", INT64_MAX},
                              {"code", static_cast<int>(ErrorKind::peer_lost)},
                              {"weight", 1},
                              {"stop", 0},
                              {"text", cat({"machine ", m, " is gone"})}};
    const auto order = end.at("order").get<int64_t>();
    const auto weight = end.at("weight").get<int>(), code = end.at("code").get<int>();
    stop = std::max(stop, end.at("stop").get<int>());
    if (code == 0) continue;
    if (best.code != 0 && std::pair(weight, order) >= std::pair(best.weight, best_order)) continue;
    best = {code, weight, 0, cat({"machine ", m, ": ", end.at("text").get<std::string>()})};
    best_order = order;
  }
  // The ranks of one machine may have lost those of another before the news of the signal came.
  if (stop != 0 && best.weight > 0 && best.code != static_cast<int>(ErrorKind::preempted))
    best.code = 128 + stop;
  best.stop_signal = stop;
  return best;
}

void Machines::part() {
  try {
    store_.set(key("part", plan_.machine), "");
    if (plan_.machine == 0) store_.wait(keys("part"), kParts);
  } catch (const Error&) {  // whoever is late hears nothing more
  }
}

}  // namespace pinion::accel
