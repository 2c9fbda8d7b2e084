#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Beam search of the model of report_model.py in PyTorch, as the published R2Gen decodes.

Every text is read anew for each word, its relational memory from the first word on, and the image's
keys and values are made again for every row. What pinion_beam_search is put beside, on one thread.

    python3 bench/peers/beam_search.py [reports=1] [words=60] [runs=3] [size=r2gen]
"""

import sys
import time

import torch
from report_model import SIZES, EncoderDecoder

BEAM = 3


@torch.no_grad()
def write(model, features, words):
    encoded = model.encode(features).repeat_interleave(BEAM, 0)
    rows = encoded.shape[0]
    first = torch.arange(0, rows, BEAM)[:, None]  # of each report
    ids = torch.zeros(rows, 1, dtype=torch.long)
    sums = torch.full((rows // BEAM, BEAM), -1e9)
    sums[:, 0] = 0  # all rows of a report are still the same
    for _ in range(words):
        logp = model.logit(model.decode(encoded, ids)[:, -1]).log_softmax(-1)
        logp[:, 0] = -1e9  # no report ends early
        vocabulary = logp.shape[1]
        all_sums = sums[:, :, None] + logp.view(-1, BEAM, vocabulary)
        sums, best = all_sums.flatten(1).topk(BEAM)
        parents = (first + best // vocabulary).flatten()
        ids = torch.cat([ids[parents], (best % vocabulary).view(-1, 1)], 1)
    return ids


def main():
    reports, words, runs = (
        int(sys.argv[i]) if len(sys.argv) > i else n for i, n in ((1, 1), (2, 60), (3, 3))
    )
    o = SIZES[sys.argv[4] if len(sys.argv) > 4 else "r2gen"]
    torch.manual_seed(1)
    torch.set_num_threads(1)
    model = EncoderDecoder(o).eval()
    features = torch.rand(reports, o["places"], o["features"])
    write(model, features, 2)
    for _ in range(runs):
        before = time.thread_time()
        write(model, features, words)
        print(f"{reports} reports of {words} words: {time.thread_time() - before:.3f} s cpu")


if __name__ == "__main__":
    main()
