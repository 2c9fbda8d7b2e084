// SPDX-License-Identifier: Apache-2.0
// The safetensors format, read and written to the letter: named tensors in one file that PyTorch
// and others read. A file is checked as a whole before memory is taken for a tensor; every error
// (data) names the file, and the tensor where there is one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/runtime/fs.h"
#include "pinion/runtime/named_tensor.h"

namespace pinion {

using SafetensorsMetadata = std::map<std::string, std::string>;

// strict refuses what the format's schema refuses; compat ignores unknown fields of a tensor's
// entry, as the reference reader does. Everything else is checked alike.
enum class SafetensorsMode : uint8_t { strict, compat };

// One tensor as the header describes it. Its dtype may be one that Tensor does not have.
struct SafetensorsEntry {
  std::string name;
  const char* dtype;           // as in the file: "F32", "BF16", "F8_E4M3"
  std::vector<int64_t> shape;  // of up to 64 dimensions
  uint64_t offset;             // in the data part of the file
  uint64_t bytes;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their data
  SafetensorsMetadata metadata;
  uint64_t data_begin = 0;  // offset of the data part in the file
};

// Bounds of a header: the format's own on its size, and ours on what it may hold.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;  // bytes, inclusive
inline constexpr size_t kMaxSafetensorsName = 4096;             // bytes
inline constexpr size_t kMaxSafetensorsRank = 64;
inline constexpr size_t kMaxSafetensorsTensors = 1'000'000;

// Checks and parses the beginning of a file of `file_size` bytes: the length field and the header
// it announces, of which `head` must hold all that the file has. `source` names the file in errors.
SafetensorsHeader parse_safetensors_header(std::string_view head, uint64_t file_size,
                                           std::string_view source,
                                           SafetensorsMode mode = SafetensorsMode::strict);

class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::string& path,
                             SafetensorsMode mode = SafetensorsMode::strict);
  explicit SafetensorsReader(File file, SafetensorsMode mode = SafetensorsMode::strict);

  const std::string& path() const { return file_.path(); }
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const SafetensorsMetadata& metadata() const { return header_.metadata; }
  const SafetensorsEntry* find(std::string_view name) const;  // null when there is none
  // The tensor in CPU memory, read from the file straight into its block.
  Tensor load(const SafetensorsEntry& entry) const;
  // Elements [begin, begin + count) of the tensor in row-major order, as [count].
  Tensor load(const SafetensorsEntry& entry, int64_t begin, int64_t count) const;

 private:
  void read_into(Tensor& tensor, const SafetensorsEntry& entry, int64_t begin) const;

  File file_;
  SafetensorsHeader header_;
  std::map<std::string_view, const SafetensorsEntry*> by_name_;
};

struct SafetensorsContents {
  std::vector<NamedTensor> tensors;  // in the order of the file
  SafetensorsMetadata metadata;
};
SafetensorsContents load_safetensors(const std::string& path,
                                     SafetensorsMode mode = SafetensorsMode::strict);

// Replaces the file at `path` atomically. Tensors may live on any device. Names must be unique,
// UTF-8, at most 4096 bytes long and not "__metadata__".
void save_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                      const SafetensorsMetadata& metadata = {});

// The bytes of such a file, piece by piece from its beginning, for who has a place of his own.
void write_safetensors(const std::function<void(const void* data, size_t bytes)>& write,
                       std::span<const NamedTensor> tensors,
                       const SafetensorsMetadata& metadata = {});

}  // namespace pinion
