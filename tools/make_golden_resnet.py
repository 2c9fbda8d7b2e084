#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/resnet.safetensors: what PyTorch makes of one image by residual networks
whose weights are formulas, under torchvision's names and in the order of its state_dict.

Tensor k of the state, element j, is drawn from a counter (see value()); the test makes the same
file and reads it as a pretrained one. torchvision itself is not needed. With --export FOLDER the
state dicts are written as well, to try them by hand.

    python3 tools/make_golden_resnet.py [--export FOLDER]
"""

import pathlib
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "resnet.safetensors"
SIDE = 64


class Block(nn.Module):
    def __init__(self, into, width, out, stride, bottleneck):
        super().__init__()
        if bottleneck:
            self.conv1, self.bn1 = nn.Conv2d(into, width, 1, bias=False), nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        else:
            self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(out)
            self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.bottleneck = bottleneck
        self.downsample = None
        if stride != 1 or into != out:
            conv = nn.Conv2d(into, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x):
        past = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + past)


class ResNet(nn.Module):
    def __init__(self, counts, bottleneck):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        into, grow = 64, 4 if bottleneck else 1
        for i, count in enumerate(counts):
            width = 64 << i
            blocks = []
            for k in range(count):
                stride = 2 if k == 0 and i > 0 else 1
                blocks.append(Block(into, width, width * grow, stride, bottleneck))
                into = width * grow
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(into, 1000)

    def forward(self, x):  # features, no classes
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def uniform(k, count):
    """In [-1, 1): 24 bits of a product, in integers, so that every language agrees."""
    j = np.arange(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        h = (j + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(k) * np.uint64(
            0xBF58476D1CE4E5B9
        )
        h = (h ^ (h >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    return (h >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1


def value(k, name, shape):
    u = uniform(k, int(np.prod(shape)))
    if len(shape) == 4:
        v = u * np.sqrt(3.0 / (shape[1] * shape[2] * shape[3]))  # of variance 1 / inputs
    elif name.endswith("running_var"):
        v = 1 + 0.5 * u
    elif name.endswith("weight") and len(shape) == 1:
        v = 1 + 0.25 * u
    else:
        v = 0.1 * u
    return torch.from_numpy(v.astype(np.float32)).reshape(shape)


def image():
    """Channels last, as the extractor takes it."""
    v = uniform(1000, SIDE * SIDE * 3).astype(np.float32)
    return torch.from_numpy(v).reshape(1, SIDE, SIDE, 3)


def main():
    out = {}
    for name, counts, bottleneck in (
        ("resnet18", [2, 2, 2, 2], False),
        ("resnet50", [3, 4, 6, 3], True),
    ):
        net = ResNet(counts, bottleneck).eval()
        state = net.state_dict()
        for k, (key, tensor) in enumerate(state.items()):
            if key.endswith("num_batches_tracked"):
                state[key] = torch.tensor(7)
            else:
                state[key] = value(k, key, tuple(tensor.shape))
        net.load_state_dict(state)
        if "--export" in sys.argv:
            folder = pathlib.Path(sys.argv[sys.argv.index("--export") + 1])
            save_file(state, folder / f"{name}.safetensors")
        with torch.no_grad():
            y = net.double()(image().permute(0, 3, 1, 2).double())
        y = y.flatten(2).transpose(1, 2).float().contiguous()  # [1, P, width]
        print(name, len(state), tuple(y.shape), y.abs().max().item(), y.std().item())
        out[name] = y
    save_file(out, OUTPUT)


if __name__ == "__main__":
    main()
