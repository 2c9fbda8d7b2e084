// SPDX-License-Identifier: Apache-2.0
// Formats error messages, out of the way of the code that checks.
#include "pinion/kernels/check.h"

#include <cstdio>

#include "pinion/kernels/types.h"

namespace pinion {

void Part::append_to(std::string& out) const {
  switch (tag_) {
    case Tag::text: out += text_; return;
    case Tag::integer: out += std::to_string(integer_); return;
    case Tag::natural: out += std::to_string(natural_); return;
    case Tag::real: {
      char buffer[32];
      std::snprintf(buffer, sizeof buffer, "%.9g", real_);
      out += buffer;
      return;
    }
    case Tag::shape: {
      out += '[';
      for (int i = 0; i < shape_->rank(); ++i) {
        if (i) out += ',';
        out += std::to_string((*shape_)[i]);
      }
      out += ']';
      return;
    }
    case Tag::dtype: out += name_of(dtype_); return;
  }
}

std::string cat(std::initializer_list<Part> parts) {
  std::string out;
  for (const Part& part : parts) part.append_to(out);
  return out;
}

void fail(ErrorKind kind, std::initializer_list<Part> parts) { throw Error(kind, cat(parts)); }

void fail_check(const char* condition, const char* file, int line,
                std::initializer_list<Part> parts) {
  throw Error(ErrorKind::internal, cat(parts) + cat({"  (", condition, ") at ", file, ":", line}));
}

}  // namespace pinion
