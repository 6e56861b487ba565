"""Can the verdict be believed? Checks before, within and after an attack; each that fires says what the engine does.

    before   the model's answers and gradients on a few samples (`probes`): D2 to D9, D19 to D21
    after    what other attacks still find among the survivors: D6, D11 to D16, D18, D19
    judged   what the points themselves tell: D10, D17, D22 to D24
    verdict  SOUND, EXTENDED, OVERSTATED or NOT EVALUABLE (D25)

A finding is of one of four kinds. `mend`: a remedy is known and was applied. `extend`: the attack was too short, and
goes on. `masking`: gradients are hidden or lie, and attacks follow that need none. `stop`: no figure can be believed.

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420.
    Carlini et al., On evaluating adversarial robustness, 2019, arXiv:1902.06705.
    Pintor et al., Indicators of attack failure, NeurIPS 2022, arXiv:2106.09947 (D6, D9, D10, D11, D15).
    Croce, Hein, AutoAttack's flags, arXiv:2003.01690 (D3, D4, D14).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unfooled.attacks.apgd import apgd
from unfooled.attacks.ensembles.cascade import Cascade, fitted, possible
from unfooled.attacks.ensembles.stages import Ascents, Decisions, Given, Noise, Proposals, Searches, Stage
from unfooled.attacks.fgsm import fgsm
from unfooled.attacks.gradients.averaged import Averaged
from unfooled.attacks.gradients.jittered import Jittered
from unfooled.attacks.gradients.straight_through import StraightThrough
from unfooled.attacks.gradients.twins import distil, transfer
from unfooled.core import losses
from unfooled.core.goals import fooled, read_logits
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import Counted, frozen
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.checks.before import before, dead, finding
from unfooled.evaluation.checks.table import Finding
from unfooled.runs.chunks import Run
from unfooled.runs.records import Config

KINDS = {
    "D1": "stop", "D2": "stop", "D3": "mend", "D4": "mend", "D5": "masking", "D6": "masking", "D7": "masking",
    "D8": "masking", "D9": "extend", "D10": "stop", "D11": "extend", "D12": "extend", "D13": "masking", "D14": "extend",
    "D15": "masking", "D16": "masking", "D17": "extend", "D18": "masking", "D19": "mend", "D20": "stop", "D21": "mend",
    "D22": "stop", "D23": "mend", "D24": "stop",
}  # fmt: skip
FLOOR = 20_000  # passes that the diagnostics may take in any case
YIELD = 0.002  # share of all samples that a further attack may fool without a word
LOW = 0.05  # robust accuracy below which nothing is left to overstate


def kind_of(finding: Finding) -> str:
    """Its kind: that of its id, or `stop` where its action says so, as when rows of a batch depend on each other."""
    return "stop" if finding.action.startswith("no verdict") else KINDS[finding.id]


def fired(findings: Iterable[Finding], *ids: str) -> bool:
    """Whether any of `ids` (any at all where none is given) fired."""
    return any(f.fired and (not ids or f.id in ids) for f in findings)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding an id: the first that fired, else the last; in the order of their numbers."""
    best: dict[str, Finding] = {}
    for f in findings:
        if f.id not in best or not best[f.id].fired:
            best[f.id] = f
    return sorted(best.values(), key=lambda f: int(f.id[1:]))


def of_kind(findings: Iterable[Finding], kind: str) -> list[str]:
    """The ids that fired and are of that kind."""
    return list(dict.fromkeys(f.id for f in findings if f.fired and kind_of(f) == kind))


@dataclass
class Gradients:
    """Where an attack's gradients come from, once the probes have spoken; a twin is distilled when first asked for.

    Attributes:
        model: the judge's, counted.
        findings: of the probes.
        draws: of a random model.
        spent: forwards that the twin's training took, and no backwards; ask for the twin outside of a counted stage.
    """

    model: Model
    x: Tensor
    threat: Threat
    findings: Sequence[Finding]
    draws: int = 1
    seed: int = 0
    spent: tuple[int, int] = (0, 0)
    _twin: nn.Module | None = field(default=None, repr=False)

    @property
    def twin(self) -> nn.Module:
        """A network that learned the model's answers on at most 200 samples and around them."""
        if self._twin is None:
            passed = getattr(self.model, "forwards", 0)
            few = torch.arange(min(len(self.x), 200), device=self.x.device)
            self._twin = distil(self.averaged, self.x[few], self.threat.take(few), seed=self.seed).requires_grad_(False)
            self.spent = getattr(self.model, "forwards", 0) - passed, 0
        return self._twin

    @property
    def averaged(self) -> Model:
        """The model; its mean where it is random."""
        return self.model if self.draws == 1 else Averaged(self.model, self.draws)

    @property
    def through_twin(self) -> Model:
        """The model's values with the twin's gradients."""
        return StraightThrough(self.averaged, self.twin)

    @property
    def jittered(self) -> Model:
        """The model's values with the mean gradient of 16 neighbours."""
        return Jittered(self.averaged, 1e-3, 16, self.seed)

    @property
    def attacked(self) -> Model:
        """What the findings ask for."""
        if fired(self.findings, "D5"):
            return self.jittered
        return self.through_twin if fired(self.findings, "D6", "D7", "D8") else self.averaged

    def transferred(self, x: Tensor, y: Tensor, threat: Threat, seed: int) -> Tensor:
        """The twin's own adversarial examples."""
        source = torch.Generator().manual_seed(seed & 0x7FFFFFFF)
        return transfer(self.twin)(self.averaged, x, y, threat, generator=source)


def trials(scale: float) -> list[tuple[str, Stage]]:
    """Attacks of another kind, on the survivors with the smallest margins. Cost: about 14,000 scale passes."""

    def most(count: int) -> int:
        return max(1, int(count * scale))

    one_step = Given(lambda model, *rest, generator=None: fgsm(model, *rest, loss=losses.margin), name="fgsm")
    return [
        ("D13", Given(one_step.attack, most=most(64), name="fgsm")),
        ("D13", Noise(8, most=most(64))),
        ("D16", Noise(200, most=most(8), name="corners")),
        ("D14", Searches(200, most=most(32), cold=True)),
        *(("D12", Ascents(20, most=most(12), name="restart")) for _ in range(5)),
        ("D11", Ascents(80, most=most(8), fresh=False, name="longer")),
    ]


SAID = {
    "D11": ("twice the steps from the best points", "the attack goes on"),
    "D12": ("five more restarts", "the attack goes on"),
    "D13": ("a single gradient step or noise", "gradients are not trusted: attacks follow that need none"),
    "D14": ("a search without gradients", "the attack goes on, then searches again"),
    "D15": ("points made on a twin", "gradients are not trusted: the twin's are used"),
    "D16": ("200 random points", "gradients are not trusted: attacks follow that need none"),
}


def after(work: Cascade, gradients: Gradients, *, budget: int) -> list[Finding]:
    """Try other attacks on those whom the attack could not fool; what they find is kept.

    Args:
        work: the attack, done; its frontier moves where these find more.
        gradients: of the model; its twin is asked too.
        budget: passes that all this may take.

    Returns:
        Findings D6 (at the end points), D11 to D16, D18 and D19. Where nobody is left to fool, none fires.
    """
    n, findings = len(work.x), []
    alive = work.survivors()
    if not len(alive):
        return [finding(key, False, "nobody is left to fool") for key in (*SAID, "D18")]
    prefix, work.prefix = work.prefix, "diagnostics"
    log, work.log = work.log, []
    try:
        spare = budget - 7_000  # what the probes, the twin and the looks below take
        closed, tried = dict.fromkeys(SAID, 0), dict.fromkeys(SAID, 0)
        steps = [(key, s) for key, s in trials(max(0.02, spare / 14_000)) if possible(s, work.threat)]
        if spare > 0:  # a twin asks for 13 answers a sample, of 200 at most
            _ = gradients.twin  # outside of the stages, which count their own passes
            steps.append(("D15", Proposals(gradients.transferred, most=max(8, spare // 200))))
        for i, (key, stage) in enumerate(steps, 200):
            if len(work.survivors()):
                point = work.stage(f"{key}-{i}-{stage.name}", stage, i)
                closed[key] += point.closed
                tried[key] = max(tried[key], point.taken)
        for key, (what, action) in SAID.items():
            share = closed[key] / n
            said = f"{what} fooled {closed[key]} of {tried[key]} survivors" if tried[key] else f"{what}: not tried"
            findings.append(finding(key, share > YIELD, said, action, share, YIELD))
        passed = work.model.forwards, work.model.backwards
        ends = alive[:16]
        if work.draws == 1 and not fired(gradients.findings, "D6", "D8"):
            findings.append(dead(work.attacked, work.best[ends], work.y[ends], "where the attack ended")[0])
        findings.append(_whole_box(work))
        findings.append(_saturated(work, gradients))
        work.aside = work.model.forwards - passed[0], work.model.backwards - passed[1]
    finally:
        work.prefix, work.log = prefix, log
    return findings


def _right(work: Cascade, count: int) -> Tensor:
    """The first samples, by hash, that are right when clean."""
    rows = work.keys.argsort()[: 4 * count]
    with torch.no_grad():
        logits = read_logits(work.model, work.x[rows])
    return rows[~fooled(logits, work.y[rows])][:count]


def _whole_box(work: Cascade) -> Finding:
    """D18: an adversary who may do anything must win."""
    rows = _right(work, 12)
    if not len(rows) or work.threat.norm == 0:
        return finding("D18", False, "not tried")
    threat = work.threat.with_eps(torch.inf).bounded(work.x)
    stage = Ascents(40)
    whole, work.threat = work.threat, threat
    try:
        z = stage.propose(work, rows, 250)
    finally:
        work.threat = whole
    held = int((~work.look(z, work.y[rows])[1]).sum())
    return finding(
        "D18", held > max(1, 0.1 * len(rows)), f"{held} of {len(rows)} samples withstand an adversary who may change "
        "anything", "gradients are not trusted: attacks follow that need none", held / len(rows), 0.1,
    )  # fmt: skip


def _saturated(work: Cascade, gradients: Gradients) -> Finding:
    """D19: the cross-entropy sees less than the margin, or than the cross-entropy of logits / 100."""
    rows = _right(work, 24)
    if not len(rows) or work.draws > 1 or work.threat.norm == 0 or fired(gradients.findings, "D6", "D8"):
        return finding("D19", False, "not tried")
    x, y, threat = work.x[rows], work.y[rows], work.threat.take(rows)

    def cooled(logits: Tensor, y: Tensor) -> Tensor:
        return losses.cross_entropy(logits / 100, y)

    share = [
        float(work.look(apgd(work.attacked, x, y, threat, steps=7, loss=loss), y)[1].double().mean())
        for loss in (losses.cross_entropy, losses.margin, cooled)
    ]
    gap = max(share[1], share[2]) - share[0]
    limit = max(0.02, 2.5 / len(rows))
    return finding(
        "D19", gap > limit, f"seven steps fool {share[0]:.0%} by the cross-entropy, {share[1]:.0%} by the margin, "
        f"{share[2]:.0%} by the cross-entropy of logits / 100", "the margin is attacked", gap, limit,
    )  # fmt: skip


def extend(work: Cascade, gradients: Gradients, findings: list[Finding], stages: Sequence[Stage]) -> list[Finding]:
    """Go on where findings ask for it, then look again.

    `extend` repeats the attack's later stages from other starts, twice at most, until a look finds nothing more.
    `masking` has the survivors attacked through the twin's gradients, by search and by labels alone.

    Returns:
        What still fires afterwards.
    """
    again: list[Finding] = []
    masked = of_kind(findings, "masking")
    for round_ in range(2):
        if not len(work.survivors()) or masked or not of_kind(findings if not round_ else again, "extend"):
            break
        if fired(findings, "D9"):
            work.attacked = gradients.jittered
        work.perform(fitted(stages, work.threat), first=300 + 50 * round_)
        again = _look_again(work, 300 + 50 * round_ + 40)
        masked = ["D14"] if fired(again, "D14") and round_ else []
    if masked and len(work.survivors()):
        _ = gradients.twin
        own = work.attacked
        work.attacked = gradients.through_twin
        _while_it_pays(work, [Proposals(gradients.transferred), Ascents(60)], 400)
        work.attacked = own
        search: list[Stage] = [Searches(1000, cold=True), Searches(500)]
        _while_it_pays(work, [s for s in search if possible(s, work.threat)], 420)
        _while_it_pays(work, [Decisions(1000)], 440)
        again = _look_again(work, 460)
    return again


def _while_it_pays(work: Cascade, stages: Sequence[Stage], first: int) -> None:
    """Repeat stages until a pass over them fools no more than the yield, four times at most."""
    for k in range(4):
        closed = 0
        for i, stage in enumerate(stages):
            if len(work.survivors()):
                closed += work.stage(f"{first + 10 * i + k}-{stage.name}", stage, first + 10 * i + k).closed
        if closed <= YIELD * len(work.x):
            return


def _look_again(work: Cascade, draw: int) -> list[Finding]:
    """D11 and D14 once more, on fresh draws."""
    found = []
    for key, stage in (
        ("D11", Ascents(80, most=32, fresh=False, name="longer")),
        ("D14", Searches(300, most=48, cold=True)),
    ):
        if not possible(stage, work.threat):
            continue
        closed = 0
        if len(work.survivors()):
            closed = work.stage(f"{draw}-{key}-{stage.name}", stage, draw).closed
        share = closed / max(len(work.x), 1)
        found.append(
            finding(key, share > YIELD, f"afterwards {SAID[key][0]} fooled {closed} more", SAID[key][1], share, YIELD)
        )
    return found


def conclude(
    findings: Sequence[Finding], again: Sequence[Finding], robust: float, *, extended: bool
) -> tuple[str, str]:
    """D25: the verdict and why, in one or two sentences.

    Args:
        findings: all of the run.
        again: what still fired after the engine went on.
        robust: robust accuracy.
        extended: whether the engine went on at all.
    """
    stop, masking = of_kind(findings, "stop"), of_kind(findings, "masking")
    words = {f.id: f.detail for f in findings if f.fired}
    if stop:
        return "NOT EVALUABLE", "No figure can be believed: " + "; ".join(f"{key}, {words[key]}" for key in stop) + "."
    if robust <= LOW:
        if masking:
            return "EXTENDED", f"The model hides its gradients ({', '.join(masking)}) and is not robust all the same."
        return "SOUND", "Hardly a sample withstood; a stronger attack could not say much else."
    hidden = [key for key in masking if key in ("D5", "D6", "D7", "D8")]
    if hidden:
        seen = ", ".join(f"{key}: {words[key]}" for key in hidden)
        return "OVERSTATED", (
            f"The model's gradients cannot be used ({seen}); the figure is what stand-in gradients, random search and "
            "labels alone left, so the true one is probably lower."
        )
    if fired(again):
        return "OVERSTATED", "Attacks still find more: " + "; ".join(f.detail for f in again if f.fired) + "."
    late = [*masking, *of_kind(findings, "extend")]
    if late:
        went = (
            "the engine went on until nothing more was found" if extended else "the attack asked for was not extended"
        )
        verdict = "EXTENDED" if extended else "OVERSTATED"
        return verdict, f"{'; '.join(f'{key}: {words[key]}' for key in late)}; {went}."
    mended = of_kind(findings, "mend")
    if mended:
        return "SOUND", f"What the checks found was mended ({', '.join(mended)}); none speaks against the figure."
    return "SOUND", "No check speaks against the figure."


@torch.no_grad()
def judged(work: Cascade, success: Tensor, prediction: Tensor, undefined: Tensor, right: Tensor) -> list[Finding]:
    """What the verified points tell: D10, D22, D3 at the points and D24.

    Args:
        work: the attack, done.
        success: of the verdict, (n,) bool.
        prediction: at the points, (n,).
        undefined: where there is no finite answer, (n,) bool.
        right: right when clean, (n,).
    """
    n = max(len(right), 1)
    claimed = work.fooled.cpu() & right
    lost = int((claimed & ~success).sum())
    random = work.draws > 1
    d10 = finding(
        "D10", lost / n > (0.05 if random else YIELD), f"{lost} of {int(claimed.sum())} points that fooled the model "
        "when found do not fool it when judged", "no verdict: the model does not give the same answer twice", lost / n,
        0.05 if random else YIELD,
    )  # fmt: skip
    share = float((undefined & right).double().mean())
    nan = finding(
        "D22", share > 0.01, f"the model gives no finite answer at {share:.0%} of the points tried",
        "no verdict: a refusal is neither right nor wrong; give the model without it", share, 0.01,
    )  # fmt: skip
    flips = prediction[right & success]
    seen = torch.zeros(int(prediction.max()) + 1 if len(prediction) else 1, dtype=torch.bool)
    seen[work.y.cpu().unique()[work.y.cpu().unique() < len(seen)]] = True
    odd = float((~seen[flips]).double().mean()) if len(flips) >= 10 and len(seen) * 5 <= n else 0.0
    d22 = finding(
        "D22", odd > 0.5, f"{odd:.0%} of the lost labels go to classes that no sample has: an option to reject?",
        "no verdict: what counts as robust depends on what a rejection means", odd, 0.5,
    )  # fmt: skip
    broken = int((work.certified.cpu() & success & right).sum())
    d24 = finding(
        "D24", broken > 0, f"{broken} certified samples were fooled",
        "no verdict: the certificate or the judge has a mistake", float(broken), 0,
    )  # fmt: skip
    return [d10, nan if nan.fired else d22, d24]


def diagnose(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    result: Tensor,
    *,
    budget: float = 0.1,
    spent: int = 0,
    seed: int = 0,
    batch: int | None = None,
) -> list[Finding]:
    """Check a model and what an attack on it found.

    Args:
        model: any callable to logits.
        x: clean samples, (B, *D).
        y: labels, (B,).
        threat: what was allowed.
        result: the attack's points, (B, *D).
        budget: share of the attack's passes that the checks may take, or 20,000 passes if that is more.
        spent: passes that the attack took.
        seed: of the checks.
        batch: samples alive at once.

    Returns:
        Findings D2 to D9, D11 to D16 and D18 to D22. `audit` adds those that need its own run, acts on all of them and
        gives the verdict.

    Raises:
        BadInput: inputs that cannot be used.
    """
    counted = Counted(model)
    findings = before(counted, x, y, threat, seed=seed)
    draws = 10 if any(f.id == "D4" and f.fired and kind_of(f) == "mend" for f in findings) else 1
    gradients = Gradients(counted, x, threat, findings, draws, seed)
    config = Config(model="", data="", n=len(x), threat=str(threat), seed=seed)
    work = Cascade(
        counted, x, y, threat, seed, batch or fitting_batch(model, x), gradients.attacked, draws,
        run=Run(None, config, chunk=max(len(x), 1)),
    )  # fmt: skip
    with frozen(model):
        work.begin()
        work.best = result.clone()
        work.margin, hit = work.look(result, y)
        work.fooled |= hit
        return [*findings, *after(work, gradients, budget=max(int(budget * spent), FLOOR))]
