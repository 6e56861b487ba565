"""The training comparison: its claims, tables and picture.

What may be claimed of training is fixed here:

    more robust          the worst case rises over PGD-AT at equal compute, and over every control
    more stable maps     the attack on attention moves less than on PGD-AT, and than with shuffled maps
    seeds                fewer than three prove nothing: claims are undecided then; with three, an interval is that over
                         images or over seeds, whichever reaches farther
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unfooled.drawing.figures import Picture
from unfooled.statistics.association import mean_of
from unfooled.statistics.bootstrap import Cases
from unfooled.statistics.intervals import Interval, over_seeds
from unfooled.studies.attention.judging import worst_case
from unfooled.studies.attention.measures import FAITHFUL, PAPER, PLACES
from unfooled.studies.attention.pictures import compare_networks
from unfooled.studies.attention.recipes import ARP, BASE, PAIRED, ROLLED, SHUFFLED
from unfooled.studies.attention.records import Judged, Results, Trained
from unfooled.studies.common.claims import claim
from unfooled.studies.common.records import Claim, Table, array

MIN_SEEDS = 3
"""Number of seeds below which claims about training stay undecided."""
WORST, HOLDS = "worst-case accuracy", "JS divergence, less is better"
COMPARISONS = (
    ("worst", ARP, BASE, PAPER, f"resists more than PGD-AT of equal compute; {WORST}"),
    ("worst", ARP, SHUFFLED, "unfooled", f"resists more than the control with shuffled maps; {WORST}"),
    ("worst", ARP, PAIRED, "unfooled", f"resists more than the control that pairs logits; {WORST}"),
    ("worst", ARP, ROLLED, "unfooled", f"resists more than the control that masks another region; {WORST}"),
    ("held: js", BASE, ARP, PAPER, f"holds attention better under attack than PGD-AT; {HOLDS}"),
    ("held: js", SHUFFLED, ARP, "unfooled", f"holds attention better than the control with shuffled maps; {HOLDS}"),
    ("complete", ARP, BASE, PAPER, "has more complete attention than PGD-AT; share of the evidence"),
    (
        "deletion, less", ARP, BASE, "unfooled",
        "has attention that says more of what it uses than PGD-AT; deletion, less than elsewhere",
    ),
)  # fmt: skip
"""`(measure, first, second, source, claim)`; each claims that the first network's measure is the larger one."""
JOINT_CLAIMS = {
    "worst": "resists more than PGD-AT and than every control",
    "held: js": "holds attention better under attack than PGD-AT and than shuffled maps",
}
"""Measure -> claim that all comparisons of it hold at once."""


def judged_cases(results: Results, data: str, arm: str) -> Cases:
    """Return worst-case accuracy, movement and faithfulness of attention as columns, seed by seed, images as ids."""
    return Cases(tuple(_columns(results, row) for row in results.judged if (row.data, row.arm) == (data, arm)))


def _columns(results: Results, row: Judged) -> dict[str, np.ndarray]:
    faithful = next((f.columns for f in results.faithful if _key(f) == _key(row)), {})
    used = {k: array(v) for k, v in faithful.items()}
    if used:
        used["deletion, less"] = used["deletion, elsewhere"] - used["deletion"]
        used["insertion, more"] = used["insertion"] - used["insertion, elsewhere"]
    return {
        "id": np.arange(row.n, dtype=float), "seed": np.full(row.n, float(row.seed)),
        **{name: np.array([float(c) for c in marks]) for name, marks in row.correct.items()},
        **{name: array(values) for name, values in row.columns.items()}, **used,
        "worst": worst_case(row, _crossed(results, row)),
    }  # fmt: skip


def _key(row: Any) -> tuple[str, str, int]:
    return row.data, row.arm, row.seed


def _crossed(results: Results, row: Judged) -> str | None:
    """Return the samples that keep their label at the points of the other networks; None: unknown."""
    return next((c.correct for c in results.crossed if _key(c) == _key(row)), None)


def gap(a: Cases, b: Cases, name: str) -> tuple[Interval, list[float]]:
    """Return the mean of a - b over images and common seeds with its interval, and the mean of each seed."""
    other = {c["seed"][0]: c for c in b.seeds}
    pairs = [(c, other[c["seed"][0]]) for c in a.seeds if c["seed"][0] in other]
    both = Cases(tuple({"id": c["id"], "gap": c[name] - d[name]} for c, d in pairs))
    by_seed = [float(np.nanmean(c["gap"])) for c in both.seeds if np.isfinite(c["gap"]).any()]
    return over_seeds(by_seed, both.interval(mean_of("gap"), ("gap",))), by_seed


def training_claims(results: Results, data: str) -> list[Claim]:
    """Decide what ARP gains over PGD-AT and over the controls, and whether over all of them at once."""
    cases = {arm: judged_cases(results, data, arm) for arm in (BASE, ARP, SHUFFLED, PAIRED, ROLLED)}
    answers = []
    together: dict[str, list[tuple[Interval, int]]] = {name: [] for name in JOINT_CLAIMS}
    for name, a, b, source, says in COMPARISONS:
        seeds = [*cases[a].seeds, *cases[b].seeds]
        if not (cases[a].seeds and cases[b].seeds) or any(name not in c for c in seeds):
            continue
        figure, by_seed = gap(cases[a], cases[b], name)
        answers.append(_decided(f"{data}: {ARP} {says}; paired difference.", source, figure, len(by_seed)))
        together.get(name, []).append((figure, len(by_seed)))
    for name, says in JOINT_CLAIMS.items():
        gaps = np.array([figure for figure, _ in together[name]])
        if len(gaps) > 1:
            value, low, high, n = (float(v) for v in gaps.min(0))  # NaN where one cannot be told
            text = f"{data}: {ARP} {says}; the least of {len(gaps)} differences."
            least = Interval(value, low, high, int(n))
            answers.append(_decided(text, "unfooled", least, min(seeds for _, seeds in together[name])))
    return answers


def _decided(text: str, source: str, figure: Interval, seeds: int) -> Claim:
    """Decide a claim about training; undecided with fewer than three seeds, or where the interval begins at 0."""
    decided = claim(text, source, figure, 0.0)
    if seeds < MIN_SEEDS or (decided.verdict == "holds" and decided.low == 0):
        return decided.model_copy(update={"verdict": "undecided"})
    return decided


def comparison_table(results: Results, data: str) -> Table:
    """Make one row per arm and seed: accuracy under each attack, and the state of attention."""
    return [_comparison(results, row) for row in results.judged if row.data == data]


def _comparison(results: Results, row: Judged) -> dict[str, Any]:
    columns = _columns(results, row)
    cases = Cases((columns,))

    def share(marks: str | None) -> float | None:
        return None if marks is None else round(marks.count("1") / max(len(marks), 1), 4)

    line: dict[str, Any] = {
        "network": row.arm, "seed": row.seed, "n": row.n, "clean": share(row.correct["clean"]),
        "Step-LL alone": share(row.correct["Step-LL"]), "cascade": share(row.correct["cascade"]),
    }  # fmt: skip
    for name in ("attention-guided", "ARP objective"):
        line[f"closed by {name}"] = row.correct["cascade"].count("1") - row.correct[name].count("1")
    line["under transfer alone"] = share(_crossed(results, row))
    line["worst case"] = cases.interval(mean_of("worst"), ("worst",)).text()
    names = {"held: js": "JS under attack, label kept", "held: moved": "moved so", "noise: js": "JS under noise"}
    for name, title in {**names, **PLACES, "entropy": "entropy"}.items():
        line[title] = cases.interval(mean_of(name), (name,)).text() or None
    line["could not be moved"] = int((np.isnan(columns["held: js"]) & np.isfinite(columns["noise: js"])).sum())
    return line


def faithfulness_table(results: Results, data: str) -> Table:
    """Make one row per arm: the faithfulness of its attention."""
    lines = []
    for arm in dict.fromkeys(row.arm for row in results.faithful if row.data == data):
        rows = [row for row in results.faithful if (row.data, row.arm) == (data, arm)]
        cases = judged_cases(results, data, arm)
        line: dict[str, Any] = {"network": arm, "seeds": len(rows)}
        for name in (*FAITHFUL, "deletion, less", "insertion, more"):
            line[name] = cases.interval(mean_of(name), (name,)).text() or None
        for title, k in (("rho, last layer shuffled", 0), ("rho, all shuffled", -1)):
            values = [v for row in rows if row.randomised and (v := row.randomised[k]) is not None]
            line[title] = f"{np.mean(values):.3f}" if values else None
            line[f"{title}, maps"] = sum(row.compared[k] for row in rows if row.compared)
        lines.append(line)
    return lines


def compute_table(results: Results) -> Table:
    """Make one row per network: training cost, and clean accuracy on all test samples."""
    return [
        {
            "data": row.data, "network": row.arm, "seed": row.seed, "clean accuracy": row.clean.value,
            "of": row.clean.n, "steps": row.steps, "passes a sample and step": row.passes,
            "passes, of ARP's": round(_share_of_arp(results, row), 3), "seconds of training": row.seconds,
            "loss": row.loss,
        }
        for row in results.trained
    ]  # fmt: skip


def _share_of_arp(results: Results, row: Trained) -> float:
    whole = next((o.steps * o.passes for o in results.trained if _key(o) == (row.data, ARP, row.seed)), np.nan)
    return row.steps * row.passes / whole


def comparison_picture(results: Results, data: str, eps: float) -> Picture | None:
    """Draw all arms in one picture; None where no network was judged."""
    names = {"clean": "clean", "cascade": "cascade", "worst case": "worst", "noise": "noise: js",
             "attention attacked": "held: js"}  # fmt: skip
    lines = {}
    for arm in dict.fromkeys(row.arm for row in results.judged if row.data == data):
        cases = judged_cases(results, data, arm)
        lines[arm] = {title: cases.interval(mean_of(name), (name,)) for title, name in names.items()}
    return compare_networks(lines, data, eps) if lines else None
