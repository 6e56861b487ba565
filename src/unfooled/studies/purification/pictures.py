"""Pictures of the study of purification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unfooled.drawing.figures import COLOURS, MARKERS, Picture, add_legend, as_picture, new_figure
from unfooled.purification import SemanticPurifier, split
from unfooled.studies.common.feature_pictures import image_rows

SHOWN, ATOMS, DICTIONARIES, CLASSES_IN_A_COLUMN = 8, 16, 6, 20
"""Number of images, atoms and dictionaries that are drawn, and of classes in a column of a legend."""
CHOICES = {
    "worst": "Those whose purified attacked image is farthest from the clean one.",
    "random": "Drawn at random.",
}
"""Selection of images -> its sentence in a caption."""


@torch.no_grad()
def drawn(
    purify: SemanticPurifier, x: Tensor, x_adv: Tensor, train: tuple[Tensor, Tensor], *, title: str
) -> list[Picture]:
    """Draw bands, clusters, atoms, and images before and after: the worst and random ones.

    Args:
        purify: Purifier.
        x: Clean images.
        x_adv: Attacked images.
        train: Training images and labels, for the clusters.
        title: Text before each heading.
    """
    made, made_adv = purify(x), purify(x_adv)
    low, high = split(x, smooth=purify.smooth)
    count = min(SHOWN, len(x))
    numbers = [str(i) for i in range(count)]
    bands = {
        "image": x[:count], "low band": low[:count].clamp(0, 1), "high band": (0.5 + high[:count]).clamp(0, 1),
        "rebuilt": (0.5 + (made - low)[:count]).clamp(0, 1), "purified": made[:count],
    }  # fmt: skip
    caption = "Low and high band of clean images, the high band rebuilt from atoms, and their sum. Grey is 0 in bands."
    pictures = [image_rows(bands, numbers, title=f"{title}: bands", caption=caption)]
    pictures += [clusters(purify, *train, title=title), atoms(purify, title=title)]
    worst = (made_adv - x).flatten(1).norm(dim=1).argsort(descending=True)[:count]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]
    for name, rows in (("worst", worst), ("random", order)):
        lines = {"clean": x, "purified": made, "attacked": x_adv, "attacked, purified": made_adv}
        caption = f"Images attacked through the purifier. {CHOICES[name]}"
        names = [str(int(i)) for i in rows]
        some = {line: images[rows] for line, images in lines.items()}
        pictures.append(image_rows(some, names, title=f"{title}: before and after, {name}", caption=caption))
    return pictures


def clusters(purify: SemanticPurifier, x: Tensor, y: Tensor, *, title: str) -> Picture:
    """Draw the clusters of latents in the plane of the first two axes."""
    z = purify.encode(x)
    at = purify.clusters.reduced(z)
    at = torch.cat([at, torch.zeros_like(at)], 1)[:, :2].cpu()
    nearest = purify.clusters.nearest(z, y.to(z.device)).cpu()
    columns = 1 + (len(purify.label.unique()) - 1) // CLASSES_IN_A_COLUMN
    figure, axes = new_figure(1, 1, 4.6 + columns, 4.4)
    first = {int(label): int((purify.label == label).nonzero()[0]) for label in purify.label.unique()}
    for k in range(len(purify.clusters)):
        rows, label = nearest == k, int(purify.label[k])
        style = {"color": COLOURS[label % len(COLOURS)], "marker": MARKERS[(k - first[label]) % len(MARKERS)]}
        name = f"class {label}" if k == first[label] else None
        axes[0, 0].scatter(*at[rows].T.tolist(), s=9, alpha=0.6, linewidths=0, label=name, **style)
    add_legend(axes[0, 0], loc="upper left", bbox_to_anchor=(1.01, 1.0), ncols=columns)
    axes[0, 0].tick_params(labelsize=8)
    caption = (
        "Latents of training images on the first two axes; a colour for each class, a mark for each of its clusters."
    )
    return as_picture(figure, f"{title}: clusters", caption)


def atoms(purify: SemanticPurifier, *, title: str) -> Picture:
    """Draw the first atoms of the first dictionaries."""
    rows: dict[str, Tensor] = {}
    for k in range(min(DICTIONARIES, len(purify.clusters))):
        some = purify.dictionaries[k, :ATOMS].cpu()
        top = some.abs().flatten(1).amax(1).clamp_min(1e-9)[:, None, None, None]
        rows[f"class {int(purify.label[k])}, cluster {k}"] = (0.5 + 0.5 * some / top).clamp(0, 1)
    names = [str(i) for i in range(next(iter(rows.values())).shape[0])]
    caption = "The first atoms of the dictionaries of a few clusters, each scaled to its own largest value; grey is 0."
    return image_rows(rows, names, title=f"{title}: atoms", caption=caption)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str, caption: str, axis: str
) -> Picture:
    """Draw curves with a legend.

    Args:
        lines: Name -> x and y.
        title: Heading.
        caption: Caption.
        axis: Text of both axes, separated by a bar.
    """
    figure, axes = new_figure(1, 1, 6.6, 3.8)
    for i, (name, (x, y)) in enumerate(lines.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "ls": "-" if i < len(COLOURS) else ":"}
        axes[0, 0].plot(x, y, lw=1.3, label=name, **style)
    across, up = axis.split("|")
    axes[0, 0].set_xlabel(across, fontsize=9)
    axes[0, 0].set_ylabel(up, fontsize=9)
    axes[0, 0].set_ylim(-0.02, 1.02)
    axes[0, 0].tick_params(labelsize=8)
    add_legend(axes[0, 0], loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return as_picture(figure, title, caption)
