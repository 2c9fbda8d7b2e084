// SPDX-License-Identifier: Apache-2.0
// Finds the largest batch that fits in memory by trying.
#pragma once

#include <new>
#include <type_traits>

#include "pinion/kernels/check.h"

namespace pinion::accel {

// Calls f(batch_size), and while it runs out of memory (Error of that kind, or std::bad_alloc)
// again with nine tenths of it, rounded down. Returns what f returns. Every other error passes.
// What f allocates must be its own, so that the memory of an attempt is free before the next.
template <class F>
std::invoke_result_t<F&, int64_t> find_executable_batch_size(int64_t starting_batch_size, F&& f) {
  for (int64_t size = starting_batch_size; size > 0; size = size * 9 / 10) {
    try {
      return f(size);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::out_of_memory) throw;
    } catch (const std::bad_alloc&) {  // the host's: the same again with less
    }
  }
  fail(ErrorKind::out_of_memory, {"find_executable_batch_size: no batch size fits, from ",
                                  starting_batch_size, " down to 1"});
}

}  // namespace pinion::accel
