// SPDX-License-Identifier: Apache-2.0
// main() for a fuzz target where libFuzzer is not: runs it on every file of the folder named as the
// first argument, and on as many damaged copies as the second one says. The damage is the same in
// every run.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "pinion/kernels/philox.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

class Dice {
 public:
  uint32_t below(size_t n) {
    if (at_ % 4 == 0) block_ = pinion::philox({2026, 0, 0}, at_ / 4);
    return block_.v[at_++ % 4] % static_cast<uint32_t>(n ? n : 1);
  }

 private:
  pinion::Philox4 block_{};
  uint64_t at_ = 0;
};

// Changes, drops, repeats or inserts a few bytes, or goes on with the rest of another file.
std::string damaged(std::string text, const std::string& other, Dice& dice) {
  constexpr std::string_view kTelling = "\"\\{}[]:,-+.eE0123456789 \n\t#&*!|>%@`'~\0\xff";
  for (uint32_t times = 1 + dice.below(4); times > 0; --times) {
    const size_t at = dice.below(text.size() + 1), count = 1 + dice.below(8);
    const char byte =
        dice.below(2) ? kTelling[dice.below(kTelling.size())] : static_cast<char>(dice.below(256));
    switch (dice.below(5)) {
      case 0:
        if (at < text.size()) text[at] = byte;
        break;
      case 1: text.erase(at, count); break;
      case 2: text.insert(at, text.substr(at, count)); break;
      case 3: text.insert(at, count, byte); break;
      default: text = text.substr(0, at) + other.substr(dice.below(other.size() + 1));
    }
  }
  return text;
}

void run(const std::string& text) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s FOLDER DAMAGED_COPIES\n", argv[0]);
    return 64;
  }
  std::set<std::filesystem::path> paths;  // in the same order everywhere
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) paths.insert(entry.path());
  std::vector<std::string> files;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  if (files.empty()) {
    std::fprintf(stderr, "%s: expected files to start from, found none\n", argv[1]);
    return 66;
  }
  for (const std::string& text : files) run(text);
  Dice dice;
  const long copies = std::strtol(argv[2], nullptr, 10);
  for (long i = 0; i < copies; ++i)
    run(damaged(files[dice.below(files.size())], files[dice.below(files.size())], dice));
  std::printf("%zu files and %ld damaged copies\n", files.size(), copies);
}
