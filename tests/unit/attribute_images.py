"""For tests of counterfactuals: a folder of small images with a table of their attributes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HALVES = {"top": np.s_[:4], "left": np.s_[:, :4], "middle": np.s_[2:6, 2:6]}
"""Attribute -> part of the image that is bright where it is present."""


def write_attributes(folder: Path, n: int) -> Path:
    """Write n grey images of 8x8 pixels, and the table `attributes.csv`; return its path."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(("path", *HALVES))]
    for k in range(n):
        pixels, present = 0.3 * rng.random((8, 8)), rng.integers(2, size=len(HALVES))
        for part, on in zip(HALVES.values(), present, strict=True):
            pixels[part] += 0.3 * on
        Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8)).save(folder / f"{k:02d}.png")
        lines.append(",".join((f"{k:02d}.png", *map(str, present))))
    path = folder / "attributes.csv"
    path.write_text("\n".join(lines) + "\n")
    return path
