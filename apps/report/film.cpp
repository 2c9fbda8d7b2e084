// SPDX-License-Identifier: Apache-2.0
// The geometry of both views.
#include "pinion/apps/report/film.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "pinion/kernels/philox.h"

namespace pinion::report {

namespace {

// Random numbers by part of the picture, so that parts do not shift each other's.
enum class Part : uint32_t {
  pose,
  lungs,
  heart,
  diaphragm,
  ribs,
  vertebrae,
  opacity,
  exposure,
  field,
  noise,
  nodule
};

class Draws {
 public:
  Draws(uint64_t seed, uint32_t split, uint64_t index, int view, Part part)
      : key_{seed,
             0x66696c6d + split * 64 + static_cast<uint32_t>(view) * 32 +
                 static_cast<uint32_t>(part),  // "film"
             index} {}

  float uniform() {  // in [0, 1)
    if (at_ % 4 == 0) block_ = philox(key_, at_ / 4);
    return uniform01(block_.v[at_++ % 4]);
  }
  float normal() {  // Box and Muller 1958
    const float radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi_v<float> * uniform());
  }

 private:
  PhiloxKey key_;
  uint64_t at_ = 0;
  Philox4 block_{};
};

float logistic(float x) {
  if (std::abs(x) > 17) return x > 0 ? 1 : 0;  // to float, and most pixels are there
  return 1 / (1 + std::exp(-x));
}

// One view: attenuation at each pixel, and where the pixel lies on the body.
class Film {
 public:
  Film(int64_t size, Draws pose) : size_(size), a_(static_cast<size_t>(size * size)) {
    const float angle = .03F * pose.normal(), scale = 1 + .03F * pose.normal();
    const float shift_x = .012F * pose.normal(), shift_y = .012F * pose.normal();
    const float c = std::cos(angle) / scale, s = std::sin(angle) / scale;
    x_.resize(a_.size());
    y_.resize(a_.size());
    for (size_t i = 0; i < a_.size(); ++i) {
      const auto side = static_cast<size_t>(size);
      const float x = (static_cast<float>(i % side) + .5F) / static_cast<float>(size) - .5F;
      const float y = (static_cast<float>(i / side) + .5F) / static_cast<float>(size) - .5F;
      x_[i] = .5F + c * (x - shift_x) + s * (y - shift_y);
      y_[i] = .5F - s * (x - shift_x) + c * (y - shift_y);
    }
  }

  // Adds amount(x, y) everywhere.
  template <class F>
  void add(F&& amount) {
    for (size_t i = 0; i < a_.size(); ++i) a_[i] += amount(x_[i], y_[i]);
  }
  void ellipse(float amount, float cx, float cy, float rx, float ry, float sharpness = 60) {
    const float edge = sharpness * std::min(rx, ry);
    const float reach = 1 + 9 / edge;  // beyond it the soft edge is below 1e-4
    add([&](float x, float y) {
      const float dx = (x - cx) / rx, dy = (y - cy) / ry, d2 = dx * dx + dy * dy;
      return d2 > reach * reach ? 0 : amount * logistic((1 - std::sqrt(d2)) * edge);
    });
  }
  // At least so much in a square, in the film's own coordinates: it lies on the cassette.
  void square(float amount, float cx, float cy, float half) {
    for (size_t i = 0; i < a_.size(); ++i) {
      const auto side = static_cast<size_t>(size_);
      const float x = (static_cast<float>(i % side) + .5F) / static_cast<float>(size_);
      const float y = (static_cast<float>(i / side) + .5F) / static_cast<float>(size_);
      if (std::abs(x - cx) <= half && std::abs(y - cy) <= half) a_[i] = std::max(a_[i], amount);
    }
  }
  void line(float amount, float x0, float y0, float x1, float y1, float width) {
    const float dx = x1 - x0, dy = y1 - y0, length2 = dx * dx + dy * dy;
    add([&](float x, float y) {
      const float t = std::clamp(((x - x0) * dx + (y - y0) * dy) / length2, 0.0F, 1.0F);
      const float px = x - x0 - t * dx, py = y - y0 - t * dy, d2 = px * px + py * py;
      return d2 > 16 * width * width ? 0 : amount * std::exp(-d2 / (width * width));
    });
  }

  Image developed(Draws exposure, Draws field, Draws noise) const {
    std::array<float, 16> coarse{};
    for (float& value : coarse) value = field.normal();
    const float gain = 1 + .05F * exposure.normal(), fog = .02F * exposure.normal();
    Image image{size_, size_, 1, std::vector<uint8_t>(a_.size())};
    for (size_t i = 0; i < a_.size(); ++i) {
      const auto side = static_cast<size_t>(size_);
      const float uneven = coarse[i / side * 4 / side * 4 + i % side * 4 / side];
      const float a = a_[i] * (1 + .03F * uneven) * gain + .025F * noise.normal() + fog;
      const float light = 1 - std::exp(-1.6F * std::max(a, 0.0F));
      image.pixels[i] = static_cast<uint8_t>(255 * std::clamp(light, 0.0F, 1.0F));
    }
    return image;
  }

 private:
  int64_t size_;
  std::vector<float> a_, x_, y_;
};

struct Source {
  uint64_t seed;
  uint32_t split;
  uint64_t index;
  Draws draws(int view, Part part) const { return {seed, split, index, view, part}; }
};

constexpr float kRightLung = .31F, kLeftLung = .69F;  // where they lie on the frontal film

// A dome-shaped boundary: dense below top + bend (x - cx)^2.
float below(float sharpness, float y, float top) { return logistic(sharpness * (y - top)); }

// How far down the diaphragm is: the lungs' volume shows by it.
float lowered_dome(const Findings& findings) {
  constexpr float kDown[] = {0, .06F, -.08F};
  return kDown[findings[Attribute::volumes]];
}

void draw_frontal_anatomy(Film& film, const Findings& findings, const Source& from) {
  film.add([](float, float) { return .05F; });
  film.ellipse(.55F, .5F, .6F, .47F, .58F, 25);
  Draws lungs = from.draws(0, Part::lungs);
  for (const float cx : {kRightLung, kLeftLung})
    film.ellipse(-.40F, cx + .01F * lungs.normal(), .48F + .01F * lungs.normal(), .155F, .31F);
  const float bend = findings[Attribute::curvature] != 0 ? .06F : 0;  // of the spine: scoliosis
  film.add([&](float x, float y) {
    const float d = (x - .5F - bend * std::sin(6 * (y - .2F))) / .05F;
    return .30F * std::exp(-d * d);
  });

  Draws heart = from.draws(0, Part::heart);
  const auto h = static_cast<float>(findings[Attribute::heart]);
  constexpr float kWidth[] = {.115F, .16F, .205F};
  const float rx = kWidth[findings[Attribute::heart]] + .006F * heart.normal();
  film.ellipse(.36F, .535F + .02F * h, .67F + .01F * heart.normal(), rx, .13F + .012F * h);

  Draws diaphragm = from.draws(0, Part::diaphragm);
  for (const float cx : {kRightLung, kLeftLung}) {
    const float top =
        (cx == kRightLung ? .78F : .80F) + lowered_dome(findings) + .006F * diaphragm.normal();
    film.add([&](float x, float y) {
      const float dx = (x - .5F) / .45F, dy = (y - .6F) / .5F;
      const float body = logistic((1 - std::sqrt(dx * dx + dy * dy)) * 25 * .45F);
      return .45F * below(60, y, top + 1.2F * (x - cx) * (x - cx)) * body;
    });
  }
  Draws ribs = from.draws(0, Part::ribs);
  const float highest = .2F + .03F * ribs.uniform();
  for (const float cx : {kRightLung, kLeftLung}) {
    const float slope = cx == kRightLung ? -.25F : .25F;
    film.add([&](float x, float y) {  // six ribs, of which the nearest alone is to be seen
      if (std::abs(x - cx) >= .16F) return 0.0F;
      const float down = y - highest - slope * (x - cx);
      const float d = (down - .1F * std::clamp(std::round(10 * down), 0.0F, 5.0F)) / .012F;
      return d * d > 16 ? 0 : .05F * std::exp(-d * d);
    });
  }
}

void draw_frontal_findings(Film& film, const Findings& findings, const Source& from) {
  const uint8_t effusion = findings[Attribute::effusion];
  if (effusion == kRight || effusion == kBothSides)
    film.add([](float x, float y) {
      const float level = .70F - .9F * std::clamp(.30F - x, 0.0F, 1.0F);
      return x < .46F ? .42F * below(50, y, level) * logistic(80 * (x - .13F)) : 0;
    });
  if (effusion == kLeft || effusion == kBothSides)
    film.add([](float x, float y) {
      const float level = .70F - .9F * std::clamp(x - .70F, 0.0F, 1.0F);
      return x > .60F ? .42F * below(50, y, level) * logistic(80 * (.87F - x)) : 0;
    });
  if (const uint8_t side = findings[Attribute::pneumothorax]; side != kNoSide) {
    const float cx = side == kLeft ? kLeftLung : kRightLung;
    film.ellipse(-.16F, cx, .27F, .13F, .13F);
    film.add([&](float x, float y) {
      const float d = (std::hypot((x - cx) / .13F, (y - .27F) / .13F) - 1) / .10F;
      return y > .27F ? .20F * std::exp(-d * d) : 0;
    });
  }
  if (const uint8_t lobe = findings[Attribute::opacity]; lobe != kNoOpacity) {
    Draws blob = from.draws(0, Part::opacity);
    const bool right = lobe == kRightUpper || lobe == kRightLower;
    const bool upper = lobe == kRightUpper || lobe == kLeftUpper;
    const float cx = (right ? .30F : .71F) + .012F * blob.normal();
    const float cy = (upper ? .33F : .60F) + .012F * blob.normal();
    const float p = 6 * blob.uniform(), q = 6 * blob.uniform();
    film.add([&](float x, float y) {
      const float d = std::hypot((x - cx) / .085F, (y - cy) / .085F);
      const float texture = 1 + .25F * std::sin(50 * x + p) * std::sin(47 * y + q);
      return .30F * logistic((1 - d) * 30 * .085F) * texture;
    });
  }
  if (findings[Attribute::device] == kPacemaker) {
    film.ellipse(.7F, .80F, .20F, .055F, .045F, 120);
    film.line(.5F, .77F, .22F, .55F, .66F, .016F);
  } else if (findings[Attribute::device] == kCentralLine) {
    film.line(.6F, .24F, .10F, .47F, .18F, .018F);
    film.line(.6F, .47F, .18F, .485F, .50F, .018F);
  }
}

void draw_nodule(Film& film, const Findings& findings, Draws place, float x, float y) {
  const uint8_t nodule = findings[Attribute::nodule];
  if (nodule == kNoNodule) return;
  const float cx = x + .01F * place.normal(), cy = y + .01F * place.normal();
  const bool calcified = nodule == kCalcifiedNodule;
  film.ellipse(calcified ? .9F : .35F, cx, cy, .035F, .035F, calcified ? 160.0F : 60.0F);
}

// Those that are said only where they are found, as far as they add to the frontal film.
void draw_frontal_extras(Film& film, const Findings& findings, const Source& from) {
  draw_nodule(film, findings, from.draws(0, Part::nodule), .27F, .46F);
  if (findings[Attribute::edema] != 0)  // the wings of a bat
    for (const float cx : {.39F, .61F}) film.ellipse(.24F, cx, .50F, .08F, .15F, 30);
  if (findings[Attribute::hernia] != 0) {
    film.ellipse(.25F, .50F, .76F, .08F, .06F);
    film.ellipse(-.35F, .50F, .74F, .045F, .025F, 90);  // its gas
  }
  if (findings[Attribute::fracture] != 0) film.line(.7F, .72F, .42F, .83F, .47F, .02F);
  if (findings[Attribute::sternotomy] != 0)
    for (int k = 0; k < 5; ++k) {
      const float y = .30F + .09F * static_cast<float>(k);
      film.line(1.2F, .465F, y, .535F, y + .02F, .010F);
    }
}

void draw_lateral_extras(Film& film, const Findings& findings, const Source& from) {
  draw_nodule(film, findings, from.draws(1, Part::nodule), .52F, .44F);
  if (findings[Attribute::edema] != 0) film.ellipse(.22F, .50F, .50F, .13F, .13F, 30);
  if (findings[Attribute::hernia] != 0) {
    film.ellipse(.30F, .60F, .72F, .075F, .06F);
    film.ellipse(-.35F, .60F, .70F, .04F, .025F, 90);
  }
  if (findings[Attribute::sternotomy] != 0)  // the wires from their ends
    for (int k = 0; k < 5; ++k)
      film.ellipse(1.2F, .17F, .30F + .09F * static_cast<float>(k), .018F, .022F, 160);
}

void draw_lateral(Film& film, const Findings& findings, const Source& from) {
  film.add([](float, float) { return .05F; });
  film.ellipse(.55F, .5F, .6F, .47F, .58F, 25);
  film.ellipse(-.38F, .48F, .46F, .27F, .33F);
  Draws heart = from.draws(1, Part::heart);
  const auto h = static_cast<float>(findings[Attribute::heart]);
  film.ellipse(.34F, .36F, .66F + .01F * heart.normal(), .105F + .035F * h, .14F + .012F * h);
  const float dome =
      .80F + lowered_dome(findings) + .006F * from.draws(1, Part::diaphragm).normal();
  film.add(
      [&](float x, float y) { return .45F * below(60, y, dome + .5F * (x - .45F) * (x - .45F)); });
  const float column = .76F + .006F * from.draws(1, Part::vertebrae).normal();
  for (int k = 0; k <= 7; ++k) {
    const float y = .14F + .092F * static_cast<float>(k);
    film.ellipse(.25F, column, y, .05F, .036F, 90);
    if (findings[Attribute::spine] == kSpineDegenerative)
      film.ellipse(.6F, column - .06F, y + .045F, .036F, .026F, 120);
  }
  if (const uint8_t effusion = findings[Attribute::effusion]; effusion != kNoSide) {
    const float amount = .42F * (effusion == kBothSides ? 1 : .8F);
    film.add([&](float x, float y) {
      const float level = .72F - .5F * std::clamp(x - .45F, 0.0F, 1.0F);
      return amount * below(50, y, level) * logistic(40 * (x - .42F));
    });
  }
  if (const uint8_t lobe = findings[Attribute::opacity]; lobe != kNoOpacity) {
    const bool upper = lobe == kRightUpper || lobe == kLeftUpper;
    film.ellipse(.26F, upper ? .47F : .60F, upper ? .34F : .60F, .085F, .085F, 30);
  }
  if (findings[Attribute::device] == kPacemaker) film.line(.5F, .30F, .15F, .36F, .62F, .010F);
}

std::vector<FindingBox> boxes_of(const Findings& f) {
  std::vector<FindingBox> boxes;
  const auto add = [&](Attribute a, int view, double cx, double cy, double rx, double ry) {
    boxes.push_back({a, view, cx - rx, cy - ry, cx + rx, cy + ry});
  };
  if (const uint8_t h = f[Attribute::heart]; h != kHeartNormal) {
    add(Attribute::heart, 0, .535 + .02 * h, .67, .115 + .045 * h, .13 + .012 * h);
    add(Attribute::heart, 1, .36, .66, .105 + .035 * h, .14 + .012 * h);
  }
  if (const uint8_t lobe = f[Attribute::opacity]; lobe != kNoOpacity) {
    const bool right = lobe <= kRightLower, upper = lobe == kRightUpper || lobe == kLeftUpper;
    add(Attribute::opacity, 0, right ? .30 : .71, upper ? .33 : .60, .1, .1);
    add(Attribute::opacity, 1, upper ? .47 : .60, upper ? .34 : .60, .1, .1);
  }
  const uint8_t effusion = f[Attribute::effusion];
  if (effusion == kRight || effusion == kBothSides) add(Attribute::effusion, 0, .28, .76, .16, .2);
  if (effusion == kLeft || effusion == kBothSides) add(Attribute::effusion, 0, .73, .76, .14, .2);
  if (effusion != kNoSide) add(Attribute::effusion, 1, .65, .78, .23, .2);
  if (const uint8_t side = f[Attribute::pneumothorax]; side != kNoSide)
    add(Attribute::pneumothorax, 0, side == kLeft ? kLeftLung : kRightLung, .27, .15, .15);
  if (f[Attribute::spine] == kSpineDegenerative) add(Attribute::spine, 1, .72, .46, .1, .38);
  if (f[Attribute::device] == kPacemaker) {
    add(Attribute::device, 0, .70, .42, .17, .27);
    add(Attribute::device, 1, .33, .385, .05, .25);
  }
  if (f[Attribute::device] == kCentralLine) add(Attribute::device, 0, .365, .3, .14, .22);
  if (f[Attribute::nodule] != kNoNodule) {
    add(Attribute::nodule, 0, .27, .46, .05, .05);
    add(Attribute::nodule, 1, .52, .44, .05, .05);
  }
  if (f[Attribute::edema] != 0) {
    for (const double cx : {.39, .61}) add(Attribute::edema, 0, cx, .50, .09, .16);
    add(Attribute::edema, 1, .50, .50, .14, .14);
  }
  if (f[Attribute::volumes] != kNormalVolumes)
    for (const int view : {0, 1}) add(Attribute::volumes, view, .5, .82, .42, .1);
  if (f[Attribute::hernia] != 0) {
    add(Attribute::hernia, 0, .50, .76, .09, .07);
    add(Attribute::hernia, 1, .60, .72, .085, .07);
  }
  if (f[Attribute::fracture] != 0) add(Attribute::fracture, 0, .775, .445, .075, .05);
  if (f[Attribute::sternotomy] != 0) {
    add(Attribute::sternotomy, 0, .5, .49, .05, .22);
    add(Attribute::sternotomy, 1, .17, .48, .03, .21);
  }
  if (f[Attribute::curvature] != 0) add(Attribute::curvature, 0, .5, .5, .14, .4);
  return boxes;
}

}  // namespace

Study draw_study(const Findings& findings, int64_t size, uint64_t seed, uint32_t split,
                 uint64_t index, int mark) {
  const Source from{seed, split, index};
  const auto developed = [&](const Film& film, int view) {
    return film.developed(from.draws(view, Part::exposure), from.draws(view, Part::field),
                          from.draws(view, Part::noise));
  };
  Film frontal(size, from.draws(0, Part::pose)), lateral(size, from.draws(1, Part::pose));
  draw_frontal_anatomy(frontal, findings, from);
  draw_frontal_findings(frontal, findings, from);
  draw_frontal_extras(frontal, findings, from);
  for (const int corner : {1, 2})
    if (mark & corner) frontal.square(.95F, corner == 1 ? .08F : .92F, .07F, .035F);
  draw_lateral(lateral, findings, from);
  draw_lateral_extras(lateral, findings, from);
  return {developed(frontal, 0), developed(lateral, 1), boxes_of(findings)};
}

}  // namespace pinion::report
