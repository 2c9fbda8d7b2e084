// SPDX-License-Identifier: Apache-2.0
// Which numbers dropout draws: the keys of a layer's draws, and what keeps equal models that see
// different samples, on ranks or in virtual shards, from dropping the same elements.
#pragma once

#include <cstdint>

#include "pinion/kernels/philox.h"

namespace pinion {

// From now on this thread draws noise as part `part` of the samples: as this rank, or this virtual
// shard. In [0, 2^24), and 0 at first.
void set_noise_part(int part);
// Of call `call` of a layer with this stream: seed and stream of the key are random_seed() and
// `stream`; the upper 24 bits of its step are the part, the others the call. So what a checkpoint
// keeps of a layer, its calls, is the same for every part.
PhiloxKey noise_key(uint32_t stream, uint64_t call);

}  // namespace pinion
