# SPDX-License-Identifier: Apache-2.0
"""The report generator of apps/report in PyTorch, eagerly and part by part as its equations read.

compare.py puts training steps of it beside Pinion's; sizes are those of bench/report_steps.cpp.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1, and the way past them."""

    def __init__(self, n_in, n_out, stride, bottleneck):
        super().__init__()
        mid = n_out // 4
        plan = [(n_in, mid, 1, 1), (mid, mid, 3, stride), (mid, n_out, 1, 1)]
        if not bottleneck:
            plan = [(n_in, n_out, 3, stride), (n_out, n_out, 3, 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, k, s, k // 2, bias=False) for i, o, k, s in plan
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in plan)
        self.past = None
        if n_in != n_out or stride != 1:
            self.past = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x):
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            y = norm(conv(y))
            if i + 1 < len(self.convs):
                y = F.relu(y)
        return F.relu(y + (x if self.past is None else self.past(x)))


class Extractor(nn.Module):
    """Images [views, B, C, H, W] -> features [B, views P, width]; a pass for each view."""

    def __init__(self, name):
        super().__init__()
        nano = name == "nano"
        first = (1, 12, 5) if nano else (3, 64, 7)
        stages = [(24, 2, 1), (48, 2, 1), (48, 2, 1)]
        if not nano:
            stages = [(256, 1, 3), (512, 2, 4), (1024, 2, 23), (2048, 2, 3)]
        layers = [nn.Conv2d(*first, 2, first[2] // 2, bias=False), nn.BatchNorm2d(first[1])]
        layers += [nn.ReLU(inplace=True)] + ([] if nano else [nn.MaxPool2d(3, 2, 1)])
        n = first[1]
        for out, stride, blocks in stages:
            for i in range(blocks):
                layers.append(Block(n, out, stride if i == 0 else 1, not nano))
                n = out
        self.net = nn.Sequential(*layers)
        self.places = nn.Parameter(torch.randn(2, 16, n) * 0.02) if nano else None

    def forward(self, images):
        views = []
        for i, image in enumerate(images):
            x = self.net(image).flatten(2).transpose(1, 2)
            views.append(x if self.places is None else x + self.places[i])
        return torch.cat(views, 1)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.linears = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(0.1)

    def forward(self, query, memory, mask=None):
        batch, _, width = query.shape
        q, k, v = (
            f(x).view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
            for f, x in zip(self.linears, (query, memory, memory))
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        if mask is not None:
            scores = scores.masked_fill(mask, -1e9)
        y = self.dropout(scores.softmax(-1)) @ v
        return self.linears[3](y.transpose(1, 2).reshape(batch, -1, width))


class Norm(nn.Module):
    def __init__(self, width, memory=0):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(memory, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(2 if memory else 0)
        )

    def forward(self, x, m=None):
        gamma, beta = self.gamma, self.beta
        if self.mlps:
            gamma, beta = gamma + self.mlps[0](m), beta + self.mlps[1](m)
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return gamma * (x - mean) / (std + 1e-6) + beta


class Layer(nn.Module):
    def __init__(self, o, decoder):
        super().__init__()
        width = o["width"]
        self.attentions = nn.ModuleList(Attention(width, o["heads"]) for _ in range(1 + decoder))
        self.w_1, self.w_2 = nn.Linear(width, o["hidden"]), nn.Linear(o["hidden"], width)
        memory = o["slots"] * width if decoder else 0
        self.norms = nn.ModuleList(Norm(width, memory) for _ in range(2 + decoder))
        self.dropout = nn.Dropout(o["dropout"])

    def forward(self, x, encoded=None, mask=None, m=None):
        h = self.norms[0](x, m)
        x = x + self.dropout(self.attentions[0](h, h, mask))
        if encoded is not None:
            x = x + self.dropout(self.attentions[1](self.norms[1](x, m), encoded))
        h = F.relu(self.w_1(self.norms[-1](x, m)))
        return x + self.dropout(self.w_2(self.dropout(h)))


class RelationalMemory(nn.Module):
    def __init__(self, o):
        super().__init__()
        width, self.slots = o["width"], o["slots"]
        self.attention = Attention(width, o["heads"])
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.w, self.u = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)

    def forward(self, words):
        batch, steps, width = words.shape
        memory = torch.eye(self.slots, width).expand(batch, -1, -1)
        all_words = []
        for t in range(steps):
            word = words[:, t : t + 1]
            a = memory + self.attention(memory, torch.cat([memory, word], 1))
            a = a + self.mlp(a)
            i, f = (self.w(word) + self.u(torch.tanh(memory))).chunk(2, -1)
            memory = torch.sigmoid(i) * torch.tanh(a) + torch.sigmoid(f) * memory
            all_words.append(memory.reshape(batch, -1))
        return torch.stack(all_words, 1)


class EncoderDecoder(nn.Module):
    def __init__(self, o):
        super().__init__()
        width = o["width"]
        self.embed_features = nn.Linear(o["features"], width)
        self.feature_dropout = nn.Dropout(o["feature_dropout"])
        self.encoder = nn.ModuleList(Layer(o, False) for _ in range(o["layers"]))
        self.decoder = nn.ModuleList(Layer(o, True) for _ in range(o["layers"]))
        self.norms = nn.ModuleList(Norm(width) for _ in range(2))
        self.lut = nn.Embedding(o["vocabulary"], width)
        rate = torch.exp(torch.arange(0, width, 2) * -(math.log(10000.0) / width))
        angle = torch.arange(100.0)[:, None] * rate
        table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
        self.register_buffer("positions", table)
        self.dropout = nn.Dropout(o["dropout"])
        self.memory = RelationalMemory(o)
        self.logit = nn.Linear(width, o["vocabulary"])
        self.scale = math.sqrt(width)

    def embed(self, ids):
        return self.dropout(self.lut(ids) * self.scale + self.positions[: ids.shape[1]])

    def encode(self, features):
        x = self.feature_dropout(F.relu(self.embed_features(features)))
        for layer in self.encoder:
            x = layer(x)
        return self.norms[0](x)

    def decode(self, encoded, ids):
        steps = ids.shape[1]
        padding = ids == 0
        padding[:, 0] = False
        later = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        mask = padding[:, None, None, :] | later
        m = self.memory(self.embed(ids))
        x = self.embed(ids)
        for layer in self.decoder:
            x = layer(x, encoded, mask, m)
        return self.norms[1](x)

    def forward(self, features, ids):
        return F.log_softmax(self.logit(self.decode(self.encode(features), ids)), -1)


SIZES = {
    "nano": {
        "batch": 16, "steps": 29, "side": 64, "channels": 1, "places": 32, "features": 48,
        "vocabulary": 32, "width": 64, "hidden": 128, "heads": 4, "layers": 1, "slots": 2,
        "dropout": 0.0, "feature_dropout": 0.0,
    },
    "r2gen": {
        "batch": 2, "steps": 59, "side": 224, "channels": 3, "places": 98, "features": 2048,
        "vocabulary": 761, "width": 512, "hidden": 512, "heads": 8, "layers": 3, "slots": 3,
        "dropout": 0.1, "feature_dropout": 0.5,
    },
}  # fmt: skip
for batch in (1, 4, 16):
    SIZES[f"r2gen{batch}"] = SIZES["r2gen"] | {"batch": batch}


def make(part):
    """part: report_step, report_extractor or report_encoder_decoder -> size -> a training step."""

    def of(size):
        o = SIZES[size]
        modules = []
        if part != "report_encoder_decoder":
            extractor = Extractor(size)
            images = torch.randn(2, o["batch"], o["channels"], o["side"], o["side"])
            modules.append(extractor)
        if part != "report_extractor":
            text = EncoderDecoder(o)
            n = torch.arange(o["batch"] * o["steps"]).view(o["batch"], -1)
            ids = 1 + n * 7919 % (o["vocabulary"] - 1)
            targets = 1 + n * 104729 % (o["vocabulary"] - 1)
            mask = torch.ones(o["batch"], o["steps"])
            modules.append(text)
        features = torch.randn(o["batch"], o["places"], o["features"])
        parameters = [p for module in modules for p in module.parameters()]
        adam = torch.optim.Adam(
            [{"params": list(m.parameters())} for m in modules],
            lr=1e-4, weight_decay=5e-5, amsgrad=True, fused=True,
        )  # fmt: skip

        def step():
            found = features
            if part != "report_encoder_decoder":
                found = extractor(images)
            if part == "report_extractor":
                loss = found.sum()
            else:
                logp = text(found, ids)
                loss = -(logp.gather(2, targets[..., None]).squeeze(2) * mask).sum() / mask.sum()
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_value_(parameters, 0.1)
            adam.step()
            return loss.item()

        return step

    return of


PEERS = {part: make(part) for part in ("report_step", "report_extractor", "report_encoder_decoder")}
