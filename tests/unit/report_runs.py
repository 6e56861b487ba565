"""For the tests of the report: fabricated run folders (plausible numbers, random pictures, nothing was attacked), and a
reader that takes a page apart."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from unfooled.evaluation.audit.records import CurvePoint, Example, Nearness, Summary
from unfooled.evaluation.checks.table import Finding
from unfooled.evaluation.explanations.records import (
    Attention,
    AttentionExample,
    How,
    Movement,
    ReasonExample,
    ReasonPoint,
    Reasons,
)
from unfooled.runs.progress import Progress
from unfooled.runs.records import Environment, Passes, write_record
from unfooled.statistics.intervals import Estimate, Mean

NOTHING = Mean(value=None, low=None, high=None, n=0)


def estimate(k: int, n: int) -> Estimate:
    if n == 0:
        return Estimate(value=None, low=0.0, high=1.0, n=0)
    p = k / n
    reach = 1.96 * (p * (1 - p) / n) ** 0.5 + 1 / n
    return Estimate(value=p, low=max(0.0, p - reach), high=min(1.0, p + reach), n=n)


def mean(value: float, n: int = 76) -> Mean:
    low, high = sorted((value * 0.97, value * 1.04))
    return Mean(value=value, low=low, high=high, n=n)


def confusion(classes: int, n: int) -> list[list[int]]:
    g = torch.Generator().manual_seed(classes)
    counts = torch.poisson(torch.full((classes, classes), 0.25 * n / classes**2), generator=g)
    counts += torch.diag(torch.full((classes,), 0.75 * n / classes).floor())
    return [[int(c) for c in row] for row in counts.tolist()]


def example(k: int, classes: int, fooled: bool) -> Example:
    label = k % classes
    return Example(
        index=17 * k,
        label=label,
        clean=label,
        adversarial=(label + 1) % classes if fooled else label,
        clean_confidence=0.99 - 0.01 * k,
        adversarial_confidence=0.8,
        fooled=fooled,
        distance=0.3,
        psnr=19.5 + k,
        similarity=0.2 + 0.03 * k,
    )


def nearest_gallery(distances: Sequence[float]) -> dict[str, Any]:
    """Nearest examples at some distances, and the record of all distances that they are from."""
    examples = [example(k, 10, True).model_copy(update={"distance": d}) for k, d in enumerate(distances)]
    n = 2 * len(distances)
    curve = [(d, 1 - (k + 1) / n) for k, d in enumerate(distances)]
    record = Nearness(
        norm="linf", n=n, reached=estimate(n // 2, n), quartiles=(distances[0], distances[-1], None), classes=[],
        curve=curve,
    )  # fmt: skip
    return {"nearest_gallery": examples, "nearest": [record]}


def summary(*, classes: int = 10, examples: int = 12, n: int = 1000, **changes: Any) -> Summary:
    eps = changes.get("eps", (0.0, 0.1, 0.2, 0.3, 0.4))
    right, held = round(0.994 * n), round(0.918 * n)
    found: dict[str, Any] = {
        "title": "A fabricated audit",
        "model": "models/made-up.pt",
        "data": "data/noise.npz",
        "n": n,
        "threat": "linf:0.3",
        "seed": 0,
        "clean_accuracy": estimate(right, n),
        "robust_accuracy": estimate(held, n),
        "attack_success_rate": estimate(right - held, right),
        "passes": Passes(forward=41.2, backward=38.7),
        "explanation_passes": Passes(forward=2.0, backward=2.0),
        "seconds": 83.4,
        "warnings": [],
        "attack": "cascade of two attacks, 20 steps",
        "curve": [CurvePoint(eps=e, accuracy=estimate(round(198 * 0.8**k), 200)) for k, e in enumerate(eps)],
        "curve_n": 200,
        "confusion": confusion(classes, n),
        "classes": [f"class {k}" for k in range(classes)],
        "psnr": mean(19.8),
        "ssim": mean(0.82),
        "noise": mean(0.118),
        "noise_unit": "of the range",
        "movements": [
            Movement(name="top-k intersection", explanation="gradients", better="higher",
                     fooled=mean(0.31), unfooled=mean(0.52, 918), undefined=3),
            Movement(name="centre shift", explanation="gradients", better="lower",
                     fooled=mean(4.2), unfooled=NOTHING, undefined=0),
        ],
        "explanation": "gradients",
        "gallery": [example(k, classes, k % 4 != 3) for k in range(examples)],
        "limits": ["Robust accuracy is an upper bound; compare with AutoAttack, arXiv:2003.01690.", "One threat only."],
        "command": "unfooled audit models/made-up.pt --data data/noise.npz --threat linf:0.3",
        "created": "2026-05-03T14:22:05+00:00",
        "options": {"steps": 20, "losses": ["cross_entropy", "margin"]},
        "environment": Environment.here("cpu"),
    }  # fmt: skip
    changes.pop("eps", None)
    return Summary(**(found | changes))


FIRED = {
    "SOUND": {"D19": "seven steps fool 4% by the cross-entropy, 38% by the margin"},
    "EXTENDED": {"D12": "five more restarts fooled 4 of 12 survivors",
                 "D17": "the nearest-point attacks fooled 3 of 200"},
    "OVERSTATED": {"D6": "the margin's gradient is zero on 97% of 64 points at the start",
                   "D14": "a search without gradients fooled 31 of 48 survivors",
                   "D18": "11 of 12 samples withstand an adversary who may change anything"},
    "NOT EVALUABLE": {"D2": "accuracy 11% on the inputs as given, 94% after CIFAR-10's mean and std",
                      "D10": "71 of 310 points that fooled the model when found do not fool it when judged"},
}  # fmt: skip
BECAUSE = {
    "SOUND": "No check speaks against the figure.",
    "EXTENDED": "D12: five more restarts fooled 4 of 12 survivors; D17: the nearest-point attacks fooled 3 of 200; the "
    "attack went on until nothing more was found.",
    "OVERSTATED": "The model's gradients cannot be used (D6: the margin's gradient is zero on 97% of 64 points at the "
    "start); the figure is what stand-in gradients, random search and label-only attacks left, so the true one is "
    "probably lower.",
    "NOT EVALUABLE": "No figure can be believed: D2, accuracy 11% on the inputs as given, 94% after CIFAR-10's mean "
    "and std; D10, 71 of 310 points that fooled the model when found do not fool it when judged.",
}  # fmt: skip


def stages(left: list[float], n: int, clean: float = 0.994) -> list[Progress]:
    """A cascade that leaves these shares after its stages."""
    names = ("apgd", "apgd", "targets", "square", "square", "odi", "odi", "square", "square")
    cost = ((21, 20), (22, 21), (24, 24), (27, 0), (26, 0), (8, 7), (7, 7), (29, 0), (28, 0))
    found = [Progress(stage="clean", forward=1, backward=0, accuracy=clean, taken=n, closed=round((1 - clean) * n))]
    for k, share in enumerate(left):
        last = found[-1]
        found.append(Progress(
            stage=f"{k}-{names[k]}", forward=last.forward + cost[k][0], backward=last.backward + cost[k][1],
            accuracy=share, taken=round(last.accuracy * n), closed=round((last.accuracy - share) * n),
        ))  # fmt: skip
    return found


def nearness(norm: str, scale: float, *, n: int = 200, classes: int = 10, found: float = 1.0) -> Nearness:
    """Distances that are distributed evenly from scale / 20 to scale, but for those that are wrong, and not found."""
    wrong, known = n // 50, round(found * n)
    d = [0.0] * wrong + [scale * (0.05 + 0.95 * k / (n - wrong)) for k in range(1, known - wrong + 1)]
    rows = sorted({round(k * (known - 1) / 63) for k in range(64)} | {wrong - 1 if wrong else 0})[:64]
    at = [d[math.ceil(q * n) - 1] if math.ceil(q * n) <= known else None for q in (0.25, 0.5, 0.75)]
    return Nearness(
        norm=norm, n=n, reached=estimate(known, n), quartiles=(at[0], at[1], at[2]),
        classes=[scale * (0.3 + 0.04 * ((7 * k) % 11)) if k != 4 else None for k in range(classes)],
        curve=[(d[k], 1 - sum(v <= d[k] for v in d) / n) for k in rows],
    )  # fmt: skip


def judged(verdict: str, *, n: int = 1000, held: int = 601, classes: int = 10, **changes: Any) -> dict[str, Any]:
    """The fields of an audit with checks, as `changes` of `summary`."""
    fired = FIRED[verdict]
    left = [held / n + more for more in (0.052, 0.021, 0.008, 0.006, 0.004, 0.002, 0.001, 0.0, 0.0)]
    ids = [f"D{k}" for k in range(1, 25)]
    return {
        "n": n, "classes": classes, "robust_accuracy": estimate(held, n),
        "robust_accuracy_8bit": estimate(held + 3, n), "verdict": verdict,
        "trusted": verdict in ("SOUND", "EXTENDED"), "because": BECAUSE[verdict],
        "attack_success_rate": estimate(round(0.994 * n) - held, round(0.994 * n)),
        "diagnostics": [
            Finding(id=d, fired=d in fired, detail=fired.get(d, f"nothing odd in {d}"),
                    action=f"what is done about {d}" if d in fired else "", value=0.31 if d in fired else 0.0,
                    threshold=0.05)
            for d in ids
        ],
        "diagnostic_passes": Passes(forward=17.3, backward=4.6), "effort": "normal", "progress": stages(left, n),
        "nearest": [nearness("linf", 0.9, classes=classes), nearness("l2", 6.0, classes=classes, found=0.7)],
        "passes": Passes(forward=193.2, backward=79.4), "attack": "cascade, normal",
    } | changes  # fmt: skip


def reasons(*, n: int = 32, eps: float = 0.3, attack: float = 0.9, cases: int = 3, **changes: Any) -> Reasons:
    """An attack on explanations that leaves less the farther it goes; `attack` is how much of 1 it takes at eps."""
    curve = []
    for share in (0.25, 0.5, 1.0):
        for how, weight in ((How.ATTACK, attack), (How.BEST_OF_N, 0.5), (How.RANDOM, 0.15)):
            left = round(1 - weight * share, 4)
            curve.append(ReasonPoint(
                eps=share * eps, share=share, how=how, lens=mean(left, n - 3), lens_raw=mean(0.6 + 0.4 * left, n - 3),
                top_k=mean(0.1 + 0.7 * left, n - 3), kendall=mean(left / 2, n - 3), attacked=n - 3, failed=2,
                undefined=1, skipped=0,
            ))  # fmt: skip
    first, label = round(0.4 * (n - 1)), round(0.25 * (n - 1))
    gallery = [
        ReasonExample(index=11 * k, label=k, how=How.BEST_OF_N if k == 1 else How.ATTACK, lens=-0.1 + 0.1 * k,
                      lens_raw=0.5, chance=0.41, top_k=0.08, output_change=1.7, moved_at=0.25)
        for k in range(cases)
    ]  # fmt: skip
    found: dict[str, Any] = {
        "explanation": "saliency", "by": "gradients", "n": n, "k": 78, "w": 1, "pixels": 784, "steps": 20,
        "restarts": 1, "random_points": 65, "curve": curve, "chance": mean(0.41, n - 1),
        "reason_first": estimate(first, n - 1), "label_first": estimate(label, n - 1),
        "neither": estimate(n - 1 - first - label, n - 1), "passes": Passes(forward=801.0, backward=412.5),
        "gallery": gallery,
    }  # fmt: skip
    return Reasons(**(found | changes))


def attention(*, n: int = 120, cases: int = 3, far: float = 0.3) -> Attention:
    """Attention of n samples, two fifths of them fooled; some completenesses lie beyond any axis."""
    g = torch.Generator().manual_seed(n)
    complete, distance = (0.5 + 0.4 * torch.randn(n, generator=g), far * (1 + 0.6 * torch.randn(n, generator=g)).abs())
    fooled = torch.rand(n, generator=g) < 0.4
    points = list(zip(complete.tolist(), distance.tolist(), fooled.tolist(), strict=True))
    gallery = [
        AttentionExample(
            index=7 * k, label=k, fooled=k % 2 == 0, complete=0.4, js=0.1, start=(0.5, 0.4), end=(0.3, 0.7)
        )
        for k in range(cases)
    ]
    level = Mean(value=-0.3, low=-0.45, high=-0.12, n=n)
    return Attention(
        n=n + 10, cells=(7, 7), points=points, undefined=3, unreached=7, correlation=level, gallery=gallery
    )


def fabricate(
    folder: Path, *, shape: tuple[int, ...] = (1, 28, 28), signed: bool = True, seed: int = 0, **changes: Any
) -> Summary:
    """Write a run folder; `changes` are fields of the summary, or classes, examples, n, eps."""
    found = summary(**changes)
    write_record(folder / "summary.json", found)
    g = torch.Generator().manual_seed(seed)
    size = (len(found.gallery), *shape)
    x = torch.rand(size, generator=g)
    x_adv = (x + 0.03 * torch.randn(size, generator=g).sign()).clamp(0, 1)
    before, after = (torch.randn(size, generator=g) for _ in range(2))
    if not signed:
        before, after = before.abs(), after.abs()
    if found.gallery:
        tensors = {"x": x, "x_adv": x_adv, "before": before, "after": after}
        save_file(tensors, str(folder / "gallery.safetensors"))
    if found.nearest_gallery:
        size = (len(found.nearest_gallery), *shape)
        tensors = {name: torch.rand(size, generator=g) for name in ("x", "x_adv", "before", "after")}
        save_file(tensors, str(folder / "nearest.safetensors"))
    if found.reasons is not None and found.reasons.gallery:
        size = (len(found.reasons.gallery), *shape)
        tensors = {name: torch.rand(size, generator=g) for name in ("x", "x_adv", "before", "after")}
        save_file(tensors, str(folder / "reasons.safetensors"))
    if found.attention is not None and found.attention.gallery:
        rows = len(found.attention.gallery)
        tensors = {name: torch.rand((rows, *shape), generator=g) for name in ("x", "x_adv")}
        tensors |= {name: torch.rand((rows, *found.attention.cells), generator=g) for name in ("before", "after")}
        save_file(tensors, str(folder / "attention.safetensors"))
    return found


VOID = {"br", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """A page taken apart: elements with their attributes and text, in document order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self.open: list[tuple[str, str]] = []
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        assert len(found) == len(attrs), f"twice the same attribute: {tag} {attrs}"
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append((tag, found.get("id", "")))
            self.inside.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"closed but not open: {tag}"
        assert self.open.pop()[0] == tag, f"closed out of order: {tag}"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        for tag in {tag for tag, _ in self.open}:
            self.inside[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def images(self) -> list[dict[str, str]]:
        """All images but the pair beside the answer, which stand in the gallery as well."""
        return [image for image in self.all("img") if "data-answer" not in image]

    def records(self) -> list[Summary]:
        text = re.search(r'<script type="application/json" id="records">(.*?)</script>', self.source, re.DOTALL)
        assert text is not None
        return [Summary.model_validate(one) for one in json.loads(text.group(1))]

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.texts))

    def pictures(self) -> list[Image.Image]:
        sources = [image["src"].split(",", 1)[1] for image in self.images()]
        return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]
