"""Folders of small images, a folder a class, as torchvision's ImageFolder has them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32  # pixels


def write_classes(folder: Path, counts: Mapping[str, int], spread: int = 60) -> Path:
    """So many images of each class: a colour of its own, and noise of this standard deviation, of 255."""
    for at, (name, count) in enumerate(counts.items()):
        colour = [random.Random(f"{at} {channel}").randrange(256) for channel in range(3)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for image in range(count):
            noise = np.random.default_rng([at, image]).normal(0, spread, (SIDE, SIDE, 3))
            shade = np.random.default_rng([at, image, 1]).normal(0, spread, 3)
            pixels = np.clip(np.array(colour) + shade + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{image:04}.png")
    return folder
