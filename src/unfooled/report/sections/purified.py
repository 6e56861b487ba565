"""Pictures of what a purifier does: before and after, bands, and the atoms that the high band is rebuilt from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unfooled.drawing.pictures import Array, Encoding, Plate, difference, photograph
from unfooled.evaluation.audit.guard_fields import Guard, PurifiedExample
from unfooled.report.runs import Run
from unfooled.report.sections.confusion import class_name
from unfooled.report.sections.gallery import Picture, encoded

ENCODING = Encoding(128, False)
GAP = 1
"""Pixels between two atoms."""
MOST_ATOMS = 100
"""Largest number of atoms that are drawn."""


@dataclass(frozen=True)
class PurifiedRow:
    """One sample: a sentence on it, and its pictures."""

    text: str
    pictures: list[Picture]


def purified_rows(run: Run, guard: Guard) -> list[PurifiedRow]:
    """Return the pictures of all samples whose purification is shown; none where there are no pictures."""
    if not run.purified:
        return []
    return [PurifiedRow(_text(run, e), _pictures(run, e, k)) for k, e in enumerate(guard.examples)]


def _text(run: Run, e: PurifiedExample) -> str:
    classes = run.summary.classes
    text = f"Sample {e.index}, class {class_name(classes, e.label)}: "
    text += f"taken for {class_name(classes, e.prediction)} after the attack." if e.fooled else "not fooled."
    if e.attacked_cluster is None:
        return text
    before = "the same" if e.cluster == e.attacked_cluster else str(e.cluster)
    of = "" if e.cluster_label is None else f", of class {class_name(classes, e.cluster_label)}"
    return f"{text} Nearest cluster {e.attacked_cluster}{of}; {before} before the attack."


def _pictures(run: Run, e: PurifiedExample, k: int) -> list[Picture]:
    """Return the pictures of one sample, in the order of the purification."""
    arrays, at = {name: np.nan_to_num(value[k]) for name, value in run.purified.items()}, f"sample {e.index}"
    plates: list[tuple[str, str, Plate]] = [
        ("Input", "Input", photograph(arrays["x"])),
        ("Input, purified", "Purified input", photograph(arrays["before"])),
        ("Attacked", "Attacked input", photograph(arrays["x_adv"])),
        ("Attacked, purified", "Purified attacked input", photograph(arrays["after"])),
    ]
    if "atoms" in arrays:
        zero = np.zeros_like(arrays["high"])
        plates += [
            ("Low band", "Low band of the attacked input", photograph(arrays["low"])),
            ("High band", "High band of the attacked input, around grey", difference(zero, arrays["high"], 1)),
            ("High band, rebuilt", "Rebuilt high band, around grey", difference(zero, arrays["rebuilt"], 1)),
            ("Atoms of its cluster", "Atoms of the nearest cluster, around grey", atom_sheet(arrays["atoms"])),
        ]
    return [encoded(plate, caption, f"{alt} of {at}", ENCODING) for caption, alt, plate in plates]


def atom_sheet(atoms: Array) -> Plate:
    """Draw atoms side by side around grey, each to its own largest entry.

    Args:
        atoms: Atoms, (A, C, size, size).
    """
    atoms = atoms[:MOST_ATOMS]
    count, channels, height, width = atoms.shape
    columns = int(np.ceil(np.sqrt(count)))
    lines = -(-count // columns)
    sheet = np.zeros((channels, lines * (height + GAP) - GAP, columns * (width + GAP) - GAP), np.float32)
    for i, atom in enumerate(atoms):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        sheet[:, top : top + height, left : left + width] = atom / (2 * max(float(np.abs(atom).max()), 1e-12))
    return difference(np.zeros_like(sheet), sheet, 1)
