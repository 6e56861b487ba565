"""scikit-learn's handwritten digits: 1,797 scans of 8x8 pixels, part of scikit-learn, no download.

Split: sorted by class, then index, samples 0, 3 and 6 of every ten are test samples: 540 of them, 1,257 for
training, every class at 30%. The split uses no random numbers, so that it does not depend on library versions.

References:
    Alpaydin, Kaynak, Optical recognition of handwritten digits, UCI 1998 (its test set).
"""

from __future__ import annotations

import numpy as np

from unfooled.data.dataset import Source, select_split


def digits(split: str) -> Source:
    """Open the digits, values / 16, (N, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    wanted = select_split(split, ("train", "test"), "digits")
    pixels, y = load_digits(return_X_y=True)
    place = np.empty(len(y), np.int64)
    place[np.argsort(y, kind="stable")] = np.arange(len(y))
    rows = np.flatnonzero(np.isin(place % 10, (0, 3, 6)) == (wanted == "test"))
    x = (pixels[rows] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return Source("digits", wanted, y[rows].astype(np.int64), [str(k) for k in range(10)], lambda at: x[at])
