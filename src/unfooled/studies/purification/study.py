"""Study of purification by semantic dictionaries: what a purifier adds, static and adaptive.

Networks (plain, PGD-AT, with the latent constraint, trained through the purifier) stand behind purifiers (classical
ones, one dictionary, dictionaries by cluster), and each pair is attacked statically and in every way that knows the
purifier. Accuracy is that of images that survive all attacks; every difference is paired by image.

References:
    Silva, Das, Scarff, Najafirad, Adaptive clustering of robust semantic representations for adversarial image
    purification, 2021, arXiv:2104.02155 (the abstract; the full text could not be consulted).
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420.
    Tramer, Carlini, Brendel, Madry, On adaptive attacks to adversarial example defenses, NeurIPS 2020,
    arXiv:2002.08347.
"""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.common.records import Claim, StudySummary
from unfooled.studies.common.run import Findings, StudyRun, seconds_of
from unfooled.studies.common.scale import pick_scale
from unfooled.studies.purification.bench import PurificationBench
from unfooled.studies.purification.claims import claims
from unfooled.studies.purification.figures import Grid
from unfooled.studies.purification.judging import BLACK
from unfooled.studies.purification.scale import LOSSY, SCALES, PurificationScale
from unfooled.studies.purification.tables import pictures, tables
from unfooled.studies.purification.units import Results, measure

NAME, TITLE = "purification", "What does a purifier add, once it is attacked?"


def run_purification(
    scale: str | PurificationScale,
    *,
    out: Place | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train networks, fit purifiers, and attack every pair in every way.

    Args:
        scale: "small" (digits and MNIST; Fashion-MNIST, GTSRB, CIFAR-10 where named), "medium" (MNIST, Fashion-MNIST,
            GTSRB and CIFAR-10 in small networks, 500 images) or "full" (CIFAR-10); or your own sizes.
        out: Folder, URL or open store of the results; a second run there resumes. None: nothing is stored.
        seeds: Random seeds; each repeats everything.
        data: Data sets to look at; also folders of your own images, train and test, by class. None: all of the scale's.
        device: Device of the networks.
        progress: Called with `(stage, units done, units in all)`; None: silent.
        command: Command that reproduces the run, for the record.

    Returns:
        The `StudySummary`, also written to `summary.json` in `out`.

    Raises:
        BadInput: no such scale or data set, data that are not there, or a folder of another run.
    """
    name, size = pick_scale(SCALES, scale)
    size = size.asked(data)
    run = StudyRun(NAME, TITLE, name, seeds, out=out, device=device, progress=progress, command=command)
    results, _ = run.task_results(size, data, measure, PurificationBench, n=size.n)
    return run.finish(purification_findings(results))


def purification_findings(results: Sequence[Results]) -> Findings:
    """Make tables, claims and pictures from the stored results."""
    made = {title: rows for result in results for title, rows in tables(result).items()}
    by_set = [claims(result) for result in results]
    decided = [claim for of_set in by_set for claim in of_set]
    drawn = [picture for result in results for picture in pictures(result)]
    seconds = seconds_of(
        *(rows for r in results for rows in (r.networks, r.grid, r.transfer, r.unseen, r.detected, r.clusters)),
        *(r.pictures for r in results),
    )
    first = [
        _first_line(result, of_set)
        for result, of_set in zip(results, by_set, strict=True)
        if any("other arms" in one.claim for one in of_set)
    ]
    rises = [f"{r.task.name}: {cell}" for r in results for cell in Grid(r.grid, r.task.eps).raw_rises()]
    rising = (
        "Before points were carried over to larger radii, accuracy under the worst attack rose with eps for "
        f"{', '.join(rises)}: there the attacks are not the strongest ones."
        if rises
        else "Accuracy under the worst attack does not rise with eps, before points are carried over to larger radii."
    )
    lossy = [LOST] if any(result.task.source == LOSSY for result in results) else []
    return Findings(made, decided, [rising, *lossy, *NOTES], drawn, seconds, first)


def _first_line(result: Results, decided: Sequence[Claim]) -> str:
    """Return the answer to the question of the page, with the arm that is best and both controls."""
    best, *others = [one for one in decided if "other arms" in one.claim]
    words = {"holds": "Something beats", "fails": "Nothing beats", "undecided": "Nothing surely beats"}[best.verdict]
    text = f"{result.task.name}: {words} plain PGD-AT at equal compute under the worst attack{_figure(best)}"
    arm = best.claim.partition("other arms, ")[2].partition(", beats")[0]
    if arm and best.value is not None:
        text += f"; the best arm is {arm}" + ", on which no attack by queries was run" * (not _queried(result, arm))
    text += "."
    if not others:
        return text
    longer = others[0]
    arm = longer.claim.partition("other arms, ")[2].partition(", beats")[0]
    words = {"holds": "wins", "fails": "does not win", "undecided": "does not surely win"}[longer.verdict]
    return f"{text} Against PGD-AT that is trained for longer, {arm} {words}{_figure(longer)}."


def _queried(result: Results, arm: str) -> bool:
    """Return whether attacks without gradients were run on an arm, such as "PGD-AT behind bit depth"."""
    network, _, purifier = arm.partition(" behind ")
    rows = [row for row in result.grid if (row.network, row.purifier) == (network, purifier)]
    return any(column.startswith(f"{BLACK}, ") for row in rows for column in row.columns)


def _figure(one: Claim) -> str:
    """Return the difference of a claim with its interval."""
    return "" if one.value is None else f": {one.value:+.2f} [{one.low:.2f}, {one.high:.2f}], n = {one.n}"


LOST = (
    f"{LOSSY}: the images come from JPEG files, which have lost a part of the high band already; purifiers have less "
    "to rebuild there than in the original images."
)
NOTES = (
    "Static: the bare network is attacked and its points are purified; this is no robust accuracy. Worst: right under "
    "every attack, static ones included, and at every smaller radius. Every point is verified on the purifier as it is "
    "used. Of several attacks of one kind, each faces the images that those before it left.",
    "The black box (square, and transfer from another undefended network) attacks the first images only, of the "
    "purifiers that the scale names; others count as surviving it, and a comparison with one of them leaves it out.",
    "Classical purifiers have the strongest setting that costs the standard network at most one point of clean "
    "accuracy on training images, or the weakest one tried; semantic ones have the same setting everywhere.",
    "Random cluster: the dictionaries are shuffled among the clusters. Training through the purifier continues PGD-AT "
    "for a quarter of its updates, each of which costs four; the control at equal compute continues it for all.",
    "Networks with other weights of the latent constraint, and with clusters that are fitted anew to their own clean "
    'latents during training, stand alone and behind SRD. SRD is fitted to the standard network; "SRD, of this '
    'network" to the network behind it.',
    "A random purifier is attacked by the gradient averaged over draws, and scored by fresh submissions.",
)
