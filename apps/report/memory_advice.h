// SPDX-License-Identifier: Apache-2.0
// Errors of memory that ran out, with what to change.
#pragma once

#include <new>
#include <string>

#include "pinion/kernels/check.h"

namespace pinion::report {

// What f returns; an Error (out_of_memory) of it, or std::bad_alloc, says `advice`, too.
template <class F>
auto advising(const std::string& advice, F&& f) {
  try {
    return f();
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::out_of_memory) throw;
    throw Error(e.kind(), e.what() + ("; " + advice));
  } catch (const std::bad_alloc&) {
    throw Error(ErrorKind::out_of_memory, "out of memory of the host; " + advice);
  }
}

}  // namespace pinion::report
