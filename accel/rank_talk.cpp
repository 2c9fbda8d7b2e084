// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/rank_talk.h"

#include <algorithm>
#include <exception>
#include <new>

namespace pinion::accel {
namespace {

// The first byte of what ranks send: 0 and a result, or the kind of an error and its text.
std::string error_message(ErrorKind kind, const std::string& text) {
  return static_cast<char>(kind) + text;
}

}  // namespace

std::vector<std::string> gather_texts(dist::ProcessGroup& group, const std::string& mine,
                                      Device device) {
  const int64_t size = group.size();
  Tensor lengths({size}, DType::i64, device);
  group
      .all_gather(lengths, Tensor::of<int64_t>({static_cast<int64_t>(mine.size())}, {1}).to(device))
      .wait();
  const std::vector<int64_t> length = lengths.values<int64_t>();
  const int64_t longest = *std::max_element(length.begin(), length.end());
  std::vector<std::string> out(static_cast<size_t>(size));
  if (longest == 0) return out;
  std::vector<uint8_t> bytes(mine.begin(), mine.end());
  bytes.resize(static_cast<size_t>(longest));
  Tensor all({size * longest}, DType::u8, device);
  group.all_gather(all, Tensor::of(bytes, {longest}).to(device)).wait();
  const Tensor host = all.to(Device{});
  const auto* at = static_cast<const char*>(host.view().data);
  for (size_t r = 0; r < out.size(); ++r)
    out[r].assign(at + static_cast<int64_t>(r) * longest, static_cast<size_t>(length[r]));
  return out;
}

std::vector<std::string> RankTalk::each(const std::function<std::string()>& f) const {
  if (size() == 1) return {f()};
  std::string mine;
  std::exception_ptr own;
  try {
    mine = '\0' + f();
  } catch (const Error& e) {
    mine = error_message(e.kind(), e.what()), own = std::current_exception();
  } catch (const std::bad_alloc& e) {
    mine = error_message(ErrorKind::out_of_memory, e.what()), own = std::current_exception();
  } catch (const std::exception& e) {
    mine = error_message(ErrorKind::internal, e.what()), own = std::current_exception();
  }
  std::vector<std::string> all = gather_texts(*group_, mine, device_);
  if (own) std::rethrow_exception(own);
  for (size_t r = 0; r < all.size(); ++r) {
    if (const char kind = all[r].front(); kind != '\0')  // never empty
      fail(static_cast<ErrorKind>(kind), {"rank ", r, ": ", all[r].substr(1)});
    all[r].erase(0, 1);
  }
  return all;
}

std::string RankTalk::first(const std::function<std::string()>& f) const {
  return each([&] { return rank() == 0 ? f() : std::string(); })[0];
}

}  // namespace pinion::accel
