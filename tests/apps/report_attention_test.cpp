// SPDX-License-Identifier: Apache-2.0
// What generate shows of the decoder's attention: the numbers, and the picture of them.
#include <gmock/gmock.h>

#include "pinion/apps/report/attention_picture.h"
#include "pinion/apps/report/encoder_decoder.h"
#include "pinion/kernels/check.h"
#include "pinion/nn/init.h"
#include "pinion/runtime/autograd.h"

namespace pinion::report {
namespace {

using testing::ElementsAre;

// Values that are 1 in the feature of their place's number make attention give its probabilities.
TEST(ReportAttention, ProbabilitiesAreThoseThatAttentionUses) {
  const NoGrad no_grad;
  manual_seed(4);
  constexpr int64_t kPlaces = 5, kHeads = 2, kWidth = 16, kEach = kWidth / kHeads;
  Attention attention(kWidth, kHeads);
  attention.eval();
  for (Tensor& p : attention.parameters()) nn::init::normal(p, 0, 0.7);
  Tensor query({2, 3, kWidth}), memory({2, kPlaces, kWidth});
  nn::init::normal(query);
  nn::init::normal(memory);
  std::vector<float> one_hot(2 * kPlaces * kWidth), equal(kWidth * kWidth);
  for (size_t i = 0; i < 2 * kPlaces * kHeads; ++i) one_hot[i * kEach + i / kHeads % kPlaces] = 1;
  // The last projection then takes the mean over heads of each feature.
  for (size_t i = 0; i < kWidth * kWidth; ++i)
    equal[i] = i % kWidth % kEach == i / kWidth ? 1.0F / kHeads : 0.0F;
  attention.linears[3].weight.copy_(Tensor::of(equal, {kWidth, kWidth}));
  nn::init::zeros(attention.linears[3].bias);
  const Tensor keys = attention.keys(memory);
  const auto expected =
      attention.attend(query, keys, Tensor::of(one_hot, {2, kPlaces, kHeads, kEach}))
          .values<float>();
  const auto got = attention.probabilities(query, keys).values<double>();
  ASSERT_EQ(got.size(), 2U * 3 * kPlaces);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i], expected[i / kPlaces * kWidth + i % kPlaces], 1e-6) << i;
}

TEST(ReportAttention, OfAWordDoesNotDependOnThoseAfterIt) {
  const NoGrad no_grad;
  for (const MemoryKind memory : {MemoryKind::base, MemoryKind::rm, MemoryKind::rm_mcln}) {
    manual_seed(5);
    EncoderDecoder model({.vocabulary = 9,
                          .d_model = 8,
                          .d_ff = 8,
                          .d_vf = 6,
                          .heads = 2,
                          .layers = 2,
                          .rm_slots = 2,
                          .rm_heads = 2,
                          .memory = memory});
    model.eval();
    Tensor features({1, 8, 6});
    nn::init::normal(features);
    const Tensor encoded = model.encode(features);
    const auto all =
        model.image_attention(encoded, Tensor::of<int64_t>({0, 3, 5, 2}, {1, 4})).values<double>();
    const auto two =
        model.image_attention(encoded, Tensor::of<int64_t>({0, 3}, {1, 2})).values<double>();
    ASSERT_EQ(all.size(), 4U * 8);
    for (size_t t = 0; t < 4; ++t) {
      double sum = 0;
      for (size_t p = 0; p < 8; ++p) sum += all[t * 8 + p];
      EXPECT_NEAR(sum, 1, 1e-12);
    }
    for (size_t i = 0; i < two.size(); ++i) EXPECT_NEAR(two[i], all[i], 1e-6);
  }
}

TEST(ReportAttention, SentencesEndWithAPoint) {
  const auto parts = by_sentence({"a", ".", "b", "c"}, {{1, 0}, {0, 1}, {0.5, 0.5}, {0.5, 0.5}});
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[0].text, "a .");
  EXPECT_THAT(parts[0].places, ElementsAre(0.5, 0.5));
  EXPECT_EQ(parts[1].text, "b c");
  EXPECT_TRUE(by_sentence({}, {}).empty());
  EXPECT_THROW(by_sentence({"a"}, {}), Error);
}

TEST(ReportAttention, TheMostAttendedPlaceIsTheBrightest) {
  const Image film{32, 48, 1, std::vector<uint8_t>(32 * 48, 100)};
  std::vector<double> places(8);
  places[5] = 0.8;  // the second film, at the top right
  places[0] = 0.2;
  const Image picture = attention_picture({film, film}, {{"a .", places}}, 40);
  EXPECT_EQ(picture.width, 84);
  EXPECT_EQ(picture.height, 84);
  const auto at = [&](int64_t y, int64_t x) {
    const auto first = picture.pixels.begin() + (y * 84 + x) * 3;
    return std::vector<int>(first, first + 3);
  };
  EXPECT_THAT(at(10, 10), ElementsAre(100, 100, 100));  // the films themselves
  EXPECT_THAT(at(42, 10), ElementsAre(255, 255, 255));  // between
  EXPECT_THAT(at(44, 83), ElementsAre(177, 177, 177));  // the most
  EXPECT_THAT(at(44, 0), ElementsAre(146, 50, 50));     // a quarter of it: red
  EXPECT_THAT(at(83, 44), ElementsAre(50, 50, 50));     // nothing
  EXPECT_THROW(attention_picture({film, film}, {{"a .", {1, 2, 3}}}, 40), Error);
}

}  // namespace
}  // namespace pinion::report
