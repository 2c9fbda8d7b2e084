// SPDX-License-Identifier: Apache-2.0
// What arithmetic says of a scheme: bytes that devices keep and send, and a model of the time of a
// step on more devices than there are cores.
//
// Psi parameters in f32, G = 4 Psi bytes of gradients, N devices, L bytes of one device's logits.
#pragma once

#include "pinion/bench/dp_vs_ddp/processes.h"

namespace pinion::bench {

// Bytes that one step sends: in all, and what passes through the busiest device in and out.
// DataParallel: device 0 sends G to each other device and gets G from it (as PyTorch: and logits
// one way, their gradients the other). Ranks: a ring's 2 (N-1)/N G from each, at stage 3 of ZeRO
// 3 (N-1)/N G, half of the gradients' part with bf16.
struct Traffic {
  double total = 0, busiest = 0;
};
Traffic traffic_of(const Cell& cell, Scheme scheme, int devices);

// Bytes of parameters, gradients and Adam's state on device 0: 16 Psi; with bf16 gradients 2 Psi
// more to send from; ZeRO 8 Psi + 8 Psi / N, 4 Psi + 12 Psi / N and 16 Psi / N. While the largest
// layer, of L parameters, is differentiated, its gradients are there as well at stage 2, and its
// parameters too at stage 3: 4 L and 8 L.
double state_bytes(const Cell& cell, Scheme scheme, int devices);

// Constants of the model, all measured: a step's parts on one device with its share of the batch;
// an all-reduce of B bytes takes 2 (N-1) alpha + 2 (N-1)/N B beta; a copy of B bytes B copy; to set
// DataParallel's threads to work and wait for them takes `wake`.
struct ModelConstants {
  Phases share;
  double alpha = 0, beta = 0, copy = 0, wake = 0;  // seconds; beta and copy per byte
};
ModelConstants fit(const Link& link, int ranks, const Phases& share);

// Seconds of a step when each device has its own core and memory, and nothing is sent while
// something is computed:
//   one-share               f + u               f forward and backward, u the update
//   dp-tuned                f + u + 2 (N-1) G copy + 2 wake   all of it through device 0
//   dp-pytorch-like         f + u + 2 (N-1) (G + L) copy + 4 wake
//   ddp, zero1, zero2       f + u + all-reduce of G           u / N with ZeRO
//   ddp-bf16                f + u + all-reduce of G/2 + 1.5 G copy, to round and to widen
//   zero3                   f + u / N + 1.5 all-reduces of G
double modelled_seconds(const Cell& cell, Scheme scheme, int devices, const ModelConstants& k);

}  // namespace pinion::bench
