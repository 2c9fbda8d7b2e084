// SPDX-License-Identifier: Apache-2.0
// The manifest as text and back.
#include "pinion/accel/checkpoint/manifest.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "pinion/runtime/checked.h"
#include "pinion/runtime/crc32c.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "pinion-checkpoint";
constexpr const char* kPlacements[] = {"replicated", "per_rank", "sharded"};
constexpr size_t kMaxName = 200;       // bytes of a file's or part's name
constexpr int kMaxWorld = 1 << 20;     // ranks
constexpr size_t kCrcFieldBytes = 22;  // ,"crc32c":"xxxxxxxx"} and a line end

std::string hex(uint32_t crc) {
  char text[9];
  std::snprintf(text, sizeof text, "%08x", crc);
  return text;
}

// The end of the text, which holds the checksum of what stands before it.
std::string crc_field(std::string_view before) {
  return ",\"crc32c\":\"" + hex(crc32c(before.data(), before.size())) + "\"}\n";
}

json json_of(const ManifestTensor& t) {
  json shape = json::array();
  for (int i = 0; i < t.shape.rank(); ++i) shape.push_back(t.shape[i]);
  return {{"part", t.part}, {"name", t.name}, {"rank", t.rank},     {"file", t.file},
          {"key", t.key},   {"shape", shape}, {"offset", t.offset}, {"count", t.count}};
}

json json_of(const Manifest& m, json into) {
  into["files"] = json::array();
  for (const ManifestFile& f : m.files)
    into["files"].push_back({{"name", f.name}, {"bytes", f.bytes}, {"crc32c", hex(f.crc)}});
  into["tensors"] = json::array();
  for (const ManifestTensor& t : m.tensors) into["tensors"].push_back(json_of(t));
  return into;
}

// One object of the manifest, whose fields are all asked for by name.
class Object {
 public:
  Object(const json& value, std::string source) : value_(value), source_(std::move(source)) {
    if (!value_.is_object()) wrong("", "an object");
  }
  const json& field(const char* name) const {
    const auto at = value_.find(name);
    PINION_REQUIRE(checkpoint, at != value_.end(), source_, ": field '", name, "' is missing");
    return *at;
  }
  [[noreturn]] void wrong(const char* name, const char* expected) const {
    fail(ErrorKind::checkpoint, {source_, ": field '", name, "' should be ", expected, ", got ",
                                 pinion::quoted(*name ? field(name).dump() : value_.dump(), 80)});
  }
  int64_t integer(const char* name, int64_t least, int64_t most) const {
    const json& v = field(name);
    int64_t out = 0;
    const bool fits = v.is_number_unsigned()
                          ? checked_cast(v.get<uint64_t>(), out)
                          : v.is_number_integer() && checked_cast(v.get<int64_t>(), out);
    if (!fits || out < least || out > most) wrong(name, "an integer in its range");
    return out;
  }
  bool boolean(const char* name) const {
    if (!field(name).is_boolean()) wrong(name, "true or false");
    return field(name).get<bool>();
  }
  std::string text(const char* name) const {
    if (!field(name).is_string()) wrong(name, "a text");
    return field(name).get<std::string>();
  }
  std::string plain_name(const char* name) const {
    std::string out = text(name);
    if (!is_plain_name(out)) wrong(name, "a plain name of [A-Za-z0-9._-]");
    return out;
  }
  uint32_t crc(const char* name) const {
    const std::string digits = text(name);
    uint32_t out = 0;
    if (digits.size() != 8 || std::sscanf(digits.c_str(), "%8x", &out) != 1 || hex(out) != digits)
      wrong(name, "8 lower-case hexadecimal digits");
    return out;
  }
  const json& list(const char* name) const {
    if (!field(name).is_array()) wrong(name, "a list");
    return field(name);
  }
  Shape shape(const char* name) const {
    std::vector<int64_t> extents;
    int64_t numel = 1;
    for (const json& extent : list(name)) {
      const bool fits = extent.is_number_unsigned() && extent.get<uint64_t>() <= Shape::kMaxNumel;
      extents.push_back(fits ? extent.get<int64_t>() : 0);
      if (!fits || !checked_mul(numel, extents.back(), numel) || numel > Shape::kMaxNumel)
        wrong(name, "the extents of a tensor");
    }
    if (extents.size() > Shape::kMaxRank) wrong(name, "the extents of a tensor");
    return {extents.data(), static_cast<int64_t>(extents.size())};
  }

 private:
  const json& value_;
  std::string source_;
};

void read_files(const Object& from, const std::string& source, Manifest& out) {
  for (const json& value : from.list("files")) {
    const Object file(value, source + ": files");
    out.files.push_back(
        {file.plain_name("name"), file.integer("bytes", 0, INT64_MAX), file.crc("crc32c")});
  }
}

void read_tensors(const Object& from, const std::string& source, Manifest& out) {
  for (const json& value : from.list("tensors")) {
    const Object t(value, source + ": tensors");
    ManifestTensor tensor{t.plain_name("part"), t.text("name"),   0, t.plain_name("file"),
                          t.text("key"),        t.shape("shape"), 0, 0};
    const int64_t numel = tensor.shape.numel();
    tensor.rank = static_cast<int>(t.integer("rank", 0, kMaxWorld));
    tensor.offset = t.integer("offset", 0, numel);
    tensor.count = t.integer("count", 0, numel - tensor.offset);
    out.tensors.push_back(std::move(tensor));
  }
}

void read_parts(const Object& from, const std::string& source, Manifest& out) {
  for (const json& value : from.list("parts")) {
    const Object part(value, source + ": parts");
    const std::string placement = part.text("placement");
    const auto* const at = std::find(std::begin(kPlacements), std::end(kPlacements), placement);
    if (at == std::end(kPlacements)) part.wrong("placement", "replicated, per_rank or sharded");
    out.parts.push_back({part.plain_name("name"),
                         static_cast<Placement>(at - std::begin(kPlacements)),
                         part.boolean("optional")});
  }
}

// The pieces of each tensor must cover it without gap or overlap.
void check_cover(const Manifest& m, const std::string& source) {
  std::map<std::tuple<std::string_view, std::string_view, int>, std::vector<const ManifestTensor*>>
      pieces;
  for (const ManifestTensor& t : m.tensors) {
    const bool per_rank = m.part(t.part)->placement == Placement::per_rank;
    pieces[{t.part, t.name, per_rank ? t.rank : 0}].push_back(&t);
  }
  for (auto& [key, list] : pieces) {
    std::sort(list.begin(), list.end(), [](const auto* a, const auto* b) {
      return std::tie(a->offset, a->count) < std::tie(b->offset, b->count);
    });
    int64_t covered = 0;
    for (const ManifestTensor* t : list) {
      PINION_REQUIRE(checkpoint, t->shape == list[0]->shape, source, ": tensor '", t->part, ".",
                     t->name, "' has pieces of two shapes, ", list[0]->shape, " and ", t->shape);
      PINION_REQUIRE(checkpoint, t->offset == covered, source, ": tensor '", t->part, ".", t->name,
                     "' should have a piece that begins at element ", covered, ", got one at ",
                     t->offset);
      covered += t->count;
    }
    PINION_REQUIRE(checkpoint, covered == list[0]->shape.numel(), source, ": tensor '",
                   list[0]->part, ".", list[0]->name, "' should have ", list[0]->shape.numel(),
                   " elements, got ", covered);
  }
}

void check_names(const Manifest& m, const std::string& source) {
  std::set<std::string_view> files, parts;
  for (const ManifestFile& f : m.files)
    PINION_REQUIRE(checkpoint, files.insert(f.name).second && f.name != kManifestName, source,
                   ": file ", f.name, " is listed twice");
  for (const ManifestPart& p : m.parts)
    PINION_REQUIRE(checkpoint, parts.insert(p.name).second, source, ": part ", p.name,
                   " is listed twice");
  for (int r = 0; r < m.world_size; ++r)
    PINION_REQUIRE(checkpoint, files.count(cat({"state-", r, ".json"})), source, ": file state-", r,
                   ".json is missing, of ", m.world_size, " ranks");
  std::set<std::pair<std::string_view, std::string_view>> keys;
  for (const ManifestTensor& t : m.tensors) {
    PINION_REQUIRE(checkpoint, parts.count(t.part), source, ": tensor '", pinion::quoted(t.name),
                   "' belongs to part ", t.part, ", which is not listed");
    PINION_REQUIRE(checkpoint, files.count(t.file), source, ": tensor ", pinion::quoted(t.name),
                   " lies in ", t.file, ", which is not listed");
    PINION_REQUIRE(checkpoint, t.rank < m.world_size, source, ": tensor ", pinion::quoted(t.name),
                   " was written by rank ", t.rank, " of ", m.world_size);
    PINION_REQUIRE(checkpoint, keys.insert({t.file, t.key}).second, source, ": two tensors lie in ",
                   t.file, " as ", pinion::quoted(t.key));
  }
}

json parse(std::string_view text, const std::string& source) {
  return parse_json(text, source, ErrorKind::checkpoint);
}

}  // namespace

bool is_plain_name(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= kMaxName && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), plain);
}

const ManifestFile* Manifest::file(std::string_view name) const {
  for (const ManifestFile& f : files)
    if (f.name == name) return &f;
  return nullptr;
}

const ManifestPart* Manifest::part(std::string_view name) const {
  for (const ManifestPart& p : parts)
    if (p.name == name) return &p;
  return nullptr;
}

std::string Manifest::text() const {
  json out = {{"format", kFormat},
              {"version", kManifestVersion},
              {"step", step},
              {"run", run},
              {"world_size", world_size},
              {"best", best},
              {"config", parse(config, "the configuration")}};
  out["parts"] = json::array();
  for (const ManifestPart& p : parts)
    out["parts"].push_back({{"name", p.name},
                            {"placement", kPlacements[static_cast<size_t>(p.placement)]},
                            {"optional", p.optional}});
  std::string text = json_of(*this, std::move(out)).dump();
  text.pop_back();  // the closing brace, which follows the checksum
  return text + crc_field(text);
}

Manifest parse_manifest(std::string_view text, const std::string& source) {
  PINION_REQUIRE(checkpoint, text.size() > kCrcFieldBytes, source, ": expected a manifest, got ",
                 text.size(), " bytes");
  const std::string_view before = text.substr(0, text.size() - kCrcFieldBytes);
  PINION_REQUIRE(checkpoint, text.substr(before.size()) == crc_field(before), source,
                 ": its own checksum does not fit its ", text.size(), " bytes");
  const json parsed = parse(text, source);
  const Object all(parsed, source);
  Manifest m;
  PINION_REQUIRE(checkpoint, all.text("format") == kFormat, source, ": field 'format' should be ",
                 kFormat);
  m.version = all.integer("version", 1, INT64_MAX);
  if (m.version != kManifestVersion) return m;  // what else it says is for others to read
  m.step = all.integer("step", 0, INT64_MAX);
  m.run = all.text("run");
  m.world_size = static_cast<int>(all.integer("world_size", 1, kMaxWorld));
  m.best = all.boolean("best");
  if (!all.field("config").is_object()) all.wrong("config", "an object");
  m.config = all.field("config").dump();
  read_files(all, source, m);
  read_parts(all, source, m);
  read_tensors(all, source, m);
  check_names(m, source);
  check_cover(m, source);
  return m;
}

std::string files_and_tensors_text(const Manifest& written) {
  return json_of(written, json::object()).dump();
}

void add_files_and_tensors(std::string_view text, Manifest& to) {
  const json parsed = parse(text, "a rank's report");
  const Object all(parsed, "a rank's report");
  read_files(all, "a rank's report", to);
  read_tensors(all, "a rank's report", to);
}

}  // namespace pinion::accel
