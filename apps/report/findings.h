// SPDX-License-Identifier: Apache-2.0
// The findings of the synthetic studies: what each can be, how often, and the sentences that say
// so, one of each style. Drawing, writing and reading back a report all follow these tables.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pinion::report {

enum class Attribute : uint8_t {
  // every report says something of these
  heart,
  opacity,
  effusion,
  pneumothorax,
  spine,
  device,
  // and of these where they are found
  nodule,
  edema,
  volumes,
  hernia,
  fracture,
  sternotomy,
  curvature
};
inline constexpr size_t kAlwaysSaid = 6, kAttributes = 13;

// Values of the attributes, in the order of the sentences that say them. 0 is always "normal" or
// "none".
enum Heart : uint8_t { kHeartNormal, kHeartMild, kHeartMarked };
enum Opacity : uint8_t { kNoOpacity, kRightUpper, kRightLower, kLeftUpper, kLeftLower };
enum Side : uint8_t { kNoSide, kLeft, kRight, kBothSides };  // effusion; pneumothorax has not both
enum Spine : uint8_t { kSpineNormal, kSpineDegenerative };
enum DeviceKind : uint8_t { kNoDevice, kPacemaker, kCentralLine };
enum Nodule : uint8_t { kNoNodule, kSoftNodule, kCalcifiedNodule };
enum Volumes : uint8_t { kNormalVolumes, kHyperinflated, kLowVolumes };  // the others: 0 or 1

inline constexpr size_t kStyles = 4;  // of those who dictate
struct AttributeValue {
  const char* name;                            // "left upper", in findings.json
  double share;                                // of the studies
  std::array<const char*, kStyles> sentences;  // "opacity in left upper lobe ."; "": not said
};
struct AttributeInfo {
  const char* name;
  std::vector<AttributeValue> values;
};
const std::array<AttributeInfo, kAttributes>& attribute_table();

// A sentence for several findings at once: where all are there, it takes the place of their own, at
// the first of them. Of two that fit, the earlier does.
struct JointSentence {
  std::vector<std::pair<Attribute, uint8_t>> says;  // in the order of the attributes
  std::array<const char*, kStyles> sentences;       // "": not so in this style
};
const std::vector<JointSentence>& joint_sentences();

// One value an attribute.
struct Findings {
  std::array<uint8_t, kAttributes> values{};

  uint8_t operator[](Attribute a) const { return values[static_cast<size_t>(a)]; }
  uint8_t& operator[](Attribute a) { return values[static_cast<size_t>(a)]; }
  bool operator==(const Findings&) const = default;
};

// A pure function of its arguments, by the shares of the table; 0 beyond the first `attributes`.
Findings draw_findings(uint64_t seed, uint32_t split, uint64_t index,
                       size_t attributes = kAlwaysSaid);

// How a report words its sentences.
enum class Wording : uint8_t {
  plain,    // all in style 0
  visible,  // each study in a style of its own, which a mark on the frontal film shows
  random,   // each sentence in any style: no model can know
};
// The style of each sentence, a pure function of its arguments.
using Styles = std::array<uint8_t, kAttributes>;
Styles draw_styles(Wording wording, uint64_t seed, uint32_t split, uint64_t index);

std::string report_of(const Findings& findings, const Styles& styles = {});
// The inverse, for any text in any styles: sentences that are not in the table count for nothing,
// and of two about one attribute the first does.
Findings findings_in(std::string_view report);
// Whether the report says something of every attribute that is always said, nothing twice, and
// nothing else: only then are findings_in() all that is there.
bool says_all_findings(std::string_view report);

// How well reports say what is there. A value other than 0 is a positive; a wrong one counts as
// both a false positive and a false negative.
struct FindingScores {
  struct Counts {
    int64_t true_positives = 0, false_positives = 0, false_negatives = 0;
    double precision() const;
    double recall() const;
    double f1() const;  // 2 tp / (2 tp + fp + fn); 0 when nothing is positive
  };
  std::array<Counts, kAttributes> by_attribute;
  Counts micro;      // over all attributes
  double exact = 0;  // share of studies with every attribute right
  int64_t studies = 0;
};
FindingScores score_findings(std::span<const Findings> truth, std::span<const Findings> said);

}  // namespace pinion::report
