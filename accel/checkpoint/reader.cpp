// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/checkpoint/reader.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "pinion/accel/checkpoint/root.h"
#include "pinion/runtime/crc32c.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {
namespace {

constexpr size_t kChunk = 1 << 20;  // bytes read at a time to verify

// What is wrong with the files of a checkpoint is an error of the checkpoint.
template <class F>
auto as_checkpoint(F&& f) -> decltype(f()) {
  try {
    return f();
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::io || e.kind() == ErrorKind::checkpoint) throw;
    fail(ErrorKind::checkpoint, {"checkpoint: ", e.what()});
  }
}

std::string read_all(const File& file, int64_t most) {
  const int64_t size = file.size();
  PINION_REQUIRE(checkpoint, size <= most, "checkpoint: expected at most ", most, " bytes in ",
                 pinion::quoted(file.path()), ", got ", size);
  std::string text(static_cast<size_t>(size), '\0');
  file.read(text.data(), text.size(), 0);
  return text;
}

StateValue value_of(const nlohmann::json& v, const std::string& where) {
  if (v.is_boolean()) return v.get<bool>();
  if (v.is_number_unsigned()) return v.get<uint64_t>();
  if (v.is_number_integer()) return v.get<int64_t>();
  if (v.is_number()) return v.get<double>();
  if (v.is_string()) return v.get<std::string>();
  if (v.is_object() && v.size() == 1 && v.contains("real")) {
    constexpr double kInf = std::numeric_limits<double>::infinity();
    if (v["real"] == "nan") return std::numeric_limits<double>::quiet_NaN();
    if (v["real"] == "inf") return kInf;
    if (v["real"] == "-inf") return -kInf;
  }
  fail(ErrorKind::checkpoint, {"checkpoint: state '", where, "' should be a number or text, got ",
                               pinion::quoted(v.dump(), 80)});
}

std::string without_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

CheckpointReader::CheckpointReader(const std::string& directory)
    : path_(without_slash(directory)), directory_(as_checkpoint([&] {
        PINION_REQUIRE(checkpoint, exists(path_), "checkpoint: ", pinion::quoted(path_),
                       " is not there");
        return File(path_, OpenMode::directory);
      })) {
  as_checkpoint([&] {
    const File file(directory_, kManifestName);
    manifest_ = parse_manifest(read_all(file, kMaxManifest), file.path());
  });
  const int64_t named = step_of_name(path_.substr(path_.rfind('/') + 1));
  PINION_REQUIRE(checkpoint,
                 named < 0 || manifest_.version != kManifestVersion || named == manifest_.step,
                 "checkpoint: ", pinion::quoted(path_), " holds step ", manifest_.step);
}

CheckpointReader::~CheckpointReader() = default;

void CheckpointReader::verify(int rank, int size) const {
  std::string buffer(kChunk, '\0');
  for (size_t i = 0; i < manifest_.files.size(); ++i) {
    if (static_cast<int>(i % static_cast<size_t>(size)) != rank) continue;
    const ManifestFile& listed = manifest_.files[i];
    as_checkpoint([&] {
      const File file(directory_, listed.name);
      PINION_REQUIRE(checkpoint, file.size() == listed.bytes, "checkpoint: expected ", listed.bytes,
                     " bytes in ", pinion::quoted(file.path()), ", got ", file.size());
      uint32_t crc = 0;
      for (int64_t at = 0; at < listed.bytes;) {
        const auto n = std::min<size_t>(kChunk, static_cast<size_t>(listed.bytes - at));
        file.read(buffer.data(), n, at);
        crc = crc32c(buffer.data(), n, crc);
        at += static_cast<int64_t>(n);
      }
      PINION_REQUIRE(checkpoint, crc == listed.crc, "checkpoint: the checksum of ",
                     pinion::quoted(file.path()), " does not fit its contents");
    });
  }
}

CheckpointReader::Pieces CheckpointReader::pieces_of(const ManifestPart& part, int rank) const {
  Pieces out;
  for (const ManifestTensor& t : manifest_.tensors)
    if (t.part == part.name && (part.placement != Placement::per_rank || t.rank == rank))
      out[t.name].push_back(&t);
  for (auto& [name, list] : out)
    std::sort(list.begin(), list.end(),
              [](const auto* a, const auto* b) { return a->offset < b->offset; });
  return out;
}

Tensor CheckpointReader::load(const ManifestTensor& piece, int64_t begin, int64_t count) {
  std::unique_ptr<SafetensorsReader>& file = open_[piece.file];
  if (!file) file = std::make_unique<SafetensorsReader>(File(directory_, piece.file));
  const SafetensorsEntry* entry = file->find(piece.key);
  PINION_REQUIRE(checkpoint, entry, "checkpoint: tensor ", pinion::quoted(piece.key),
                 " is missing in ", pinion::quoted(file->path()));
  int64_t numel = 1;
  for (const int64_t extent : entry->shape) numel *= extent;
  PINION_REQUIRE(checkpoint, numel == piece.count, "checkpoint: tensor ", pinion::quoted(piece.key),
                 " of ", pinion::quoted(file->path()), " should have ", piece.count,
                 " elements, got ", numel);
  return file->load(*entry, begin, count);
}

Tensor CheckpointReader::range(const std::vector<const ManifestTensor*>& pieces, int64_t begin,
                               int64_t count) {
  Tensor out;
  for (const ManifestTensor* piece : pieces) {
    const int64_t from = std::max(begin, piece->offset);
    const int64_t to = std::min(begin + count, piece->offset + piece->count);
    if (from > to || (from == to && (count > 0 || out.defined()))) continue;
    Tensor part = load(*piece, from - piece->offset, to - from);
    if (part.numel() == count) return part;
    if (!out.defined()) out = Tensor({count}, part.dtype());
    PINION_REQUIRE(checkpoint, out.dtype() == part.dtype(), "checkpoint: tensor '", piece->part,
                   ".", piece->name, "' has pieces of types ", out.dtype(), " and ", part.dtype());
    out.rows(from - begin, to - begin).copy_(part);
  }
  return out;  // the pieces cover the tensor: parse_manifest() has made sure
}

const nlohmann::json& CheckpointReader::values_of(int rank) {
  const auto known = values_.find(rank);
  if (known != values_.end()) return known->second;
  const File file(directory_, cat({"state-", rank, ".json"}));
  nlohmann::json all = parse_json(read_all(file, kMaxManifest), file.path(), ErrorKind::checkpoint);
  PINION_REQUIRE(checkpoint, all.is_object(), pinion::quoted(file.path()), ": expected an object");
  return values_[rank] = std::move(all);
}

void CheckpointReader::read_values(const ManifestPart& part, const State& wanted, int rank,
                                   State& out) {
  const nlohmann::json& all = values_of(part.placement == Placement::per_rank ? rank : 0);
  const auto own = all.find(part.name);
  PINION_REQUIRE(checkpoint, own != all.end() && own->is_object(), "checkpoint: the values of '",
                 part.name, "' are missing in ", pinion::quoted(path_));
  for (const auto& [name, value] : own->items()) {
    PINION_REQUIRE(checkpoint, wanted.open || wanted.values.count(name), "checkpoint: state '",
                   part.name, ".", name, "' is not expected");
    out.values[name] = value_of(value, part.name + "." + name);
  }
  if (wanted.open) return;
  for (const auto& [name, value] : wanted.values)
    PINION_REQUIRE(checkpoint, out.values.count(name), "checkpoint: state '", part.name, ".", name,
                   "' is missing in ", pinion::quoted(path_));
}

// What each rank has of its own says nothing to another number of ranks.
void CheckpointReader::check_per_rank(const ManifestPart& part, int size) {
  if (part.placement != Placement::per_rank || size == manifest_.world_size) return;
  bool empty = pieces_of(part, 0).empty();
  for (int r = 0; r < manifest_.world_size && empty; ++r) {
    const nlohmann::json& all = values_of(r);
    const auto own = all.find(part.name);
    empty = pieces_of(part, r).empty() && own != all.end() && own->empty();
  }
  PINION_REQUIRE(checkpoint, empty, "checkpoint: state '", part.name, "' of ",
                 pinion::quoted(path_), " belongs to each of ", manifest_.world_size,
                 " ranks, and cannot be read by ", size);
}

State CheckpointReader::read(const std::string& name, const State& wanted, Placement as, int rank,
                             int size) {
  return as_checkpoint([&] {
    const ManifestPart* part = manifest_.part(name);
    PINION_REQUIRE(checkpoint, part, "checkpoint: state '", name, "' is missing in ",
                   pinion::quoted(path_));
    check_per_rank(*part, size);
    State out;
    out.part = name;
    out.open = wanted.open;
    if (part->placement == Placement::per_rank && size != manifest_.world_size) return out;
    read_values(*part, wanted, rank, out);
    const Pieces pieces = pieces_of(*part, rank);
    std::set<std::string_view> taken;
    for (const StateTensor& t : wanted.tensors) {
      const auto at = pieces.find(t.name);
      if (at == pieces.end() && wanted.open) continue;
      PINION_REQUIRE(checkpoint, at != pieces.end(), "checkpoint: state '", name, ".", t.name,
                     "' is missing in ", pinion::quoted(path_));
      const Shape& stored = at->second[0]->shape;
      const Shape& shape = t.slice ? t.slice->shape : t.tensor.shape();
      PINION_REQUIRE(checkpoint, stored == shape, "checkpoint: state '", name, ".", t.name,
                     "' should have shape ", shape, ", got ", stored, " in ",
                     pinion::quoted(path_));
      const Tensor got = range(at->second, t.slice ? t.slice->offset : 0, t.tensor.numel());
      PINION_REQUIRE(checkpoint, got.dtype() == t.tensor.dtype(), "checkpoint: state '", name, ".",
                     t.name, "' should be ", t.tensor.dtype(), ", got ", got.dtype(), " in ",
                     pinion::quoted(path_));
      out.tensors.push_back({t.name, got.alias(t.tensor.shape()), t.slice});
      taken.insert(t.name);
    }
    for (const auto& [stored, list] : pieces) {
      if (taken.count(stored) || as == Placement::sharded) continue;  // another rank's, perhaps
      PINION_REQUIRE(checkpoint, wanted.open, "checkpoint: state '", name, ".", stored,
                     "' is not expected");
      out.put(stored, range(list, 0, list[0]->shape.numel()).alias(list[0]->shape));
    }
    return out;
  });
}

std::vector<NamedTensor> CheckpointReader::read_whole(const std::string& name) {
  return as_checkpoint([&] {
    const ManifestPart* part = manifest_.part(name);
    PINION_REQUIRE(checkpoint, part, "checkpoint: state '", name, "' is missing in ",
                   pinion::quoted(path_));
    std::vector<NamedTensor> out;
    for (const auto& [stored, list] : pieces_of(*part, 0))
      out.push_back({stored, range(list, 0, list[0]->shape.numel()).alias(list[0]->shape)});
    return out;
  });
}

}  // namespace pinion::accel
