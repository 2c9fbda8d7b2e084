// SPDX-License-Identifier: Apache-2.0
// Reads and writes safetensors files.
#include "pinion/runtime/safetensors.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "pinion/runtime/checked.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"

namespace pinion {
namespace {

// The dtypes that Tensor shares with the format, in the order of the file: the reference writer's,
// by descending alignment.
struct SharedType {
  const char* name;
  DType dtype;
};
constexpr SharedType kSharedTypes[] = {
    {"I64", DType::i64},   {"F64", DType::f64}, {"F32", DType::f32}, {"I32", DType::i32},
    {"BF16", DType::bf16}, {"F16", DType::f16}, {"U8", DType::u8},   {"BOOL", DType::boolean},
};

size_t rank_of(DType dtype) {
  const auto at = std::find_if(std::begin(kSharedTypes), std::end(kSharedTypes),
                               [&](const SharedType& type) { return type.dtype == dtype; });
  return static_cast<size_t>(at - std::begin(kSharedTypes));
}

DType dtype_of_entry(const SafetensorsEntry& entry, const std::string& path) {
  const auto* type =
      std::find_if(std::begin(kSharedTypes), std::end(kSharedTypes),
                   [&](const SharedType& t) { return std::strcmp(t.name, entry.dtype) == 0; });
  PINION_REQUIRE(data, type != std::end(kSharedTypes), escaped(path),
                 ": unsupported dtype of tensor ", quoted(entry.name, 120),
                 ": expected F64, F32, BF16, F16, I64, I32, U8 or BOOL, got ", entry.dtype);
  return type->dtype;
}

uint64_t bytes_of(const Tensor& tensor) {
  return static_cast<uint64_t>(tensor.numel()) * static_cast<uint64_t>(size_of(tensor.dtype()));
}

SafetensorsHeader read_header(const File& file, SafetensorsMode mode) {
  const auto size = static_cast<uint64_t>(file.size());
  uint64_t length = 0;
  std::string head(std::min<uint64_t>(size, sizeof length), '\0');
  file.read(head.data(), head.size(), 0);
  if (head.size() == sizeof length) {
    std::memcpy(&length, head.data(), sizeof length);
    // A length that the checks will refuse costs no memory.
    if (length <= kMaxSafetensorsHeader && length <= size - sizeof length) {
      head.resize(sizeof length + length);
      file.read(head.data() + sizeof length, length, sizeof length);
    }
  }
  return parse_safetensors_header(head, size, escaped(file.path()), mode);
}

// The tensors in the order of the file.
std::vector<const NamedTensor*> in_file_order(std::span<const NamedTensor> tensors) {
  std::vector<const NamedTensor*> order;
  order.reserve(tensors.size());
  for (const NamedTensor& t : tensors) {
    PINION_CHECK(t.tensor.defined(), "save_safetensors: tensor ", quoted(t.name, 120),
                 " must be defined, got an undefined one");
    PINION_CHECK(t.name.size() <= kMaxSafetensorsName && t.name != "__metadata__",
                 "save_safetensors: names must have at most ", kMaxSafetensorsName,
                 " bytes and not be __metadata__, got ", quoted(t.name, 120));
    order.push_back(&t);
  }
  std::sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    const size_t left = rank_of(a->tensor.dtype()), right = rank_of(b->tensor.dtype());
    return left != right ? left < right : a->name < b->name;
  });
  std::vector<std::string_view> names;
  names.reserve(order.size());
  for (const NamedTensor* t : order) names.push_back(t->name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  PINION_CHECK(twice == names.end(), "save_safetensors: names must be unique, got ",
               quoted(twice == names.end() ? "" : *twice, 120), " twice");
  return order;
}

std::string header_text(const std::vector<const NamedTensor*>& order,
                        const SafetensorsMetadata& metadata) {
  std::string text = "{";
  const auto check_size = [&](size_t more) {
    PINION_CHECK(text.size() + more <= kMaxSafetensorsHeader,
                 "save_safetensors: the header must have at most ", kMaxSafetensorsHeader,
                 " bytes, got ", text.size() + more, " or more");
  };
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      check_size(key.size() + value.size());
      if (text.back() != '{') text += ',';
      text += json_quote(key) + ':' + json_quote(value);
    }
    text += '}';
  }
  uint64_t offset = 0;
  for (const NamedTensor* t : order) {
    check_size(t->name.size());
    if (text.size() > 1) text += ',';
    text += json_quote(t->name);
    text += cat({":{\"dtype\":\"", kSharedTypes[rank_of(t->tensor.dtype())].name,
                 "\",\"shape\":", t->tensor.shape(), ",\"data_offsets\":[", offset, ","});
    offset += bytes_of(t->tensor);
    text += cat({offset, "]}"});
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');  // the data begins at a multiple of 8
  check_size(0);
  return text;
}

}  // namespace

SafetensorsReader::SafetensorsReader(const std::string& path, SafetensorsMode mode)
    : SafetensorsReader(File(path, OpenMode::read), mode) {}

SafetensorsReader::SafetensorsReader(File file, SafetensorsMode mode)
    : file_(std::move(file)), header_(read_header(file_, mode)) {
  for (const SafetensorsEntry& entry : header_.entries) by_name_.emplace(entry.name, &entry);
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : at->second;
}

Tensor SafetensorsReader::load(const SafetensorsEntry& entry) const {
  PINION_REQUIRE(data, entry.shape.size() <= Shape::kMaxRank, escaped(file_.path()),
                 ": unsupported rank of tensor ", quoted(entry.name, 120), ": expected at most ",
                 Shape::kMaxRank, " dimensions, got ", entry.shape.size());
  Tensor tensor(Shape(entry.shape.data(), static_cast<int64_t>(entry.shape.size())),
                dtype_of_entry(entry, file_.path()));
  PINION_CHECK(bytes_of(tensor) == entry.bytes, "SafetensorsReader::load: entry ",
               quoted(entry.name, 120), " must be one of entries()");
  read_into(tensor, entry, 0);
  return tensor;
}

Tensor SafetensorsReader::load(const SafetensorsEntry& entry, int64_t begin, int64_t count) const {
  const DType dtype = dtype_of_entry(entry, file_.path());
  const auto numel = static_cast<int64_t>(entry.bytes) / size_of(dtype);
  PINION_CHECK(begin >= 0 && count >= 0 && count <= numel && begin <= numel - count,
               "SafetensorsReader::load: expected a range of the ", numel, " elements of ",
               quoted(entry.name, 120), ", got [", begin, ", ", begin + count, ")");
  Tensor tensor({count}, dtype);
  read_into(tensor, entry, begin);
  return tensor;
}

void SafetensorsReader::read_into(Tensor& tensor, const SafetensorsEntry& entry,
                                  int64_t begin) const {
  const uint64_t bytes = bytes_of(tensor);
  auto* const data = static_cast<uint8_t*>(tensor.mut().data);
  const uint64_t skipped = static_cast<uint64_t>(begin * size_of(tensor.dtype()));
  file_.read(data, bytes, static_cast<int64_t>(header_.data_begin + entry.offset + skipped));
  if (tensor.dtype() != DType::boolean) return;
  // A C++ bool of another value is undefined behaviour.
  const auto* bad = std::find_if(data, data + bytes, [](uint8_t b) { return b > 1; });
  PINION_REQUIRE(data, bad == data + bytes, escaped(file_.path()),
                 ": expected 0 or 1 in BOOL tensor ", quoted(entry.name, 120), ", got ",
                 static_cast<int>(*bad), " at element ", begin + (bad - data));
}

SafetensorsContents load_safetensors(const std::string& path, SafetensorsMode mode) {
  const SafetensorsReader reader(path, mode);
  SafetensorsContents contents;
  contents.metadata = reader.metadata();
  contents.tensors.reserve(reader.entries().size());
  for (const SafetensorsEntry& entry : reader.entries())
    contents.tensors.push_back({entry.name, reader.load(entry)});
  return contents;
}

void write_safetensors(const std::function<void(const void* data, size_t bytes)>& write,
                       std::span<const NamedTensor> tensors, const SafetensorsMetadata& metadata) {
  const std::vector<const NamedTensor*> order = in_file_order(tensors);
  const std::string header = header_text(order, metadata);
  const uint64_t length = header.size();
  write(&length, sizeof length);
  write(header.data(), header.size());
  for (const NamedTensor* t : order) {
    const Tensor host = t->tensor.to(Device{});  // one at a time: at most one copy is alive
    write(host.view().data, bytes_of(host));
  }
}

void save_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                      const SafetensorsMetadata& metadata) {
  AtomicFile file(path);
  write_safetensors([&](const void* data, size_t bytes) { file.write(data, bytes); }, tensors,
                    metadata);
  file.commit();
}

}  // namespace pinion
