// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/rank_talk.h"

#include <exception>
#include <new>

#include "pinion/accel/gather.h"

namespace pinion::accel {
namespace {

// The first byte of what ranks send: 0 and a result, or the kind of an error and its text.
std::string error_message(ErrorKind kind, const std::string& text) {
  return static_cast<char>(kind) + text;
}

}  // namespace

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
  std::vector<std::string> all = gather_text(*group_, device_, mine);
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
