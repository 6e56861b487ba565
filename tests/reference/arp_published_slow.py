"""The published loss in NumPy, one sample and one cell at a time, for one small network. Written from the equations.

Network on v = 2 u - 1, (3, 8 s, 8 s): patches of s x s -> linear, ReLU: A (C, 8, 8) -> flatten -> linear, ReLU
-> linear.
"""

from __future__ import annotations

import math

import numpy as np

Weights = dict[str, np.ndarray]


def forward(v: np.ndarray, w: Weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, the hidden units before their ReLU, and the logits of one image."""
    c, side = len(w["conv"]), w["conv"].shape[2]
    a = np.zeros((c, 8, 8))
    for k in range(c):
        for i in range(8):
            for j in range(8):
                patch = v[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
                a[k, i, j] = max(0.0, (patch * w["conv"][k]).sum() + w["conv_b"][k])
    hidden = w["one"] @ a.reshape(-1) + w["one_b"]
    return a, hidden, w["two"] @ np.maximum(hidden, 0) + w["two_b"]


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def step_ll(v: np.ndarray, w: Weights, eps: float) -> np.ndarray:
    a, hidden, z = forward(v, w)
    k = len(z)
    target = np.full(k, 0.1 / k)
    target[z.argmin()] += 0.9
    da = (((softmax(z) - target) @ w["two"]) * (hidden > 0)) @ w["one"]
    da = da.reshape(a.shape) * (a > 0)
    side = w["conv"].shape[2]
    g = np.zeros_like(v)
    for c in range(len(a)):
        for i in range(8):
            for j in range(8):
                g[:, i * side : (i + 1) * side, j * side : (j + 1) * side] += da[c, i, j] * w["conv"][c]
    return np.clip(v - eps * np.sign(g), -1, 1)


def resized(p: np.ndarray, side: int) -> np.ndarray:
    out = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            a, b = i * 8 / side, j * 8 / side
            i0, j0 = math.floor(a), math.floor(b)
            i1, j1, s, t = min(i0 + 1, 7), min(j0 + 1, 7), a - i0, b - j0
            top = (1 - t) * p[i0, j0] + t * p[i0, j1]
            low = (1 - t) * p[i1, j0] + t * p[i1, j1]
            out[i, j] = (1 - s) * top + s * low
    return out


def loss(u: np.ndarray, y: np.ndarray, w: Weights, adversarial: np.ndarray | None = None) -> dict[str, float]:
    """L and its parts; `adversarial` in [-1, 1], crafted where None."""
    clean = [2 * image - 1 for image in u]
    adv = [step_ll(v, w, 0.15) for v in clean] if adversarial is None else list(adversarial)
    n, k = len(u), len(w["two"])
    entropy, gap, maps = 0.0, 0.0, []
    for images in (clean, adv):
        passes = [forward(v, w) for v in images]
        grads = [
            ((w["two"][label] * (hidden > 0)) @ w["one"]).reshape(a.shape) / k
            for (a, hidden, _), label in zip(passes, y, strict=True)
        ]
        rms = math.sqrt(np.mean([np.mean(g * g) for g in grads])) + 1e-5
        m = []
        for (a, _, _), g in zip(passes, grads, strict=True):
            s = sum((g[c] / rms).mean() * a[c] for c in range(len(a)))
            m.append(resized(softmax(s.reshape(-1)).reshape(8, 8), u.shape[2]))
        threshold = np.mean(m)
        for v, (_, _, z), image_map, label in zip(images, passes, m, y, strict=True):
            removed = np.where(image_map > threshold, 0.0, v)
            entropy -= math.log(softmax(z)[label]) / n
            gap -= ((softmax(z) - softmax(forward(removed, w)[2])) ** 2).sum() / (n * k)
        maps.append(m)
    entropy += 0.004 / 2 * (w["one"] ** 2).sum()
    apart = sum(((a - b) ** 2).sum() for a, b in zip(*maps, strict=True))
    return {
        "classification": entropy,
        "rectification": gap,
        "preservation": apart,
        "total": 8 * entropy + 4 * gap + apart,
    }
