"""Study of LIME under attack: does an explanation change when the label does, and by more than LIME varies by itself?

One network is trained plainly, and its test images are attacked. Clean and attacked image are explained by the same
masks over the same segments, for the original and the new class, so that the difference of two explanations has a
standard error of its own (see `measures`). Every figure is compared with images with noise as large as the attack's
change, and with LIME's own instability: other masks, numbers of masks, baselines and grids, and networks with new
weights. A table
is explained behind a scaffold, which hides a bias from samplers whose perturbed rows do not look real (see `scaffold`).

References:
    Ribeiro, Singh, Guestrin, "Why should I trust you?", KDD 2016, arXiv:1602.04938.
    Slack, Hilgard, Jia, Singh, Lakkaraju, Fooling LIME and SHAP, AIES 2020, arXiv:1911.02508.
    Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018, arXiv:1810.03292.
"""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.common.records import StudySummary
from unfooled.studies.common.run import Findings, StudyRun, seconds_of
from unfooled.studies.common.scale import pick_scale
from unfooled.studies.lime_shift.bench import ShiftBench
from unfooled.studies.lime_shift.claims import claims, scaffold_claims
from unfooled.studies.lime_shift.pictures import correlations
from unfooled.studies.lime_shift.scale import SCALES, ShiftScale
from unfooled.studies.lime_shift.tables import scaffold_table, tables
from unfooled.studies.lime_shift.units import Results, Scaffolded, measure, measure_tables

NAME, TITLE = "lime-shift", "Do LIME's explanations move with the label?"


def run_lime_shift(
    scale: str | ShiftScale,
    *,
    out: Place | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train a network, explain its test images clean, attacked and noisy, and explain a table behind a scaffold.

    Args:
        scale: "small" (digits), "medium" (MNIST, from the folder that UNFOOLED_DATA names) or "full" (more images and
            masks); or your own sizes.
        out: Folder, URL or open store of the results; a second run there resumes. None: nothing is stored.
        seeds: Random seeds; each repeats everything.
        data: Data sets to use; None: all of the scale's.
        device: Device of the networks.
        progress: Called with `(stage, units done, units in all)`; None: silent.
        command: Command that reproduces the run, for the record.

    Returns:
        The `StudySummary`, also written to `summary.json` in `out`.

    Raises:
        BadInput: no such scale or data set, data that are not there, or a folder of another run.
    """
    name, size = pick_scale(SCALES, scale)
    run = StudyRun(NAME, TITLE, name, seeds, out=out, device=device, progress=progress, command=command)
    results, units = run.task_results(size, data, measure, ShiftBench, n=size.n)
    return run.finish(shift_findings(results, measure_tables(size.table, seeds, units), size))


def shift_findings(results: Sequence[Results], scaffolds: Sequence[Scaffolded], size: ShiftScale) -> Findings:
    """Make tables, claims and pictures from the stored results."""
    made = {title: rows for result in results for title, rows in tables(result, size).items()}
    made["Table: a biased model behind a scaffold"] = scaffold_table(scaffolds)
    decided = [claim for result in results for claim in claims(result, size.top)] + scaffold_claims(scaffolds)
    records = [rows for result in results for rows in (result.trained, result.shifts, result.own)]
    return Findings(made, decided, NOTES, [correlations(r) for r in results], seconds_of(*records, scaffolds))


NOTES = (
    "Only images that the network classifies correctly and that the attack fools count in the comparison with attacked "
    "images; noise and other masks are measured on the same ones. The attack stops at the first point with another "
    "label, so that its changes are close to the smallest that fool the network.",
    "Noise has the magnitudes of the attack's change, at random positions and with random signs, clipped to the box.",
    "Standard errors are those of the draw of masks. Where the held-out R2 is low, no linear surrogate fits, clean or "
    "attacked, and a moved explanation says little about the network.",
    'Clean and changed images share their masks. Those of the row "other masks" are drawn anew, so that its changes of '
    "sign are judged by the standard errors of both explanations. Intervals are bootstraps over images or rows.",
    "The detector, the explainer and the rows that are explained get a third of the table each, so that neighbours are "
    "rows that the detector has not seen.",
    "The table is synthetic, and its detector was trained on LIME's sampler; a scaffold that is trained on another "
    "sampler may hide from that one, too.",
)
