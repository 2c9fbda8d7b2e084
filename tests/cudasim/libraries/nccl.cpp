// SPDX-License-Identifier: Apache-2.0
// The stand-in for NCCL: ranks are threads of this process, each with a simulated device. What they
// do with each other happens when the last of them gets there in its stream; who never comes keeps
// the others' streams waiting until each of them aborts, as the kernels of NCCL do. Only
// communicators that do not block: every call goes on for a while after it has returned.
#include <nccl.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <vector>

#include "fake_libraries.h"
#include "host_threads.h"
#include "pinion/dist/group/reduce.h"

using cudasim::fake_libraries;

namespace cudasim {
namespace {

enum class Kind : uint8_t { all_reduce, reduce_scatter, all_gather, broadcast, send, receive };

// One operation of a rank.
struct Op {
  Kind kind;
  const void* from;
  void* to;
  size_t count;
  ncclDataType_t type;
  ncclRedOp_t op = ncclSum;
  int peer = -1;  // or the root

  bool is_message() const { return kind == Kind::send || kind == Kind::receive; }
  bool fits(const Op& o) const {
    return count == o.count && type == o.type &&
           (is_message() || (kind == o.kind && op == o.op && peer == o.peer));
  }
};
// An operation that a stream has come to; `left` counts those of its call that are not done.
struct Arrived {
  Op op;
  ncclComm_t comm;
  std::shared_ptr<size_t> left;
};

// The ranks of one identifier.
struct Clique {
  int ranks = 0;
  std::map<int, ncclComm_t> members;
  std::map<uint64_t, std::map<int, Arrived>> collectives;           // by their number, by rank
  std::map<std::pair<int, int>, std::deque<Arrived>> sent, wanted;  // by (from, to)
};

}  // namespace
}  // namespace cudasim

struct ncclComm {
  std::shared_ptr<cudasim::Clique> clique;
  int rank, device = 0;
  ncclResult_t state = ncclSuccess;
  int polls = 0;                // that will still be answered with ncclInProgress
  std::function<bool()> ready;  // whether what is in progress can end
  std::function<void()> then;   // what its end does
  uint64_t collectives = 0;     // that its stream has come to
  size_t open = 0;              // calls that its streams are not through with
  bool aborted = false, finalized = false;
};

namespace cudasim {
namespace {

struct Library {
  std::set<std::string> issued;  // identifiers
  std::map<std::string, std::shared_ptr<Clique>> cliques;
  std::set<ncclComm_t> live;  // those that are gone are kept, so that their address is not reused
};
Library& library() {
  static auto* const all = new Library;
  return *all;
}

struct Group {  // of this thread
  int depth = 0;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<Op> ops;
};
thread_local Group group;

ncclResult_t refuse(ncclResult_t result, const std::string& why) {
  fake_libraries().wrong = "NCCL: " + why;
  return result;
}

// Whether the communicator may be called now, for anything but its state and its end.
ncclResult_t check(ncclComm_t comm) {
  if (library().live.count(comm) == 0)
    return refuse(ncclInvalidArgument, "a communicator that was never made, or is gone");
  if (comm->state == ncclInProgress)
    return refuse(ncclInvalidUsage, "a call while another is in progress");
  if (comm->finalized) return refuse(ncclInvalidUsage, "a call after the communicator's end");
  return ncclSuccess;
}

ncclResult_t begin(ncclComm_t comm, std::function<bool()> ready, std::function<void()> then) {
  comm->polls = fake_libraries().nccl_polls;
  comm->ready = std::move(ready);
  comm->then = std::move(then);
  return comm->state = ncclInProgress;
}

// --- what happens in the streams ---

// By NCCL's numbers; those that the table's user does not name are left to their neighbours.
pinion::DType dtype_of(ncclDataType_t type) {
  using enum pinion::DType;
  constexpr pinion::DType kTypes[] = {u8, u8, i32, i32, i64, i64, f16, f32, f64, bf16};
  return kTypes[type];
}
pinion::dist::ReduceOp reduction_of(ncclRedOp_t op) {
  using enum pinion::dist::ReduceOp;
  constexpr pinion::dist::ReduceOp kOps[] = {sum, sum, max, min, mean};
  return kOps[op];
}
size_t bytes_of(const Op& op) {
  return op.count * static_cast<size_t>(pinion::size_of(dtype_of(op.type)));
}

// What the ranks make of their data together; every rank gets it, or its part of it.
std::vector<char> result_of(const std::map<int, Arrived>& all) {
  const Op& op = all.begin()->second.op;
  const size_t parts = op.kind == Kind::all_reduce ? 1 : all.size(), bytes = bytes_of(op);
  const auto data_of = [&](int rank) { return static_cast<const char*>(all.at(rank).op.from); };
  if (op.kind == Kind::broadcast) return {data_of(op.peer), data_of(op.peer) + bytes};
  std::vector<char> out(op.kind == Kind::all_gather ? 0 : parts * bytes);
  std::vector<const void*> in;
  for (const auto& [rank, arrived] : all) {
    in.push_back(arrived.op.from);
    if (op.kind == Kind::all_gather) out.insert(out.end(), data_of(rank), data_of(rank) + bytes);
  }
  void* const to = out.data();
  if (op.kind != Kind::all_gather)
    pinion::dist::reduce(reduction_of(op.op), dtype_of(op.type), in, {&to, 1},
                         static_cast<int64_t>(op.count * parts));
  return out;
}

// Ranks whose calls do not fit never come together: NCCL notices nothing of it either.
void come_together(const std::map<int, Arrived>& all) {
  const Op& first = all.begin()->second.op;
  for (const auto& [rank, arrived] : all) {
    if (arrived.comm->aborted) return;
    if (!arrived.op.fits(first)) return void(refuse(ncclSuccess, "ranks that call differently"));
  }
  const std::vector<char> result = result_of(all);
  for (const auto& [rank, arrived] : all) {
    const bool part = first.kind == Kind::reduce_scatter;
    const size_t bytes = part ? bytes_of(first) : result.size();
    if (bytes)
      std::memcpy(arrived.op.to, result.data() + (part ? static_cast<size_t>(rank) * bytes : 0),
                  bytes);
    --*arrived.left;
  }
}

void deliver(Clique& clique, std::pair<int, int> way) {
  auto &sent = clique.sent[way], &wanted = clique.wanted[way];
  while (!sent.empty() && !wanted.empty()) {
    const Arrived from = sent.front(), to = wanted.front();
    if (from.comm->aborted || to.comm->aborted) return;
    if (!from.op.fits(to.op)) return void(refuse(ncclSuccess, "a message of another size"));
    if (bytes_of(from.op)) std::memcpy(to.op.to, from.op.from, bytes_of(from.op));
    --*from.left, --*to.left;
    sent.pop_front(), wanted.pop_front();
  }
}

void arrive(ncclComm_t comm, const std::vector<Op>& ops, const std::shared_ptr<size_t>& left) {
  if (comm->aborted || comm->rank == fake_libraries().nccl_lost_rank) return;
  Clique& clique = *comm->clique;
  for (const Op& op : ops) {
    const Arrived here{op, comm, left};
    if (op.is_message()) {
      const bool sends = op.kind == Kind::send;
      const std::pair<int, int> way{sends ? comm->rank : op.peer, sends ? op.peer : comm->rank};
      (sends ? clique.sent : clique.wanted)[way].push_back(here);
      deliver(clique, way);
      continue;
    }
    std::map<int, Arrived>& all = clique.collectives[comm->collectives++];
    all.emplace(comm->rank, here);
    if (all.size() == static_cast<size_t>(clique.ranks)) come_together(all);
  }
}

void put_on_stream(ncclComm_t comm, cudaStream_t stream, const std::vector<Op>& ops) {
  const auto left = std::make_shared<size_t>(ops.size());
  enqueue_work(stream, [=] { arrive(comm, ops, left); });
  enqueue_wait_for_others(stream, [=] { return *left == 0 || comm->aborted; });
  enqueue_work(stream, [=] { --comm->open; });
}

// --- calls ---

ncclResult_t launch(ncclComm_t comm, cudaStream_t stream, const std::vector<Op>& ops) {
  if (const ncclResult_t wrong = check(comm)) return wrong;
  const auto ranks = static_cast<size_t>(comm->clique->ranks);
  for (const Op& op : ops) {
    const size_t in = op.kind == Kind::reduce_scatter ? ranks : 1;
    const size_t out = op.kind == Kind::all_gather ? ranks : 1;
    if ((op.from && !is_device_memory(op.from, in * bytes_of(op))) ||
        (op.to && !is_device_memory(op.to, out * bytes_of(op))))
      return refuse(ncclInvalidArgument, "data that is not in the device's memory");
    if (op.peer >= static_cast<int>(ranks)) return refuse(ncclInvalidArgument, "no such rank");
  }
  ++comm->open;
  return begin(
      comm, [] { return true; }, [=] { put_on_stream(comm, stream, ops); });
}

ncclResult_t call(ncclComm_t comm, cudaStream_t stream, const Op& op) {
  const auto lock = lock_runtime();
  if (group.depth == 0 && op.is_message() && op.peer == comm->rank)
    return refuse(ncclInvalidUsage, "a message of a rank to itself outside of a group");
  if (group.depth == 0) return launch(comm, stream, {op});
  if (!group.ops.empty() && (group.comm != comm || group.stream != stream))
    return refuse(ncclInvalidUsage, "a group of several communicators or streams");
  group.comm = comm;
  group.stream = stream;
  group.ops.push_back(op);
  return ncclSuccess;
}

}  // namespace
}  // namespace cudasim

using namespace cudasim;  // NOLINT: the functions themselves have C's names

ncclResult_t ncclGetVersion(int* version) {
  *version = 22809;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited" : "an error of the stand-in";
}
const char* ncclGetLastError(ncclComm_t) {
  const auto lock = lock_runtime();
  static std::string last;
  last = fake_libraries().wrong;
  return last.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const auto lock = lock_runtime();
  const std::string text = "identifier " + std::to_string(library().issued.size());
  library().issued.insert(text);
  std::memset(id->internal, 0, sizeof id->internal);
  std::memcpy(id->internal, text.data(), text.size());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  const auto lock = lock_runtime();
  *comm = nullptr;
  const ncclConfig_t initial = NCCL_CONFIG_INITIALIZER;
  if (!config || config->magic != initial.magic || config->blocking != 0)
    return refuse(ncclInvalidArgument, "a communicator that blocks, which this is no stand-in for");
  if (library().issued.count(id.internal) == 0)
    return refuse(ncclInvalidArgument, "an identifier that NCCL has not given");
  std::shared_ptr<Clique>& clique = library().cliques[id.internal];
  if (!clique) clique = std::make_shared<Clique>(), clique->ranks = ranks;
  if (clique->ranks != ranks || rank < 0 || rank >= ranks)
    return refuse(ncclInvalidArgument, "ranks that do not agree on their number");
  const int device = current_device();
  for (const auto& [other, member] : clique->members)
    if (other == rank || member->device == device)
      return refuse(ncclInvalidUsage, other == rank ? "a rank that has joined before"
                                                    : "a device that another rank has");
  *comm = clique->members[rank] = new ncclComm{clique, rank};
  (*comm)->device = device;
  library().live.insert(*comm);
  const Clique* const all = clique.get();
  return begin(*comm, [all] { return all->members.size() == static_cast<size_t>(all->ranks); }, {});
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  const auto lock = lock_runtime();
  if (library().live.count(comm) == 0)
    return refuse(ncclInvalidArgument, "the state of a communicator that is gone");
  const int lost = fake_libraries().nccl_lost_rank;
  if (comm->state == ncclInProgress && --comm->polls < 0 && comm->ready()) {
    comm->state = ncclSuccess;
    if (const std::function<void()> then = std::exchange(comm->then, {})) then();
  }
  *error = lost >= 0 && lost != comm->rank ? ncclRemoteError : comm->state;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const auto lock = lock_runtime();
  if (const ncclResult_t wrong = check(comm)) return wrong;
  return begin(
      comm, [comm] { return comm->open == 0; }, [comm] { comm->finalized = true; });
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const auto lock = lock_runtime();
  if (library().live.count(comm) == 0 || !comm->finalized)
    return refuse(ncclInvalidUsage, "the end of a communicator that is not finalized");
  library().live.erase(comm);
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const auto lock = lock_runtime();
  if (library().live.erase(comm) == 0)
    return refuse(ncclInvalidArgument, "the abort of a communicator that is gone");
  comm->aborted = true;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::all_reduce, from, to, count, type, op});
}
ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::reduce_scatter, from, to, count, type, op});
}
ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::all_gather, from, to, count, type});
}
ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::broadcast, from, to, count, type, ncclSum, root});
}
ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::send, from, nullptr, count, type, ncclSum, peer});
}
ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call(comm, stream, {Kind::receive, nullptr, to, count, type, ncclSum, peer});
}

ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  const auto lock = lock_runtime();
  if (group.depth == 0) return refuse(ncclInvalidUsage, "the end of a group that was not begun");
  if (--group.depth > 0 || group.ops.empty()) return ncclSuccess;
  const Group done = std::exchange(group, {});
  return launch(done.comm, done.stream, done.ops);
}
