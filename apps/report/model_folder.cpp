// SPDX-License-Identifier: Apache-2.0
// Settings to JSON and back, checked one by one.
#include "pinion/apps/report/model_folder.h"

#include <fmt/format.h>

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
constexpr int64_t kMaxSize = 1 << 16;  // of a layer: no file makes us ask for more memory

// Every whole number of the settings under its name.
template <class Settings, class F>
void each_size(Settings& s, F&& f) {
  f("views", s.views), f("d_model", s.transformer.d_model), f("d_ff", s.transformer.d_ff);
  f("num_heads", s.transformer.heads), f("num_layers", s.transformer.layers);
  f("rm_num_slots", s.transformer.rm_slots), f("rm_num_heads", s.transformer.rm_heads);
  f("beam_size", s.decoding.beam_size), f("max_seq_length", s.decoding.max_length);
}

// model.json, value by value.
class Description {
 public:
  explicit Description(std::string path)
      : path_(std::move(path)), json_(load_json(path_, kMaxSettingsBytes, ErrorKind::checkpoint)) {}

  std::string text(const char* key) const {
    return value(
               key, [](const auto& v) { return v.is_string(); }, "a text")
        .get<std::string>();
  }
  ModelSettings settings() const {
    ModelSettings s;
    each_size(s, [&](const char* key, int64_t& size) {
      const auto fits = [](const nlohmann::json& v) {
        return v.is_number_integer() && v >= 1 && v <= kMaxSize;
      };
      size = value(key, fits, "a number from 1 to 65536").get<int64_t>();
    });
    s.visual_extractor = text("visual_extractor");
    s.decoding.method = text("sample_method");
    s.transformer.memory = memory_of(text("model"));
    return s;
  }

 private:
  template <class F>
  nlohmann::json value(const char* key, F&& fits, const char* expected) const {
    const bool there = json_.is_object() && json_.contains(key);
    PINION_REQUIRE(checkpoint, there && fits(json_[key]), path_, ": expected ", expected, " as '",
                   key, "', got ", there ? json_[key].dump().substr(0, 40) : "none");
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
                         {"sample_method", settings.decoding.method},
                         {kWordsKey, checksum_of(tokenizer)}};
  each_size(settings, [&](const char* key, int64_t size) { json[key] = size; });
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
