// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/checkpoint/writer.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "pinion/runtime/crc32c.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/safetensors.h"

namespace pinion::accel {
namespace {

constexpr size_t kGatherBytes = 256 * 1024;  // pieces below this are gathered before a write

// A new file whose checksum is taken on the way.
class SummedFile {
 public:
  SummedFile(const std::string& directory, std::string name)
      : file_(directory + "/" + name, OpenMode::create_private), name_(std::move(name)) {}

  void write(const void* data, size_t bytes) {
    crc_ = crc32c(data, bytes, crc_);
    bytes_ += static_cast<int64_t>(bytes);
    if (buffer_.size() + bytes > kGatherBytes) flush();
    if (bytes > kGatherBytes)
      file_.write(data, bytes);
    else
      buffer_.append(static_cast<const char*>(data), bytes);
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

  // Makes it durable. A failure is never tried again: the kernel may have dropped the data.
  ManifestFile finish() {
    flush();
    file_.sync();
    file_.close();
    return {name_, bytes_, crc_};
  }

 private:
  void flush() {
    if (buffer_.empty()) return;
    file_.write(buffer_);
    buffer_.clear();
  }

  File file_;
  std::string name_, buffer_;
  int64_t bytes_ = 0;
  uint32_t crc_ = 0;
};

// JSON has no number for what is not finite.
nlohmann::json json_of(const StateValue& value) {
  return std::visit(
      [](const auto& v) -> nlohmann::json {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, double>)
          if (!std::isfinite(v)) return {{"real", std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf"}};
        return v;
      },
      value);
}

bool writes_whole(const PartSnapshot& part, int rank) {
  return rank == 0 || part.options.placement == Placement::per_rank;
}

// The tensors that go into one file, and their places.
struct TensorFile {
  std::vector<NamedTensor> tensors;
  std::vector<ManifestTensor> places;

  void add(const PartSnapshot& part, const StateTensor& t, int rank, std::string key,
           const std::string& file) {
    const Shape shape = t.slice ? t.slice->shape : t.tensor.shape();
    const int64_t offset = t.slice ? t.slice->offset : 0, count = t.tensor.numel();
    PINION_CHECK(offset >= 0 && count <= shape.numel() && offset <= shape.numel() - count,
                 "checkpoint: expected a slice inside of ", shape, " for ", part.name, ".", t.name,
                 ", got ", count, " elements from ", offset);
    tensors.push_back({key, t.tensor});
    places.push_back({part.name, t.name, rank, file, std::move(key), shape, offset, count});
  }
  void write(const std::string& directory, const std::string& name, Manifest& written) {
    if (tensors.empty()) return;
    SummedFile file(directory, name);
    write_safetensors([&](const void* data, size_t bytes) { file.write(data, bytes); }, tensors,
                      {{"format", "pt"}});
    written.files.push_back(file.finish());
    written.tensors.insert(written.tensors.end(), places.begin(), places.end());
  }
};

std::string values_text(const std::vector<PartSnapshot>& parts, int rank) {
  nlohmann::json all = nlohmann::json::object();
  for (const PartSnapshot& part : parts) {
    if (!writes_whole(part, rank)) continue;
    nlohmann::json& values = all[part.name] = nlohmann::json::object();
    for (const auto& [name, value] : part.state.values) values[name] = json_of(value);
  }
  return all.dump() + "\n";
}

}  // namespace

Manifest write_rank_files(const std::string& directory, int rank,
                          const std::vector<PartSnapshot>& parts) {
  Manifest written;
  TensorFile shard;
  const std::string shard_name = cat({"shard-", rank, ".safetensors"});
  for (const PartSnapshot& part : parts) {
    TensorFile weights;
    const std::string weights_name = part.name + ".safetensors";
    for (const StateTensor& t : part.state.tensors) {
      if (t.slice)
        shard.add(part, t, rank, cat({part.name, "/", t.name, "@", t.slice->offset}), shard_name);
      else if (writes_whole(part, rank) && part.options.weights)
        weights.add(part, t, rank, t.name, weights_name);
      else if (writes_whole(part, rank))
        shard.add(part, t, rank, part.name + "/" + t.name, shard_name);
    }
    weights.write(directory, weights_name, written);
  }
  shard.write(directory, shard_name, written);
  SummedFile state(directory, cat({"state-", rank, ".json"}));
  state.write(values_text(parts, rank));
  written.files.push_back(state.finish());
  return written;
}

void publish(const std::string& directory, const std::string& place, const Manifest& manifest,
             bool& renamed) {
  SummedFile file(directory, kManifestName);
  file.write(manifest.text());
  file.finish();
  sync_dir(directory);
  const RenameRule rule = exists(place) ? RenameRule::exchange : RenameRule::no_replace;
  rename_file(directory, place, rule);
  renamed = true;
  sync_dir(parent_dir(place));
}

}  // namespace pinion::accel
