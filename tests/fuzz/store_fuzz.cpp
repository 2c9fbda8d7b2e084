// SPDX-License-Identifier: Apache-2.0
// Fuzz target: the bytes are what two connections send to a store, in pieces. A first byte below
// 128 gives one of them the proof of the secret first; without it, no key may appear, whatever is
// sent.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "pinion/tests/dist/store_testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pinion::dist;
  static const StoreSecret secret = StoreSecret::random();
  if (size == 0) return 0;
  const bool member = data[0] < 128;
  std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  StoreService service(secret, {.run_id = "run"});
  StoreService::Time now{};
  const int64_t a = service.open(now), b = service.open(now);
  if (member) {
    service.receive(a, hello_to(service.output(a), secret, "run"), now);
    service.output(a).clear();
  }
  while (!rest.empty()) {  // a piece: whose it is and its length, then its bytes
    const auto head = static_cast<uint8_t>(rest[0]);
    rest.remove_prefix(1);
    const std::string_view piece = rest.substr(0, head & 127u);
    rest.remove_prefix(piece.size());
    service.receive(head & 128u ? b : a, piece, now);
    now += std::chrono::milliseconds(head);
    service.tick(now);
    const auto next = service.next_deadline();
    if (next && *next <= now) std::abort();  // tick() has dealt with all there was
    service.take_changed();
  }
  if (!member && service.keys() != 0) std::abort();
  // What a member gets are whole frames, of which each is as long as it says.
  bool too_long = false;
  std::string_view out = service.output(a);
  while (member && !out.empty()) {
    const auto frame = first_frame(out, kMaxAnswer, too_long);
    if (!frame || frame->empty()) std::abort();
    out.remove_prefix(4 + frame->size());
  }
  return 0;
}
