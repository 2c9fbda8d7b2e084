// SPDX-License-Identifier: Apache-2.0
// ldmatrix and mma.sync: operations of a whole warp over the fragments of the PTX manual.
#include <cstring>

#include "machine.h"

namespace cudasim {
namespace {

struct Load {
  uint32_t* v;
  const char* row;
  bool transpose;
  Site site;

  static void execute(void* const* operands, uint32_t) {
    const auto row = [&](int matrix, int r) {
      return static_cast<Load*>(operands[matrix * 8 + r])->row;
    };
    const bool transpose = static_cast<Load*>(operands[0])->transpose;
    for (int l = 0; l < kWarpLanes; ++l)
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t pair[2];
        for (int e = 0; e < 2; ++e) {
          const int i = transpose ? l % 4 * 2 + e : l / 4, j = transpose ? l / 4 : l % 4 * 2 + e;
          std::memcpy(&pair[e], row(matrix, i) + j * 2, sizeof pair[e]);
        }
        std::memcpy(&static_cast<Load*>(operands[l])->v[matrix], pair, sizeof pair);
      }
  }
};

struct Product {
  float* c;
  const uint32_t *a, *b;
  float (*widen)(uint16_t);

  // Element e of a register of two.
  float element(uint32_t pair, int e) const {
    return widen(static_cast<uint16_t>(e ? pair >> 16 : pair));
  }

  static void execute(void* const* operands, uint32_t) {
    float a[16][16], b[16][8];
    for (int l = 0; l < kWarpLanes; ++l) {
      const auto& self = *static_cast<Product*>(operands[l]);
      for (int r = 0; r < 4; ++r)
        for (int e = 0; e < 2; ++e)
          a[l / 4 + r % 2 * 8][l % 4 * 2 + e + r / 2 * 8] = self.element(self.a[r], e);
      for (int r = 0; r < 2; ++r)
        for (int e = 0; e < 2; ++e) b[l % 4 * 2 + e + r * 8][l / 4] = self.element(self.b[r], e);
    }
    for (int l = 0; l < kWarpLanes; ++l)
      for (int r = 0; r < 4; ++r) {
        float& c = static_cast<Product*>(operands[l])->c[r];
        const int i = l / 4 + r / 2 * 8, j = l % 4 * 2 + r % 2;
        for (int k = 0; k < 16; ++k) c += a[i][k] * b[k][j];
      }
  }
};

}  // namespace

void load_matrices(uint32_t* v, const void* row, bool transpose, Site site) {
  const InSimulator guard;
  check_alignment(row, 16, site);
  if (watcher) watcher->access(row, 16, AccessKind::read, site);
  Load load{v, static_cast<const char*>(row), transpose, site};
  warp_operation({"ldmatrix", Load::execute}, kAllLanes, &load, site);
}

void multiply_matrices(float* c, const uint32_t* a, const uint32_t* b, float (*widen)(uint16_t),
                       Site site) {
  const InSimulator guard;
  Product product{c, a, b, widen};
  warp_operation({"mma.sync", Product::execute}, kAllLanes, &product, site);
}

}  // namespace cudasim
