"""Study of attackability: which attributes flip a decision, can pixels do it, and can the score be gamed?

Concept networks are trained on rendered shapes, with a background that is planted at several correlations with the
label. Flip costs, cheapest edits and what cannot be edited are exact, from the head; effects of the factors, through
the head and in total, stand beside true changes of the scene (twins); edits are carried into pixels, beside a random
attribute and targeted PGD; radii are compared with pixel distances, over scenes and over networks; concept trainings
are judged at equal compute by the cascade. The published metric is exposed on random heads, digits and the class table
of CUB-200-2011.

References:
    Sridhar, SPECTRA, arXiv:2605.25304; adityaSridharr/SPECTRA.
    Koh et al., Concept bottleneck models, ICML 2020, arXiv:2007.04612.
    Sinha et al., Understanding and enhancing robustness of concept-based models, AAAI 2023, arXiv:2211.16080.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from unfooled.data.formats.birds import load_birds, load_class_table
from unfooled.data.load import load_dataset
from unfooled.drawing.figures import Picture
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.runs.units import Units
from unfooled.studies.attackability.bench import ConceptBench
from unfooled.studies.attackability.birds import bird_claims, class_table, simulated
from unfooled.studies.attackability.carried import carry
from unfooled.studies.attackability.claims import claims
from unfooled.studies.attackability.figures import Results
from unfooled.studies.attackability.folder import own_folder, root
from unfooled.studies.attackability.geometry import geometry
from unfooled.studies.attackability.pictures import pictures
from unfooled.studies.attackability.published import exposed
from unfooled.studies.attackability.records import Carried, Geometry, Near, Tables, Trained
from unfooled.studies.attackability.scale import BIRDS, SCALES, SHAPES, TABLE, TEN, AttackabilityScale
from unfooled.studies.attackability.tables import tables
from unfooled.studies.attackability.ten import ten_classes
from unfooled.studies.attackability.training import near, trained
from unfooled.studies.common.records import Claim, StudySummary, Table
from unfooled.studies.common.run import Findings, StudyRun, map_jobs, pick_data, seconds_of
from unfooled.studies.common.scale import pick_scale

SIDE = 128
"""Side of the images of CUB's own folder."""
FIRST = 1_000_000
"""Number of the first network of the alarm; those of the other networks are below."""
NAME, TITLE = "attackability", "Which attributes flip a decision, and can pixels do it?"


def run_attackability(
    scale: str | AttackabilityScale,
    *,
    out: Place | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train concept networks, and decide the claims about their attributes, pixels and robustness.

    Args:
        scale: "small" (shapes), "medium" (shapes at three correlations, the class table and ten classes of CUB, from
            the folder that UNFOOLED_DATA names) or "full" (also CUB-200-2011's own folder there); or your own sizes.
        out: Folder, URL or open store of the results; a second run there resumes. None: nothing is stored.
        seeds: Random seeds; each repeats everything.
        data: Parts of the scale to run; None: all.
        device: Device of the networks.
        progress: Called with `(stage, units done, units in all)`; None: silent.
        command: Command that reproduces the run, for the record.

    Returns:
        The `StudySummary`, also written to `summary.json` in `out`.

    Raises:
        BadInput: no such scale or part, data that are not there, or a folder of another run.
    """
    name, size = pick_scale(SCALES, scale)
    run = StudyRun(NAME, TITLE, name, seeds, out=out, device=device, progress=progress, command=command)
    parts = pick_data(list(size.data), data)
    check(parts)  # missing data must not leave a folder behind
    units = run.units(size.settings(), n=size.n)
    results = Results()
    if SHAPES in parts:
        make = partial(ConceptBench, folder=out, device=device, progress=progress)
        results = measure(size, seeds, units, make)
    results = replace(results, others=measure_birds(size, parts, seeds, units, device))
    return run.finish(findings(results, size))


def check(parts: Sequence[str]) -> None:
    """Refuse parts whose data are not there."""
    if TABLE in parts or TEN in parts:
        load_class_table()
    if TEN in parts:
        load_dataset("cub", "test", n=1)
    if BIRDS in parts:
        load_birds(root(), denoised=True)


def measure_birds(
    size: AttackabilityScale, parts: Sequence[str], seeds: Sequence[int], units: Units, device: str
) -> list[Tables]:
    """Compute all units on CUB's birds, or read those of an earlier start."""
    jobs: dict[str, Callable[[int], Tables]] = {}
    if TABLE in parts:
        jobs |= {"class table": class_table, "simulated": partial(simulated, size.simulated)}
    if TEN in parts:
        jobs["ten classes"] = partial(ten_classes, device)
    if BIRDS in parts:
        jobs["folder"] = partial(own_folder, size.recipe, SIDE, device)
    made: list[Tables] = []
    for seed in seeds if jobs else ():
        made += map_jobs(units, f"seed {seed}, birds", Tables, jobs, partial(_at, seed))
    return made


def measure(
    size: AttackabilityScale,
    seeds: Sequence[int],
    units: Units,
    make: Callable[[AttackabilityScale, float, int], ConceptBench],
) -> Results:
    """Compute all units on the shapes, or read those of an earlier start."""
    geometries: list[Geometry] = []
    nearby: list[Near] = []
    carried: list[Carried] = []
    judged: list[Trained] = []
    published: list[Tables] = []
    alarm: list[Geometry] = []
    for seed in seeds:
        numbers = range(seed * size.networks, (seed + 1) * size.networks)
        benches = {(rho, k): Lazy(partial(make, size, rho, k)) for rho in size.rhos for k in numbers}
        jobs = {f"rho {rho:g}, {k}": bench for (rho, k), bench in benches.items()}
        stage = f"seed {seed}"
        geometries += map_jobs(units, f"{stage}, networks", Geometry, jobs, lambda lazy: geometry(lazy.bench))
        nearby += map_jobs(units, f"{stage}, pixel distances", Near, jobs, lambda lazy: near(lazy.bench))
        first = benches[size.rhos[0], numbers[0]]
        carried += map_jobs(units, f"{stage}, edits in pixels", Carried, {"edits": first}, lambda one: carry(one.bench))
        first_benches = [(benches[size.rhos[0], k], k) for k in numbers[: size.semantic.seeds]]
        arms = {f"{arm}, {k}": (bench, arm) for bench, k in first_benches for arm in size.semantic.arms}
        judged += map_jobs(units, f"{stage}, trainings", Trained, arms, _trained)
        published += map_jobs(units, f"{stage}, published metric", Tables, {"published": seed}, exposed)
        jobs = alarm_jobs(size, seed, make)
        alarm += map_jobs(units, f"{stage}, alarm", Geometry, jobs, lambda lazy: geometry(lazy.bench))
    return Results(geometries, nearby, carried, judged, published, alarm=alarm)


def alarm_jobs(
    size: AttackabilityScale, seed: int, make: Callable[[AttackabilityScale, float, int], ConceptBench]
) -> dict[str, Lazy]:
    """Return the small networks of the alarm, with scenes of their own; empty where it counts the other networks."""
    one = size.alarm
    small = replace(size, recipe=one.recipe, n=one.n, twins=one.twins)
    count = one.networks if len(size.rhos) > 1 else 0
    numbers = range(FIRST + seed * count, FIRST + (seed + 1) * count)
    return {f"rho {rho:g}, {k}": Lazy(partial(make, small, rho, k)) for k in numbers for rho in size.rhos[:2]}


def _at(seed: int, job: Callable[[int], Tables]) -> Tables:
    return job(seed)


def _trained(job: tuple[Lazy, str]) -> Trained:
    return trained(job[0].bench, job[1])


class Lazy:
    """A bench that is made when it is first needed, so that a finished run renders no scene."""

    def __init__(self, make: Callable[[], ConceptBench]) -> None:
        self._make = make
        self._bench: ConceptBench | None = None

    @property
    def bench(self) -> ConceptBench:
        """The bench."""
        if self._bench is None:
            self._bench = self._make()
        return self._bench


def findings(results: Results, size: AttackabilityScale) -> Findings:
    """Make tables, claims and pictures from the stored results."""
    made: dict[str, Table] = {}
    decided: list[Claim] = []
    drawn: list[Picture] = []
    if results.geometries:
        made, decided, drawn = tables(results, size), claims(results), pictures(results)
    made |= {title: rows for one in reversed(results.others) for title, rows in one.tables.items()}
    decided = [*decided, *bird_claims(results)]
    records = (
        results.geometries, results.near, results.carried, results.trained, results.published, results.others,
        results.alarm,
    )  # fmt: skip
    return Findings(made, decided, NOTES, drawn, seconds_of(*records))


NOTES = (
    "An attribute whose AUC on test scenes is below .95 is not learnt: it is listed and takes part in no claim; a "
    "factor does only where all its attributes are learnt. Every network has scenes of its own.",
    "Costs are in switches, mean logit where the attribute is present minus where it is absent, on held-out scenes. "
    "Radii are in within-class standard deviations.",
    "Twins change one factor to a random other value; the total effect is the mean over all other values.",
    "Edits in pixels are of the one learnt attribute that flips the label with the fewest switches, on scenes that the "
    "network classifies correctly. Their objective asks for the label, so that validity alone says nothing about the "
    "attribute: the row of a random attribute is the control.",
    "Semantic trainings have the same passes (a forward and a backward of a batch), not the same updates. They share "
    "initial weights, scenes and order; differences are paired by scene.",
    "Figures of AUROC count networks, and have wide intervals for few of them. Where there are small networks for the "
    "alarm, the claims about the planted background count these.",
    "Birds are simulated from class percentages, attribute by attribute: probably easier than real ones. In the ten "
    "classes attributes are functions of the class, and no claim of accuracy is made.",
    "The published attackability is not a robustness measure; it is given because it is claimed to be one.",
)
