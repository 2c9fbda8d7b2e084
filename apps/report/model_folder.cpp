// SPDX-License-Identifier: Apache-2.0
// Settings to JSON and back, checked one by one.
#include "pinion/apps/report/model_folder.h"

#include <fmt/format.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "pinion/nn/weights.h"
#include "pinion/runtime/crc32c.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

namespace {

constexpr int64_t kMaxSettingsBytes = 1 << 16;
constexpr int64_t kMaxVocabularyBytes = 64 << 20;
constexpr const char* kSuppressKey = "suppress_UNK";
constexpr int64_t kMaxSize = 1 << 16;  // of a layer: no file makes us ask for more memory

// Every whole number of the settings under its name.
template <class Settings, class F>
void each_size(Settings& s, F&& f) {
  f("views", s.views), f("d_model", s.transformer.d_model), f("d_ff", s.transformer.d_ff);
  f("num_heads", s.transformer.heads), f("num_layers", s.transformer.layers);
  f("rm_num_slots", s.transformer.rm_slots), f("rm_num_heads", s.transformer.rm_heads);
  f("max_seq_length", s.decoding.max_length);
}

// model.json, value by value.
class Description {
 public:
  explicit Description(std::string path)
      : path_(std::move(path)), json_(load_json(path_, kMaxSettingsBytes, ErrorKind::checkpoint)) {}

  std::string text(const char* key) const {
    std::string text;
    read(key, text);
    return text;
  }
  ModelSettings settings() const {
    ModelSettings s;
    each_size(s, [&](const char* key, int64_t& size) { read(key, size); });
    each_flag(
        [&](const char* key, auto& value) {
          if (json_.contains(key)) read(key, value);  // the defaults otherwise
        },
        s.decoding);
    s.visual_extractor = text("visual_extractor");
    s.transformer.memory = memory_of(text("model"));
    return s;
  }
  // The number of a word that is never written, or 0.
  int64_t forbidden(const Tokenizer& tokenizer) const {
    bool suppress = false;
    if (json_.contains(kSuppressKey)) read(kSuppressKey, suppress);
    return suppress ? tokenizer.id_of(Tokenizer::kUnknown) : 0;
  }

 private:
  void read(const char* key, int64_t& size) const {
    const auto fits = [](const nlohmann::json& v) {
      return v.is_number_integer() && v >= 1 && v <= kMaxSize;
    };
    value(key, fits, "a number from 1 to 65536").get_to(size);
  }
  void read(const char* key, uint64_t& number) const {
    value(key, &nlohmann::json::is_number_unsigned, "a whole number").get_to(number);
  }
  void read(const char* key, double& number) const {
    value(key, &nlohmann::json::is_number, "a number").get_to(number);
  }
  void read(const char* key, bool& flag) const {
    value(key, &nlohmann::json::is_boolean, "true or false").get_to(flag);
  }
  void read(const char* key, std::string& text) const {
    value(key, &nlohmann::json::is_string, "a text").get_to(text);
  }
  template <class F>
  nlohmann::json value(const char* key, F&& fits, const char* expected) const {
    const bool there = json_.is_object() && json_.contains(key);
    PINION_REQUIRE(checkpoint, there && std::invoke(fits, json_[key]), path_, ": expected ",
                   expected, " as '", key, "', got ",
                   there ? json_[key].dump().substr(0, 40) : "none");
    return json_[key];
  }

  std::string path_;
  nlohmann::json json_;
};

// A word a line.
std::string lines_of(const Tokenizer& tokenizer) {
  std::string lines;
  for (const std::string& word : tokenizer.words()) lines += word + "\n";
  return lines;
}

// A model's numbers mean the words that it was trained with, and no others.
constexpr const char* kWordsKey = "vocabulary_crc32c";
std::string checksum_of(const Tokenizer& tokenizer) {
  const std::string lines = lines_of(tokenizer);
  return fmt::format("{:08x}", crc32c(lines.data(), lines.size()));
}

std::unique_ptr<Tokenizer> read_words(const std::string& path, const Description& description) {
  const std::string text = read_file(path, kMaxVocabularyBytes);
  std::vector<std::string> words;
  for (const std::string_view word : words_of(text)) words.emplace_back(word);
  auto tokenizer = std::make_unique<Tokenizer>(std::move(words));
  const std::string expected = description.text(kWordsKey), got = checksum_of(*tokenizer);
  PINION_REQUIRE(checkpoint, got == expected, path, ": expected the words of the model, with the ",
                 kWordsKey, " ", quoted(expected, 16), " of model.json, got ",
                 tokenizer->words().size(), " words with ", got);
  return tokenizer;
}

}  // namespace

const char* name_of(MemoryKind memory) {
  constexpr const char* kNames[] = {"base", "rm", "rm_mcln"};
  return kNames[static_cast<size_t>(memory)];
}

MemoryKind memory_of(const std::string& name) {
  for (const MemoryKind memory : {MemoryKind::base, MemoryKind::rm, MemoryKind::rm_mcln})
    if (name == name_of(memory)) return memory;
  fail(ErrorKind::usage, {"--model: expected base, rm or rm_mcln, got ", quoted(name, 40)});
}

void describe_model(const std::string& folder, const ModelSettings& settings,
                    const Tokenizer& tokenizer) {
  nlohmann::json json = {{"visual_extractor", settings.visual_extractor},
                         {"model", name_of(settings.transformer.memory)},
                         {kSuppressKey, settings.decoding.forbidden != 0},
                         {kWordsKey, checksum_of(tokenizer)}};
  each_size(settings, [&](const char* key, int64_t size) { json[key] = size; });
  each_flag([&](const char* key, const auto& value) { json[key] = value; }, settings.decoding);
  make_dirs(folder);
  write_file_atomic(folder + "/model.json", json.dump(1) + "\n");
  write_file_atomic(folder + "/vocabulary.txt", lines_of(tokenizer));
}

TrainedModel load_model(const std::string& folder) {
  TrainedModel out;
  try {
    const Description description(folder + "/model.json");
    out.settings = description.settings();
    out.tokenizer = read_words(folder + "/vocabulary.txt", description);
    out.settings.decoding.forbidden = description.forbidden(*out.tokenizer);
    check(out.settings.decoding);
    TransformerOptions transformer = out.settings.transformer;
    transformer.vocabulary = out.tokenizer->vocabulary();
    out.model = std::make_unique<ReportModel>(out.settings.visual_extractor, out.settings.views,
                                              transformer);
  } catch (const Error& e) {  // what a flag would be blamed for elsewhere, the folder is here
    if (e.kind() != ErrorKind::usage && e.kind() != ErrorKind::data) throw;
    throw Error(ErrorKind::checkpoint, folder + ": " + e.what());
  }
  nn::load_weights(*out.model, folder + "/model.safetensors");
  out.model->eval();
  return out;
}

}  // namespace pinion::report
