#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What pinion_images does, by Pillow and NumPy: films a second of one core, by CPU time.

    build/cpu/pinion_images --keep /tmp/films && python3 bench/peers/images.py /tmp/films

The steps are those of torchvision's transforms: decode, to RGB, short side to 256 (bilinear), a
random part of 224 x 224, mirrored or not, to float, normalised, channels first.
"""

import io
import pathlib
import random
import sys
import time

import numpy as np
from PIL import Image

ROUNDS = 7
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def decode(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def batch_row(data):
    image = decode(data).convert("RGB")
    width, height = image.size
    short = min(width, height)
    if short != 256:
        image = image.resize((width * 256 // short, height * 256 // short), Image.BILINEAR)
    left, top = random.randrange(image.width - 223), random.randrange(image.height - 223)
    image = image.crop((left, top, left + 224, top + 224))
    if random.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    x = np.asarray(image, np.uint8).astype(np.float32) / 255
    return np.ascontiguousarray(((x - MEAN) / STD).transpose(2, 0, 1))


def rate(step, files):
    best = 1e9
    for _ in range(ROUNDS):
        before = time.thread_time()
        for data in files:
            step(data)
        best = min(best, time.thread_time() - before)
    return len(files) / best


def main():
    folder = pathlib.Path(sys.argv[1])
    print("films a second and core  decoded   a batch")
    for kind in ("png-256x256", "jpeg-256x256", "png-420x512", "jpeg-2048x2500"):
        files = [path.read_bytes() for path in sorted(folder.glob(kind + "-*"))]
        print(f"{kind:<16} {rate(decode, files):>9.0f} {rate(batch_row, files):>9.0f}")


if __name__ == "__main__":
    main()
