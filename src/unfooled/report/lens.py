"""One self-contained page about a set of maps before and after: scores with their chance levels, and a few pairs drawn.

The page is a pure function of its record, and everything in there is untrusted text, as on the page of an audit.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled._version import __version__
from unfooled.distances import corrected, dilate, top_k_mask
from unfooled.drawing.theme import variables
from unfooled.evaluation.explanations.locality import SAYS_NOTHING, Survival
from unfooled.report import words
from unfooled.report.page import TEMPLATES, _environment, _script
from unfooled.report.study import picture

# Share of the k pixels: in both; perturbed alone, near a clean one; perturbed alone, far; clean alone.
KEPT, NEAR, FAR, LOST = "#1c2126", "#007a5a", "#c45500", "#8cc4e8"
MOST = 4


def warnings(found: Survival) -> list[str]:
    """What a reader must know before quoting a score."""
    said = []
    for block in found.blocks:
        empty = [s for s in block.scores if s.says_nothing]
        if empty:
            highest = max(s.chance.value or 0 for s in empty)
            said.append(
                f"k = {block.k}, w = {block.w}: unrelated maps would score up to {highest:.2f} here, so the raw "
                f"{', '.join(s.score for s in empty)} say{'s' if len(empty) == 1 else ''} nothing; lower w or k."
            )
    for k in dict.fromkeys(block.k for block in found.blocks):
        block = next(b for b in found.blocks if b.k == k)
        zeros = max(block.zeros_clean.value or 0, block.zeros_perturbed.value or 0)
        if zeros > 0.1:
            said.append(
                f"k = {k}: {100 * zeros:.0f} % of the top k are zeros, which are chosen by their place alone; "
                "take a smaller k."
            )
    if found.undefined:
        said.append(
            f"{words.plural(found.undefined, 'pair')} of {found.n:,} hold{'s' if found.undefined == 1 else ''} a "
            "constant map, which has no order: no score, neither 0 nor 1."
        )
    return said


def picks(found: Survival) -> list[int]:
    """Pairs to draw: the two worst, the median and the best by corrected LENS-recall at the first k and w."""
    score = next(s for s in found.blocks[0].scores if s.score == "lens_recall")
    raw, level = (
        torch.tensor([float("nan") if v is None else v for v in row]) for row in (score.values, score.chances)
    )
    value = corrected(raw, level)
    value = value.where(~value.isnan(), raw)
    order = [int(i) for i in value.argsort(stable=True) if not value[i].isnan()]
    if len(order) <= MOST:
        return order
    return [order[0], order[1], order[len(order) // 2], order[-1]]


def draw(a: Tensor, b: Tensor, found: Survival) -> list[dict[str, str]]:
    """The pairs that `picks` names as one picture: clean, perturbed, and where the two top k agree."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    chosen = picks(found)
    if not chosen:
        return []
    k, w = found.blocks[0].k, found.blocks[0].w
    score = next(s for s in found.blocks[0].scores if s.score == "lens_recall")
    high, wide = found.shape
    tall = min(max(2.6 * high / wide, 0.6), 5.2)
    figure = Figure(figsize=(8.4, (tall + 0.35) * len(chosen) + 0.7), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen), 3, squeeze=False)
    for row, i in zip(axes, chosen, strict=True):
        pair = torch.stack([a[i], b[i]]).cpu()
        masks = top_k_mask(pair, k)
        near = dilate(masks, w)[0]
        clean, moved = masks
        image = np.ones((high, wide, 3))
        for mask, colour in (
            (clean & ~moved, LOST),
            (moved & ~clean & near, NEAR),
            (moved & ~clean & ~near, FAR),
            (clean & moved, KEPT),
        ):
            image[mask.numpy()] = to_rgb(colour)
        signed = bool((pair < 0).any())
        for axis, value in zip(row, pair.double().numpy(), strict=False):
            top = float(np.abs(value).max()) or 1.0
            axis.imshow(value, cmap="RdBu_r" if signed else "cividis", vmin=-top if signed else 0, vmax=top)
        row[2].imshow(image, interpolation="nearest")
        raw, level = score.values[i], score.chances[i]
        row[0].set_title(f"map {i}, clean", fontsize=9)
        row[1].set_title("perturbed", fontsize=9)
        row[2].set_title(f"recall {raw:.2f}, chance {level:.2f}", fontsize=9)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    labels = {"in both": KEPT, f"perturbed, within {w} of a clean one": NEAR, "perturbed, farther": FAR, "clean": LOST}
    figure.legend(
        handles=[Patch(color=c, label=t) for t, c in labels.items()], loc="outside lower center", ncols=4, fontsize=8
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    caption = (
        f"The two worst pairs, the median and the best by corrected LENS-recall at k = {k}, w = {w}, or all where "
        "there are few. Left and middle: the maps, each on its own scale. Right: their top k pixels; black were kept, "
        "green moved into the window of a clean one, orange moved farther, light blue were lost."
    )
    png = base64.b64encode(buffer.getvalue()).decode()
    return [{"title": "Where the top pixels went", "caption": caption, "png": png}]


def compose_lens(record: dict[str, Any]) -> str:
    """The page as text.

    Args:
        record: `found` (a `Survival` as plain values), and clean, perturbed, reduce, warnings, pictures, environment,
            command, created, seconds.
    """
    from markupsafe import Markup

    found = Survival.model_validate(record["found"])
    slim = {name: value for name, value in record.items() if name != "pictures"}
    records = json.dumps(slim)
    for character in "<>&":  # safe inside a script element
        records = records.replace(character, f"\\u{ord(character):04x}")
    script, digest = _script()
    context = {
        "r": record,
        "found": found,
        "limit": SAYS_NOTHING,
        "version": __version__,
        "pictures": [picture(one) for one in record["pictures"]],
        # Our own files, not the user's: the only text that is not escaped, with the records, made safe above.
        "style": Markup(variables() + (TEMPLATES / "style.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "records": Markup(records),
        "digest": digest,
    }
    return _environment().get_template("lens.html.j2").render(context)
