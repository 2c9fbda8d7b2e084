// SPDX-License-Identifier: Apache-2.0
// Starts ranks and looks after them until all have ended.
#include "pinion/accel/launch/attempt.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

constexpr auto kTermGrace = std::chrono::seconds(10);     // between SIGTERM and SIGKILL
constexpr auto kTraceGrace = std::chrono::seconds(2);     // where there is only a trace to write
constexpr auto kSettle = std::chrono::milliseconds(500);  // for a cause to show after a consequence
constexpr auto kPreempted = std::chrono::seconds(10);     // for all ranks to stop when one has

// What an event belongs to: its kind in the low bits, the local rank above.
enum Tag : uint64_t { kSignal, kEnd, kOut, kErr, kMachines, kTags };
uint64_t tag_of(Tag kind, int rank) { return static_cast<uint64_t>(rank) * kTags + kind; }

int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// The share of rank r of n of the CPUs that this process may use.
std::vector<int> cpus_of(int r, int n) {
  cpu_set_t set;
  std::vector<int> all, mine;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return {};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(static_cast<size_t>(cpu), &set)) all.push_back(cpu);
  const int count = static_cast<int>(all.size());
  if (count < n) return {};  // nothing to bind to: they share
  for (int i = r * count / n; i < (r + 1) * count / n; ++i)
    mine.push_back(all[static_cast<size_t>(i)]);
  return mine;
}

bool is_stopped(pid_t pid) {
  // "123 (name) T …": the name may hold anything.
  try {
    const std::string stat = read_file(cat({"/proc/", static_cast<int>(pid), "/stat"}), 4096);
    const size_t name_end = stat.rfind(") ");
    return name_end != stat.npos && (stat[name_end + 2] == 'T' || stat[name_end + 2] == 't');
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

// --- signals -------------------------------------------------------------------------------------

namespace {

sigset_t set_of(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  return set;
}

const sigset_t kToStop = set_of({SIGTERM, SIGINT, SIGHUP, SIGQUIT});

}  // namespace

SignalSource::SignalSource() {
  ::signal(SIGPIPE, SIG_IGN);
  const sigset_t set = set_of({SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD});
  sigprocmask(SIG_BLOCK, &set, &before_);
  fd_ = Fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  PINION_REQUIRE(io, fd_, "signalfd: ", std::strerror(errno));
}

SignalSource::~SignalSource() { sigprocmask(SIG_SETMASK, &before_, nullptr); }

int SignalSource::next() {
  signalfd_siginfo info{};
  return read(fd_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
}

SignalSource::EndsAtOnce::EndsAtOnce() { sigprocmask(SIG_UNBLOCK, &kToStop, nullptr); }
SignalSource::EndsAtOnce::~EndsAtOnce() { sigprocmask(SIG_BLOCK, &kToStop, nullptr); }

// --- starting ------------------------------------------------------------------------------------

Attempt::Attempt(const LaunchPlan& plan, const LaunchState& state, SignalSource& signals,
                 Warden& warden, Machines* machines)
    : plan_(plan),
      state_(state),
      signals_(signals),
      warden_(warden),
      machines_(machines),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      ranks_(static_cast<size_t>(plan.local_ranks)) {
  PINION_REQUIRE(io, epoll_, "epoll_create1: ", std::strerror(errno));
  if (plan.machines > 1) return;
  try {
    shared_ = dist::ShmSegment::create(plan.ranks);
    state_.shm_fd = shared_->fd();
  } catch (const Error& e) {  // programs that share nothing run all the same
    log_warn({"launch: ranks have no shared memory: ", e.what()});
  }
}

Attempt::~Attempt() { clean_up(); }

namespace {

void add(const Fd& epoll, int fd, uint64_t tag) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  PINION_REQUIRE(io, epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0,
                 "epoll_ctl: ", std::strerror(errno));
}

}  // namespace

// The stream `which` (1, 2) of a rank: through a pipe where it is shared with other ranks or kept,
// else the launcher's own. A terminal is given to rank 0 as it is, so that its bar is drawn well.
std::unique_ptr<OutputStream> Attempt::stream(int local_rank, int which, SpawnRequest& request,
                                              std::vector<Fd>& ours) {
  const int rank = plan_.first_rank + local_rank;
  const bool tee = (plan_.tee[static_cast<size_t>(local_rank)] & which) != 0;
  const bool shared = plan_.ranks > 1 && !(rank == 0 && isatty(which) != 0);
  if (!tee && !shared) return nullptr;
  std::string file;
  if (tee) file = log_folder(plan_, state_, rank) + (which == 1 ? "/stdout.log" : "/stderr.log");
  Pipe pipe;
  (which == 1 ? request.out : request.err) = pipe.write.get();
  ours.push_back(std::move(pipe.write));
  const std::string prefix = plan_.ranks > 1 ? cat({"[rank ", rank, "] "}) : "";
  auto stream = std::make_unique<OutputStream>(std::move(pipe.read), which, prefix, file);
  add(epoll_, stream->fd(), tag_of(which == 1 ? kOut : kErr, local_rank));
  return stream;
}

void Attempt::start(int local_rank) {
  Rank& rank = ranks_[static_cast<size_t>(local_rank)];
  SpawnRequest request;
  request.program = plan_.program;
  request.argv = plan_.argv;
  request.environment = rank_environment(plan_, state_, local_rank);
  for (const int fd : {state_.secret_fd, state_.shm_fd})
    if (fd >= 0) request.keep.push_back(fd);
  if (!plan_.log_dir.empty()) make_dirs(log_folder(plan_, state_, plan_.first_rank + local_rank));
  if (plan_.cpu_affinity) request.cpus = cpus_of(local_rank, plan_.local_ranks);
  std::vector<Fd> ours;  // the ends of pipes that the rank gets
  rank.out = stream(local_rank, 1, request, ours);
  rank.err = stream(local_rank, 2, request, ours);
  // Our input goes to rank 0; not a terminal, which stops whoever reads it from the background.
  Fd null;
  if (local_rank != 0 || isatty(0) != 0) {
    null = Fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    request.in = null.get();
  }
  remove_file(error_file(plan_, state_, plan_.first_rank + local_rank));
  rank.process = spawn(request);
  rank.running = true;
  warden_.watch(rank.process.pid);
  add(epoll_, rank.process.pidfd.get(), tag_of(kEnd, local_rank));
}

// --- looking after -------------------------------------------------------------------------------

AttemptResult Attempt::run() {
  for (int r = 0; r < plan_.local_ranks; ++r) start(r);
  for (Rank& rank : ranks_) expect_running(rank.process, plan_.program);
  add(epoll_, signals_.fd(), tag_of(kSignal, 0));
  if (machines_) add(epoll_, machines_->fd(), tag_of(kMachines, 0));
  while (any_running()) {
    epoll_event events[64];
    const int n = epoll_wait(epoll_.get(), events, 64, milliseconds_to_deadline());
    PINION_REQUIRE(io, n >= 0 || errno == EINTR, "epoll_wait: ", std::strerror(errno));
    for (int i = 0; i < n; ++i) handle(events[i].data.u64);
    watch_deadlines();
  }
  clean_up();
  return std::move(result_);
}

void Attempt::handle(uint64_t tag) {
  const int local_rank = static_cast<int>(tag / kTags);
  Rank& rank = ranks_[static_cast<size_t>(local_rank)];
  switch (static_cast<Tag>(tag % kTags)) {
    case kSignal:
      while (const int signal = signals_.next())
        signal == SIGCHLD ? report_stops() : take_signal(signal);
      break;
    case kEnd: take_end(local_rank); break;
    case kOut: rank.out->pump(); break;
    case kErr: rank.err->pump(); break;
    case kMachines:
    case kTags: hear_machines(); break;
  }
}

void Attempt::hear_machines() {
  const bool failed = machines_->others_failed();
  while (const int signal = machines_->next_signal()) hear_signal(signal);
  if (failed && !stop_at_ && !kill_at_) stop_at_ = Clock::now();
}

// Descriptors of processes become ready in the order in which the processes end, and epoll keeps
// that order; the children's own list, which waitid(P_ALL) goes through, does not.
void Attempt::take_end(int local_rank) {
  Rank& rank = ranks_[static_cast<size_t>(local_rank)];
  siginfo_t info{};
  if (!rank.running ||
      waitid(P_PIDFD, static_cast<id_t>(rank.process.pidfd.get()), &info, WEXITED | WNOHANG) != 0 ||
      info.si_pid == 0)
    return;
  rank.running = false;
  rank.process.pidfd.reset();
  for (OutputStream* stream : {rank.out.get(), rank.err.get()})
    if (stream) stream->pump();
  RankEnd end;
  end.rank = plan_.first_rank + local_rank;
  end.pid = rank.process.pid;
  end.signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
  end.code = end.signal != 0 ? 128 + end.signal : info.si_status;
  end.stuck = rank.stuck;
  if (!end.stuck.empty()) end.code = static_cast<int>(ErrorKind::hang);
  end.told = rank.told;
  end.told_ns = rank.told_ns;
  end.forwarded = result_.stop_signal;
  const std::string record = error_file(plan_, state_, end.rank);
  end.error = read_error_record(record);
  if (!plan_.log_dir.empty()) end.error_file = record;
  if (rank.err) end.last_lines = rank.err->last_lines();
  if (end.last_lines.empty() && rank.out) end.last_lines = rank.out->last_lines();
  result_.ends.push_back(end);
  // Ranks that wait for this one hear of it at once, not by a timeout.
  if (shared_ && end.code != 0) shared_->abort(describe(end));
  if (machines_ && end.code != 0) machines_->failed_here();
  after_end(end);
}

// The first rank that fails ends the others. When it only lost its peers, or stopped as it was
// asked to by somebody else, the others get a moment to do what they are about to do by themselves.
void Attempt::after_end(const RankEnd& end) {
  if (end.code == 0 || result_.stop_signal != 0 || stop_at_ || kill_at_) return;
  const auto now = Clock::now();
  switch (static_cast<ErrorKind>(end.code)) {
    case ErrorKind::preempted: stop_at_ = now + kPreempted; break;
    case ErrorKind::peer_lost:
    case ErrorKind::hang: stop_at_ = now + kSettle; break;
    default: stop_at_ = now;
  }
}

// A rank that somebody stopped waits for SIGCONT for as long as it takes. Its peers would find out
// by their timeout, but nobody does when all are stopped.
void Attempt::report_stops() {
  for (int r = 0; r < plan_.local_ranks; ++r) {
    const Rank& rank = ranks_[static_cast<size_t>(r)];
    siginfo_t info{};
    if (!rank.running || waitid(P_PIDFD, static_cast<id_t>(rank.process.pidfd.get()), &info,
                                WSTOPPED | WCONTINUED | WNOHANG) != 0)
      continue;
    const std::string who = cat({"launch: rank ", plan_.first_rank + r, " (process ",
                                 static_cast<int>(rank.process.pid), ") "});
    if (info.si_code == CLD_STOPPED) log_warn({who, "was stopped by a signal; SIGCONT wakes it"});
    if (info.si_code == CLD_CONTINUED) log_warn({who, "goes on"});
  }
}

// One machine's launcher was told: all hear it, so that all stop, or go on, alike.
void Attempt::take_signal(int signal) {
  if (machines_) machines_->pass_on(signal);
  hear_signal(signal);
}

void Attempt::hear_signal(int signal) {
  const bool repeated = std::count(forwarded_.begin(), forwarded_.end(), signal) > 0;
  if (repeated && signal == SIGINT) return tell_to_stop(SIGKILL);
  if (repeated) return;
  forwarded_.push_back(signal);
  if (signal != SIGUSR1 && signal != SIGUSR2) {
    if (result_.stop_signal == 0) result_.stop_signal = signal;
    if (!kill_at_)
      kill_at_ =
          Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(1000 * plan_.grace_period));
  }
  send(signal);
}

// Ranks that waited too long have all said so by now (ErrorKind::hang): their group was broken for
// them at the same moment. Whoever still runs never came to what they waited for.
bool Attempt::find_stuck() {
  const auto hung = [](const RankEnd& end) {
    return end.code == static_cast<int>(ErrorKind::hang);
  };
  if (std::none_of(result_.ends.begin(), result_.ends.end(), hung)) return false;
  for (int r = 0; r < plan_.local_ranks; ++r)
    if (ranks_[static_cast<size_t>(r)].running)
      ranks_[static_cast<size_t>(r)].stuck = what_it_does(r);
  return true;
}

std::string Attempt::what_it_does(int local_rank) const {
  const int pid = ranks_[static_cast<size_t>(local_rank)].process.pid;
  std::string text = is_stopped(pid) ? "was stopped by a signal" : "was running";
  if (!shared_) return text;
  const std::string call = shared_->recent_calls(plan_.first_rank + local_rank, 1);
  if (call.empty()) return text + " and had not called its group";
  return text + "; its last call was " + call.substr(0, call.size() - 1);
}

void Attempt::watch_deadlines() {
  const auto now = Clock::now();
  if (machines_) machines_->beat();
  if (stop_at_ && now >= *stop_at_) {
    stop_at_.reset();
    if (machines_) machines_->stop_others();
    // Whoever has ended by now has not ended because of us.
    for (int r = 0; r < plan_.local_ranks; ++r) take_end(r);
    const bool stuck = find_stuck();
    tell_to_stop(SIGTERM);
    kill_at_ = now + (stuck ? kTraceGrace : kTermGrace);
  }
  if (kill_at_ && now >= *kill_at_) {
    tell_to_stop(SIGKILL);
    kill_at_ = now + kTermGrace;
  }
}

int Attempt::milliseconds_to_deadline() const {
  auto next = Clock::time_point::max();
  if (stop_at_) next = std::min(next, *stop_at_);
  if (kill_at_) next = std::min(next, *kill_at_);
  if (machines_) next = std::min(next, Clock::now() + Machines::kBeat);
  if (next == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
}

bool Attempt::any_running() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.running; });
}

void Attempt::send(int signal) {
  for (const Rank& rank : ranks_) {
    if (!rank.running) continue;
    // One that is stuck has nothing to save, but can say where it is (accel/crash_record.h).
    const bool ask_where = signal == SIGTERM && !rank.stuck.empty();
    kill(-rank.process.pid, ask_where ? SIGQUIT : signal);
    kill(-rank.process.pid, SIGCONT);  // one that was stopped could not hear it
  }
}

void Attempt::tell_to_stop(int signal) {
  for (Rank& rank : ranks_)
    if (rank.running && !rank.told) rank.told = true, rank.told_ns = monotonic_ns();
  send(signal);
}

// No process of this attempt stays: whatever a rank has left in its group, or set adrift. What it
// printed last is shown.
void Attempt::clean_up() {
  bool any = false;
  for (Rank& rank : ranks_) {
    if (rank.process.pid == 0) continue;
    any = true;
    kill(-rank.process.pid, SIGKILL);
  }
  if (any) kill_children(warden_.pid());
  for (Rank& rank : ranks_) {
    if (rank.process.pid != 0) warden_.forget(rank.process.pid);
    for (OutputStream* stream : {rank.out.get(), rank.err.get()})
      if (stream && stream->pump()) stream->finish();
    rank = Rank();
  }
}

}  // namespace pinion::accel
