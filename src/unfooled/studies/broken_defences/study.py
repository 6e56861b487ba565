"""Thirty-two broken defences and nine honest networks: does an audit tell them apart?

Every defence is judged by `audit`, which is not told what it looks at. What is true of it is found once by an attack
that knows it: one that differentiates a twin without the obstacle, and whose points `verify` then judges on the defence
itself.

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420.
    Tramèr, Carlini, Brendel, Madry, On adaptive attacks to adversarial example defenses, NeurIPS 2020,
    arXiv:2002.08347.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unfooled.attacks.pgd import pgd
from unfooled.core import losses
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf, Threat
from unfooled.core.types import Loss, Model
from unfooled.data.load import load_dataset
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.verify import verify
from unfooled.models import Lenet5, SmallCnn
from unfooled.runs.chunks import Progress
from unfooled.runs.records import Config, Environment, Record, write_record
from unfooled.runs.units import Units
from unfooled.statistics import intervals
from unfooled.studies.broken_defences import defences as d
from unfooled.studies.broken_defences.networks import HONEST, RECIPES, Arch, fit
from unfooled.studies.common.records import Claim, Outcome, StudySummary

NAME, TITLE = "broken-defences", "Thirty-two broken defences and nine honest networks"
BROKEN_BELOW = 0.05
FREE_PASSES = 20_000

Kind = Literal["broken", "refused", "honest"]


@dataclass(frozen=True)
class Case:
    """One model to be judged.

    Attributes:
        number: 1 to 32 as in the specification; honest networks follow.
        name: what tables call it.
        hides: one sentence: what it hides, and how.
        make: trained network -> model.
        kind: "broken" has no robustness; "refused" cannot be judged at all; "honest" hides nothing.
        quiet: the first attack may already undo it, so that no finding is needed.
        network: the recipe of the network that `make` takes.
        twin: trained network -> the model that an attack which knows the defence differentiates.
        random: answers change from call to call.
        eps: other than the study's.
    """

    number: int
    name: str
    hides: str
    make: Callable[[nn.Module], nn.Module]
    kind: Kind
    quiet: bool = False
    network: str = "standard"
    twin: Callable[[nn.Module], Model] = d.plain
    random: bool = False
    eps: float | None = None

    @property
    def key(self) -> str:
        """Its name as a file's."""
        return f"{self.number:02}-" + "".join(c if c.isalnum() else "-" for c in self.name).strip("-")


class Row(Record):
    """What a judge said of one case, and what is true of it.

    Attributes:
        clean, robust: accuracies, as shares; None where nothing was measured.
        truth: robust accuracy under the attack that knows the case; None where it is not asked for.
        verdict: SOUND, EXTENDED, OVERSTATED or NOT EVALUABLE; REFUSED for a sentence instead of figures, CRASHED where
            the judge itself failed; empty for a judge that gives none.
        trusted: whether the judge stands by its figure.
        findings: ids of what fired.
        said: why the verdict is what it is and what fired, in sentences, or the refusal.
        passes, diagnostic_passes: forwards and backwards of all n samples together.
        passed: see `passes_suite`.
    """

    seed: int
    number: int
    name: str
    kind: Kind
    n: int
    eps: float
    clean: float | None = None
    robust: float | None = None
    truth: float | None = None
    verdict: str = ""
    trusted: bool | None = None
    findings: list[str] = Field(default_factory=list)
    said: list[str] = Field(default_factory=list)
    passes: float = 0.0
    diagnostic_passes: float | None = None
    seconds: float = 0.0
    passed: bool = False


Judge = Callable[[Case, Model, Tensor, Tensor, Threat], Row]
"""(case, model, x, y, threat) -> row without truth; raises nothing."""


def _case(number: int, make: Callable[[nn.Module], nn.Module], kind: Kind = "broken", **options: Any) -> Case:
    name = options.pop("name", make.__name__.replace("_", " "))
    return Case(number, name, options.pop("hides", make.__doc__ or ""), make, kind, **options)


def _honest(number: int, network: str) -> Case:
    return _case(number, d.plain, "honest", name=network, hides="Hides nothing.", network=network)


def _scaled(base: nn.Module) -> Model:
    return d.Around(base, after=lambda z: z / 100)


def _jittered(base: nn.Module) -> Model:
    """The mean of five noisy answers: a gradient that holds for a distance."""
    return lambda x: torch.stack([base(x + 0.05 * torch.randn_like(x)) for _ in range(5)]).mean(0)


def _soft_thermometer(base: nn.Module) -> Model:
    assert isinstance(base, d.Around)
    return d.Around(base.base, before=partial(d.thermometer, soft=True))


def _leaky_clamp(base: nn.Module) -> Model:
    assert isinstance(base, d.Around)

    def before(x: Tensor) -> Tensor:
        hard, line = d.ramp(x), 2 * x
        return hard.detach() + line - line.detach()

    return d.Around(base.base, before=before)


CASES: tuple[Case, ...] = (
    _case(1, d.eight_levels),
    _case(2, d.thermometer_code, network="thermometer", twin=_soft_thermometer),
    _case(3, d.dct_rounding),
    _case(4, d.zero_backward),
    _case(5, d.detached),
    _case(6, d.numpy_hop),
    _case(7, d.flipped_backward),
    _case(8, d.noise_backward),
    _case(9, d.tiny_gradient),
    _case(10, d.softmax),
    _case(11, d.softmax_twice),
    _case(12, d.large_logits, quiet=True),
    _case(13, d.distilled, quiet=True, network="distilled"),
    _case(14, d.tanh_logits),
    _case(15, d.rounded_scores),
    _case(16, d.labels_only),
    _case(17, d.random_resize, random=True),
    _case(18, d.gaussian_noise, random=True),
    _case(19, d.test_time_dropout, random=True),
    _case(20, d.hashed_noise),
    _case(21, d.k_winners, network="k-winners", twin=_jittered),
    _case(22, d.step_activation, network="step"),
    _case(23, d.purifier),
    _case(24, d.argmax_vote),
    _case(25, d.flat_clamp, network="clamped", twin=_leaky_clamp),
    _case(26, d.duplicated),
    _case(27, d.fgsm_overfitted, quiet=True, network="fgsm"),
    _case(28, d.query_detector, "refused"),
    _case(29, d.training_mode, "refused", network="batch-norm"),
    _case(30, d.nan_off_grid, "refused"),
    _case(31, d.eps_in_levels, "refused", eps=8.0),
    _case(32, d.undeclared_reject, "refused"),
    _honest(33, "standard"),
    _honest(34, "pgd-at, half eps"),
    _honest(35, "pgd-at"),
    _honest(36, "trades, half eps"),
    _honest(37, "trades"),
    _honest(38, "ibp"),
    _honest(39, "linear"),
    _honest(40, "two classes"),
    _honest(41, "softplus"),
)


@dataclass(frozen=True)
class Scale:
    """How much of it.

    Attributes:
        data: a source of `load_dataset`.
        n: test samples a case.
        train_n: training samples; all where None.
        arch: of the networks.
        eps, honest_eps: radius in Linf for the defences, and for the honest networks, where it must not be hopeless.
        epochs: of a standard network.
    """

    data: str
    n: int
    train_n: int | None
    arch: Arch
    eps: float
    honest_eps: float
    epochs: int


SCALES = {
    "small": Scale("digits", 100, None, partial(SmallCnn, width=8), 0.3, 0.1, 10),
    "medium": Scale("mnist", 200, 6000, Lenet5, 0.3, 0.1, 4),
    "full": Scale("mnist", 1000, None, Lenet5, 0.3, 0.1, 4),
}


@dataclass
class Bench:
    """Data and trained networks of one seed; a network is trained when it is first asked for."""

    scale: Scale
    seed: int
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.nets: dict[str, nn.Module] = {}
        size = {"n": self.scale.train_n, "shuffle": self.scale.train_n is not None, "seed": self.seed}
        found = load_dataset(self.scale.data, "train", **size)  # type: ignore[arg-type]
        held = load_dataset(self.scale.data, "test")
        self.train, self.test = (found.x, found.y), (held.x, held.y)

    def network(self, name: str) -> nn.Module:
        """The trained network of a recipe."""
        if name not in self.nets:
            if name == "distilled":
                self.network("standard")
            scale = self.scale
            eps = scale.honest_eps if name in HONEST else scale.eps
            self.nets[name] = fit(
                name, self.train, self.nets, arch=scale.arch, eps=eps, epochs=scale.epochs, seed=self.seed,
                folder=self.folder,
            )  # fmt: skip
        return self.nets[name]

    def subject(self, case: Case) -> tuple[nn.Module, Tensor, Tensor, Linf]:
        """The model of a case, and what it is judged on."""
        x, y = self.test
        few = RECIPES[case.network].classes
        if few is not None:
            x, y = x[y < few], y[y < few]
        eps = case.eps or (self.scale.honest_eps if case.kind == "honest" else self.scale.eps)
        return case.make(self.network(case.network)), x[: self.scale.n], y[: self.scale.n], Linf(eps)

    def truth(self, case: Case) -> float:
        """Robust accuracy under attacks that know the case."""
        model, x, y, threat = self.subject(case)
        return informed(model, case.twin(self.network(case.network)), x, y, threat, draws=20 if case.random else 1)


def informed(
    model: Model, twin: Model, x: Tensor, y: Tensor, threat: Threat, *, draws: int = 1, steps: int = 40
) -> float:
    """Robust accuracy of `model` under PGD on a twin that has usable gradients.

    Four attacks, on the margin and on the cross-entropy of the twin's logits at a tenth, each going as far as it can
    instead of stopping where the twin is fooled, at the whole radius and at two thirds of it; a sample is lost if one
    of them fools the model (a random one in the majority of `draws`).
    """

    def soft(logits: Tensor, y: Tensor) -> Tensor:
        return losses.cross_entropy(logits / 10, y)

    kept = torch.ones(len(x), dtype=torch.bool)
    tries: list[tuple[Loss, float]] = [(loss, part) for loss in (losses.margin, soft) for part in (1.0, 0.67)]
    for loss, part in tries:
        rows = kept.nonzero()[:, 0]
        if not len(rows):
            break
        near = threat.take(rows).with_eps(threat.eps * part)
        z = pgd(twin, x[rows], y[rows], near, steps=steps, loss=loss, stop=False)
        kept[rows] = ~verify(model, x[rows], y[rows], z, threat.take(rows), draws=draws).success
    return float(kept.float().mean())


def nothing(model: Model, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    """An explanation that says nothing and asks the model nothing: this study is not about reasons."""
    return torch.zeros_like(x)


def cheap() -> Plan:
    """The product's own attack and diagnostics, without curves, reasons and pictures."""
    return Plan(
        explain=nothing,
        explain_name="none",
        explain_n=1,
        radii=(1.0,),
        nearest_n=1,
        nearest_budget=400,
        gallery=0,
        reasons=None,
    )


def audited(
    case: Case, model: Model, x: Tensor, y: Tensor, threat: Threat, *, seed: int = 0, plan: Plan | None = None
) -> Row:
    """The product's own judgement; a refusal or a crash is one, too."""
    row = Row(seed=seed, number=case.number, name=case.name, kind=case.kind, n=len(x), eps=float(threat.eps))
    try:
        found = audit(model, x, y, threat, plan=plan or cheap(), seed=seed)
    except BadInput as e:
        return row.model_copy(update={"verdict": "REFUSED", "trusted": False, "said": [str(e)]})
    except Exception as e:
        said = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
        return row.model_copy(update={"verdict": "CRASHED", "said": [said]})
    fired = [one for one in getattr(found, "diagnostics", []) if one.fired]
    apart = getattr(found, "diagnostic_passes", None)
    because = getattr(found, "because", "")
    return row.model_copy(
        update={
            "clean": found.clean_accuracy.value,
            "robust": found.robust_accuracy.value,
            "verdict": getattr(found, "verdict", ""),
            "trusted": getattr(found, "trusted", None),
            "findings": [one.id for one in fired],
            "said": [text for text in (because, *(f"{one.id}: {one.detail}." for one in fired)) if text],
            "passes": len(x) * (found.passes.forward + found.passes.backward),
            "diagnostic_passes": None if apart is None else len(x) * (apart.forward + apart.backward),
        }
    )


ABOUT_DATA = {"D21", "D23"}
"""Findings that honest networks have too: few classes or tied logits, points between the levels of a pixel."""


def flagged(row: Row, case: Case) -> bool:
    """Whether a reader was warned: something fired, or the verdict says that the figure is not to be trusted."""
    if row.verdict in ("OVERSTATED", "NOT EVALUABLE") or (row.verdict == "REFUSED" and case.kind == "refused"):
        return True
    return row.robust is not None and (bool({*row.findings} - ABOUT_DATA) or case.quiet)


def corrected(row: Row) -> bool:
    """Whether the figure that is given is about 0."""
    return row.robust is not None and row.robust <= BROKEN_BELOW


def passes_suite(row: Row, case: Case) -> bool:
    """What is asked of a judge.

    Broken: robust accuracy at most 5 % and a finding (none where `quiet`), or OVERSTATED or NOT EVALUABLE. Refused: a
    refusal or NOT EVALUABLE. Honest: trusted.
    """
    if case.kind == "honest":
        return row.trusted is True
    if case.kind == "refused":
        return row.verdict in ("NOT EVALUABLE", "REFUSED")
    return row.verdict in ("OVERSTATED", "NOT EVALUABLE") or (corrected(row) and flagged(row, case))


def study(
    scale: str,
    *,
    out: Path | None = None,
    seeds: Sequence[int] = (0,),
    judge: Judge | None = None,
    cases: Sequence[Case] = CASES,
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Judge every case, find what is true of it, and compare.

    Args:
        scale: "small" (digits), "medium" or "full" (MNIST, from the folder that UNFOOLED_DATA names).
        out: the study's folder; a second start continues it.
        seeds: of networks and attacks; all cases for each.
        judge: of each case; the audit where None.
        cases: those to be judged.
        progress: told what is done.
        command: what reproduces it.

    Returns:
        The `StudySummary`, also written to `out/summary.json`.

    Raises:
        BadInput: no such scale, data that are not there, or a folder that holds other work.
    """
    if scale not in SCALES:
        raise BadInput(f"there is no scale {scale!r}; there are {', '.join(SCALES)}")
    size, known = SCALES[scale], {case.key: case for case in cases}
    config = Config(
        model=f"study {NAME}", data=size.data, n=size.n, threat=str(Linf(size.eps)), seed=seeds[0],
        options={"scale": scale, "seeds": list(seeds), "cases": list(known), "epochs": size.epochs},
    )  # fmt: skip
    units = Units(out, config, progress)
    rows: list[Row] = []
    for seed in seeds:
        bench = Bench(size, seed, None if out is None else out / "networks" / f"seed-{seed}")

        def compute(name: str, seed: int = seed, bench: Bench = bench) -> Row:
            started, case = time.perf_counter(), known[name.partition("/")[2]]
            model, x, y, threat = bench.subject(case)
            row = audited(case, model, x, y, threat, seed=seed) if judge is None else judge(case, model, x, y, threat)
            truth = None if case.kind == "refused" else bench.truth(case)
            done = {"seed": seed, "truth": truth, "passed": passes_suite(row, case)}
            return row.model_copy(update=done | {"seconds": round(time.perf_counter() - started, 3)})

        names = [f"seed-{seed}/{key}" for key in known]
        stage = "defences" if len(seeds) == 1 else f"defences-seed-{seed}"
        rows += units.map(stage, Row, names, compute)
    summary = summarise(rows, cases, scale=scale, seeds=seeds, command=command)
    if out is not None:
        write_record(out / "summary.json", summary)
    return summary


def _claim(claim: str, hits: Sequence[bool], holds: Callable[[float], bool], *, known: bool = True) -> Claim:
    e = intervals.share(torch.tensor(hits, dtype=torch.bool))
    if e.value is None or not known:
        return Claim(claim=claim, source="unfooled", verdict="undecided", value=None, low=None, high=None, n=e.n)
    verdict: Outcome = "holds" if holds(e.value) else "fails"
    return Claim(claim=claim, source="unfooled", verdict=verdict, value=e.value, low=e.low, high=e.high, n=e.n)


def claims(rows: Sequence[Row], cases: Sequence[Case]) -> list[Claim]:
    """What the study says of the judge; undecided where the judge gives no verdicts."""
    case = {one.number: one for one in cases}
    broken, refused, honest = ([r for r in rows if r.kind == kind] for kind in ("broken", "refused", "honest"))
    zero = [r for r in broken if r.truth is not None and r.truth <= BROKEN_BELOW]
    told = any(r.verdict not in ("", "REFUSED", "CRASHED") for r in rows)
    spent = [r for r in rows if r.diagnostic_passes is not None]
    within = [(r.diagnostic_passes or 0) <= max(0.1 * r.passes, FREE_PASSES) for r in spent]
    return [
        _claim(
            "At least 95 % of the broken defences are flagged.",
            [flagged(r, case[r.number]) for r in broken],
            lambda v: v >= 0.95,
            known=told,
        ),
        _claim(
            "The robust accuracy given is at most 5 % wherever the truth is.",
            [corrected(r) for r in zero],
            lambda v: v == 1,
        ),
        _claim(
            "What cannot be judged is refused with a reason.",
            [passes_suite(r, case[r.number]) for r in refused],
            lambda v: v == 1,
        ),
        _claim(
            "No honest network is called OVERSTATED: share that is.",
            [r.verdict == "OVERSTATED" for r in honest],
            lambda v: v == 0,
            known=told,
        ),
        _claim(
            "Every honest network is trusted.", [r.trusted is True for r in honest], lambda v: v == 1, known=told
        ),
        _claim(
            "The diagnostics take at most 10 % of the attack's passes, or 20,000 a run.", within, lambda v: v == 1
        ),
    ]  # fmt: skip


TABLES: dict[Kind, str] = {"broken": "Broken defences", "refused": "Not to be judged", "honest": "Honest networks"}


def summarise(
    rows: Sequence[Row], cases: Sequence[Case], *, scale: str, seeds: Sequence[int], command: str
) -> StudySummary:
    """Tables and claims from the rows alone."""
    case = {one.number: one for one in cases}

    def line(r: Row) -> dict[str, Any]:
        return {
            "no": r.number,
            **({"seed": r.seed} if len(seeds) > 1 else {}),
            "name": r.name,
            "hides": case[r.number].hides,
            "clean accuracy": r.clean,
            "robust accuracy": r.robust,
            "truth": r.truth,
            "verdict": r.verdict or None,
            "findings": ", ".join(r.findings),
            "passed": r.passed,
            "passes a sample": round(r.passes / r.n, 1),
            "diagnostics' passes a sample": None
            if r.diagnostic_passes is None
            else round(r.diagnostic_passes / r.n, 1),
            "eps": r.eps,
            "n": r.n,
            "said": " ".join(r.said),
        }

    tables = {title: [line(r) for r in rows if r.kind == kind] for kind, title in TABLES.items()}
    right = sum(r.passed for r in rows)
    return StudySummary(
        study=NAME,
        title=TITLE,
        scale=scale,
        seeds=list(seeds),
        seconds=round(sum(r.seconds for r in rows), 1),
        environment=Environment.here("cpu"),
        tables={title: lines for title, lines in tables.items() if lines},
        claims=claims(rows, cases),
        notes=[
            f"{right} of {len(rows)} cases are judged as they should be.",
            "The truth is the robust accuracy under an attack that knows the defence, and so an upper bound, too.",
            "Intervals say how a share would vary with other defences of the same kind; the suite is a choice, not a "
            "sample.",
        ],
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
