// SPDX-License-Identifier: Apache-2.0
// Joining sharded weights, and the ways in which an index and its files can disagree.
#include "pinion/accel/checkpoint/merge_weights.h"

#include "config_testing.h"
#include "pinion/runtime/safetensors.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

class MergeWeights : public testing::Test {
 protected:
  MergeWeights() {
    save_safetensors(dir_ / "model-1.safetensors",
                     std::vector<NamedTensor>{{"a", Tensor::of<float>({1, 2, 3}, {3})},
                                              {"c", Tensor::of<int64_t>({7}, {})}},
                     {{"format", "pt"}});
    save_safetensors(dir_ / "model-2.safetensors",
                     std::vector<NamedTensor>{{"b", Tensor::of<float>({4, 5, 6, 7}, {2, 2})}},
                     {{"format", "pt"}});
    index(R"("a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors")");
  }
  void index(const std::string& map) const {
    write_file_atomic(dir_ / "model.safetensors.index.json",
                      R"({"metadata": {"total_size": 36}, "weight_map": {)" + map + "}}");
  }
  std::string merge() const {
    return error_of([&] { merge_weights(dir_ / ".", dir_ / "out.safetensors"); });
  }
  bool written() const { return exists(dir_ / "out.safetensors"); }

  TempDir dir_;
};

TEST_F(MergeWeights, JoinsShards) {
  EXPECT_EQ(merge(), "");
  const SafetensorsContents all = load_safetensors(dir_ / "out.safetensors");
  std::map<std::string, Tensor> byname;
  for (const NamedTensor& t : all.tensors) byname[t.name] = t.tensor;
  ASSERT_EQ(byname.size(), 3);
  EXPECT_EQ(byname["a"].values<float>(), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(byname["b"].values<float>(), (std::vector<float>{4, 5, 6, 7}));
  EXPECT_EQ(byname["b"].shape(), Shape({2, 2}));
  EXPECT_EQ(byname["c"].values<int64_t>(), (std::vector<int64_t>{7}));
  EXPECT_EQ(all.metadata, (SafetensorsMetadata{{"format", "pt"}}));
}

TEST_F(MergeWeights, CopiesAWholeFile) {
  remove_file(dir_ / "model.safetensors.index.json");
  EXPECT_EQ(merge().substr(0, 3), "66 ");
  rename_file(dir_ / "model-2.safetensors", dir_ / "model.safetensors");
  EXPECT_EQ(merge(), "");
  EXPECT_EQ(load_safetensors(dir_ / "out.safetensors").tensors.size(), 1);
}

TEST_F(MergeWeights, IndexAndFilesMustAgreeBothWays) {
  const std::string one = R"("a": "model-1.safetensors", "c": "model-1.safetensors")";
  const std::pair<std::string, const char*> cases[] = {
      {R"("a": "model-1.safetensors")", "expected only tensors that the index gives it, got 'c'"},
      {one + R"(, "b": "model-1.safetensors")", "expected the tensor 'b' that the index gives it"},
      {one + R"(, "b": "../x.safetensors")", "expected a .safetensors file of this directory"},
      {one + R"(, "b": "model-2.bin")", "expected a .safetensors file of this directory"},
      {one + R"(, "b": 3)", "expected the name of a file, got number"},
      {"", "expected a weight_map"},
  };
  for (const auto& [map, error] : cases) {
    index(map);
    const std::string got = merge();
    EXPECT_EQ(got.substr(0, 3), "65 ");
    EXPECT_NE(got.find(error), std::string::npos) << got;
    EXPECT_FALSE(written());
  }
  index(one + R"(, "b": "model-3.safetensors")");
  EXPECT_EQ(merge().substr(0, 3), "66 ");
  index(R"("a": "model-1.safetensors", "a": "model-2.safetensors")");
  EXPECT_EQ(merge().substr(0, 3), "65 ");
  EXPECT_FALSE(written());
}

TEST_F(MergeWeights, MetadataMustAgree) {
  save_safetensors(dir_ / "model-2.safetensors",
                   std::vector<NamedTensor>{{"b", Tensor::of<float>({4}, {})}}, {{"format", "np"}});
  EXPECT_NE(merge().find("metadata 'format': expected 'pt' as in the other files, got 'np'"),
            std::string::npos);
}

}  // namespace
}  // namespace pinion::accel
