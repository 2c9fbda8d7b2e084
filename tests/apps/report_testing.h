// SPDX-License-Identifier: Apache-2.0
// What tests of the report generator's programs share: a small synthetic set, and the command lines
// that train on it.
#pragma once

#include <nlohmann/json.hpp>
#include <sstream>

#include "pinion/runtime/json.h"
#include "pinion/tests/support/paths.h"
#include "pinion/tests/support/program_testing.h"

namespace pinion::report {

class ReportPrograms : public ProgramTest {
 protected:
  static std::string program(const char* name) { return in_build(name); }

  void SetUp() override {
    const Result made = run({program("make_cxr"), "--output_dir=" + dir_ / "cxr", "--studies", "24",
                             "8", "8", "--size=64"});
    ASSERT_EQ(made.code, 0) << made.err;
  }

  std::vector<std::string> command(const std::string& name,
                                   const std::vector<std::string>& more) const {
    std::vector<std::string> all = {program("train_with_accelerate"),
                                    "--preset=nano",
                                    "--cpu",
                                    "--image_dir=" + dir_ / "cxr/images",
                                    "--ann_path=" + dir_ / "cxr/annotation.json",
                                    "--save_dir=" + dir_ / name,
                                    "--record_dir=" + dir_ / "records",
                                    "--monitor_metric=loss",
                                    "--monitor_mode=min"};
    for (const std::string& flag : more)  // may be given once only
      std::erase_if(all,
                    [&](const auto& a) { return a.starts_with(flag.substr(0, flag.find('='))); });
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Result train(const std::string& name, const std::vector<std::string>& more) const {
    return run(command(name, more));
  }
  static std::vector<std::string> launched(int ranks, const std::vector<std::string>& what) {
    std::vector<std::string> all = {program("pinion"), "launch", "--cpu",
                                    "--num_processes=" + std::to_string(ranks)};
    all.insert(all.end(), what.begin(), what.end());
    return all;
  }
  // The training loss of each epoch.
  std::vector<double> losses(const std::string& name) const {
    std::vector<double> out;
    std::string line;
    for (std::istringstream in(text(name + "/metrics.jsonl")); std::getline(in, line);) {
      const auto record = parse_json(line, name);
      if (record.contains("loss")) out.push_back(record["loss"].get<double>());
    }
    return out;
  }
  Result generate(const std::string& model, const std::vector<std::string>& films) const {
    std::vector<std::string> all = {program("generate"), "--cpu", "--checkpoint=" + dir_ / model,
                                    "--attention=" + dir_ / "attention.png", "--images"};
    for (const std::string& film : films) all.push_back(dir_ / film);
    return run(all);
  }

  static constexpr const char* kFrontal = "cxr/images/test00003/0.png";
  static constexpr const char* kLateral = "cxr/images/test00003/1.png";
};

}  // namespace pinion::report
