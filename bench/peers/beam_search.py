# SPDX-License-Identifier: Apache-2.0
"""Beam search of the model of report_model.py in PyTorch, as the published R2Gen decodes.

Every text is read anew for each word, its relational memory from the first word on, and the image's
keys and values are made again for every row. compare.py puts it beside Pinion's.
"""

import torch
from report_model import SIZES, EncoderDecoder

BEAM, WORDS = 3, 60


@torch.no_grad()
def write(model, features):
    encoded = model.encode(features).repeat_interleave(BEAM, 0)
    rows = encoded.shape[0]
    first = torch.arange(0, rows, BEAM)[:, None]  # of each report
    ids = torch.zeros(rows, 1, dtype=torch.long)
    sums = torch.full((rows // BEAM, BEAM), -1e9)
    sums[:, 0] = 0  # all rows of a report are still the same
    for _ in range(WORDS):
        logp = model.logit(model.decode(encoded, ids)[:, -1]).log_softmax(-1)
        logp[:, 0] = -1e9  # no report ends early
        vocabulary = logp.shape[1]
        all_sums = sums[:, :, None] + logp.view(-1, BEAM, vocabulary)
        sums, best = all_sums.flatten(1).topk(BEAM)
        parents = (first + best // vocabulary).flatten()
        ids = torch.cat([ids[parents], (best % vocabulary).view(-1, 1)], 1)
    return ids


def make(size):
    o = SIZES[size]
    model = EncoderDecoder(o).eval()
    features = torch.rand(o["batch"], o["places"], o["features"])
    return lambda: write(model, features)
