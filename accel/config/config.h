// SPDX-License-Identifier: Apache-2.0
// What a run is configured with: Accelerate's configuration files, environment variables and flags,
// merged into one set of values that each remember where they came from. A flag wins over the file,
// the file over the environment, the environment over the default, whatever the order of the calls.
//
//   Config config;
//   config.read_environment();
//   config.read_file(path);                            // or read_default_file()
//   config.set_flag("num_processes", "2");             // --num_processes=2
//   config.check();                                    // contradictions
//   config.integer("num_processes");  config.flag("use_cpu");  config.text("mixed_precision");
//
// The keys, their types, values and defaults are the table in accel/config/schema.h. Errors name
// the place (file:line:column, the variable, the flag), what was expected and what was found; they
// are of kind config, and usage for flags.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pinion::accel {

struct ConfigKey;

// In the order in which they win over each other.
enum class Origin : uint8_t { standard, environment, file, flag };

// Values are kept as text in one spelling per meaning: "true" and "false", numbers in decimal,
// choices as the table spells them, lists with commas. An empty text is a value that is not set.
struct Setting {
  std::string value;
  Origin origin = Origin::standard;
  std::string where;  // "config.yaml:3:1", "ACCELERATE_USE_CPU", "--cpu"; empty for a default

  bool given() const { return origin != Origin::standard; }
};

class Config {
 public:
  Config();  // the defaults

  // A YAML or JSON file as Accelerate reads it; JSON by the ending .json, and JSON text in others
  // is YAML too. Throws Error (missing) when it is not there.
  void read_file(const std::string& path);
  // The file at default_config_path(); false when there is none.
  bool read_default_file();
  void read_text(std::string_view text, std::string_view source, bool json = false);
  // Variables of the table's `environment` column, as the launcher sets them for its ranks.
  void read_environment();
  // A flag of the command line: `key` is a name of the table or its last part ("zero_stage").
  // `flag` is what errors and prints call it ("--cpu"); "--" and the last part unless given.
  void set_flag(std::string_view key, std::string_view value, std::string_view flag = {});

  // Refuses values that contradict each other; where one of them is stronger (a flag against the
  // file), adapts the weaker one instead, and says so in its `where`. Call it last.
  void check();

  // Keys by full name: "num_processes", "deepspeed_config.zero_stage". An unknown one is a mistake
  // of the caller (internal).
  const Setting& operator[](std::string_view key) const;
  bool has(std::string_view key) const { return !(*this)[key].value.empty(); }
  const std::string& text(std::string_view key) const { return (*this)[key].value; }
  bool flag(std::string_view key) const { return (*this)[key].value == "true"; }
  int64_t integer(std::string_view key, int64_t otherwise = 0) const;
  double real(std::string_view key, double otherwise = 0) const;

  // --- what several keys say together ---

  // "no", "fp16" or "bf16": what training computes in (fp8 is computed in bf16).
  std::string precision() const;
  // 0, 1, 2 or 3: of DEEPSPEED its zero_stage (default 2); of FSDP its strategy: FULL_SHARD and
  // HYBRID_SHARD 3, SHARD_GRAD_OP and HYBRID_SHARD_ZERO2 2, NO_SHARD 0, or of version 2
  // reshard_after_forward true 3, false 2; else 0.
  int zero_stage() const;
  int64_t gradient_accumulation_steps() const;  // of DEEPSPEED or the environment; 1 unless set
  std::optional<double> gradient_clipping() const;
  bool uses_mpirun() const { return has("mpirun_config.mpirun_hostfile"); }

  // Variables that hand these values on to the ranks, whose read_environment() finds them there.
  std::vector<std::pair<std::string, std::string>> environment() const;

  // Lines about what was accepted but does nothing here, or something else: "place: key: reason".
  std::vector<std::string> notes() const;
  // --print_config: a line for each key that was given or that every run needs: key, value, origin.
  std::string table() const;

  // Writes the values that are set, under the names and in the order in which Accelerate does;
  // JSON by the ending .json, else YAML. Appears whole or not at all.
  void write(const std::string& path) const;
  std::string to_yaml() const;
  std::string to_json() const;

 private:
  void assign(const ConfigKey& key, std::string_view value, Origin origin, std::string where);
  void read_deepspeed_file();
  void check_devices();
  void check_machines();
  void check_sharding() const;
  void check_flags() const;
  Setting& at(std::string_view key);

  std::map<std::string, Setting, std::less<>> settings_;  // by full name, all keys of the table
};

// $HF_HOME/accelerate/default_config.yaml, else $XDG_CACHE_HOME/huggingface/accelerate/…, else
// ~/.cache/huggingface/accelerate/…: where Accelerate keeps its own.
std::string default_config_path();

const char* name_of(Origin origin);

}  // namespace pinion::accel
