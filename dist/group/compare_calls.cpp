// SPDX-License-Identifier: Apache-2.0
// Headers of calls as tensors of bytes that travel over a group of the hosts' memory.
#include "pinion/dist/group/compare_calls.h"

#include <cstring>
#include <vector>

namespace pinion::dist {
namespace {

constexpr int64_t kBytes = sizeof(CallHeader);

Tensor tensor_of(const CallHeader& header) {
  Tensor t({kBytes}, DType::u8);
  std::memcpy(t.mut().data, &header, sizeof header);
  return t;
}

CallHeader header_in(const Tensor& t, int index) {
  CallHeader header;
  std::memcpy(static_cast<void*>(&header), t.view().as<uint8_t>() + index * kBytes, sizeof header);
  return header;
}

void compare_message(ProcessGroup& host, const CallHeader& mine) {
  const Tensor answer({kBytes}, DType::u8);
  Work told = host.send(tensor_of(mine), mine.peer);
  host.receive(answer, mine.peer).wait();
  told.wait();
  const CallHeader theirs = header_in(answer, 0);
  const bool pair = (mine.operation == Operation::send) != (theirs.operation == Operation::send);
  if (!pair || mine.count != theirs.count || mine.dtype != theirs.dtype)
    fail_desync(host.rank(), mine, mine.peer, theirs);
}

}  // namespace

void compare_calls(ProcessGroup& host, const CallHeader& mine) {
  if (mine.operation == Operation::send || mine.operation == Operation::receive)
    return compare_message(host, mine);
  const Tensor all({host.size() * kBytes}, DType::u8);
  host.all_gather(all, tensor_of(mine)).wait();
  const CallHeader first = header_in(all, 0);
  for (int r = 1; r < host.size(); ++r)
    if (const CallHeader other = header_in(all, r); !other.matches(first))
      fail_desync(0, first, r, other);
}

}  // namespace pinion::dist
