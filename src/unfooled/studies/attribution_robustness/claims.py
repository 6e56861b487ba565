"""Claims of the attribution-robustness study.

Claims of three kinds, each with the figure that decides it:

    looks    share of the attack's drop that one random point reaches, (1 - mean random) / (1 - mean attack)
    mends    how much smaller that share is under a score with locality or diversity than under top-k
    gains    mean score of a network under attack minus the plain network's
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unfooled.statistics.association import mean_of
from unfooled.statistics.bootstrap import Columns, Statistic, over_images
from unfooled.statistics.intervals import Interval
from unfooled.statistics.paired import mean_difference
from unfooled.studies.attribution_robustness.looks import main_lens
from unfooled.studies.attribution_robustness.records import Network, Pool
from unfooled.studies.attribution_robustness.scale import PLAIN
from unfooled.studies.common.claims import claim
from unfooled.studies.common.records import Claim

LENS_PAPER, RAR_PAPER = "Kamath et al. 2024, arXiv:2312.10534", "Chen et al. 2019, arXiv:1905.09957"
STRONG_SHARE = 0.5
"""Share of the attack's drop from which a random point looks like a strong attack."""
MAX_ACCURACY_LOSS, MIN_TAU_GAIN, MIN_LENS_GAIN = 0.02, 0.2, 0.15
"""Clean accuracy that a network may lose, and the gains it needs in Kendall's tau and in corrected LENS."""


def claims_of_noise(pool: Pool) -> list[Claim]:
    """Decide whether a random point looks like a strong attack on the plain network, and which scores prevent this."""
    task, where = pool.task, pool.where
    k, w, lens = task.ks[-1], task.ws[0], main_lens(task)
    looks = (
        f"{where}: under top-{k} one random point looks like a strong attack; share of the attack's drop that it "
        f"reaches, at least {STRONG_SHARE:g}."
    )
    claims = [claim(looks, LENS_PAPER, share_of_drop(pool, f"top-{k}"), STRONG_SHARE)]
    for what, score in (
        (f"locality (LENS, w = {w}, raw)", lens),
        (f"locality (LENS, w = {w}, corrected)", f"{lens}, corrected"),
        ("diversity (diverse top-k)", f"top-{k}-div {w}"),
        ("both (diverse LENS, corrected)", f"{lens}-div, corrected"),
    ):
        text = f"{where}: {what} mends this; how much smaller that share is."
        claims.append(claim(text, LENS_PAPER, difference_of_shares(pool, f"top-{k}", score), 0.0))
    for what, a, b in (
        ("raw", lens, f"top-{k}"),
        ("corrected for chance, both", f"{lens}, corrected", f"top-{k}, corrected"),
    ):
        text = f"{where}: a random point leaves more of the reason under LENS than under top-{k}, {what}; difference."
        gap = over_images(mean_difference("a", "b"), pool.columns(PLAIN, {"a": ("random", a), "b": ("random", b)}))
        claims.append(claim(text, LENS_PAPER, gap, 0.0))
    for score in (f"{lens}, corrected", f"{lens}-div, corrected", "tau"):
        text = f"{where}: the attack goes below the best of as many random points, in {score}; difference."
        both = pool.columns(PLAIN, {"chance": ("best of N", score), "attack": ("attack", score)})
        claims.append(claim(text, "unfooled", over_images(mean_difference("chance", "attack"), both), 0.0))
    return claims


def share_of_drop(pool: Pool, score: str) -> Interval:
    """Return the share of the attack's drop that one random point reaches on the plain network."""
    return over_images(_share("weak", "strong"), pool.columns(PLAIN, _pair(score)))


def difference_of_shares(pool: Pool, first: str, second: str) -> Interval:
    """Return `share_of_drop` under the first score minus that under the second, over the same rows."""
    a, b = _share("weak", "strong"), _share("other weak", "other strong")
    columns = pool.columns(PLAIN, {**_pair(first), **_pair(second, "other ")})
    return over_images(lambda c, w: a(c, w) - b(c, w), columns)


def _pair(score: str, prefix: str = "") -> dict[str, tuple[str, str]]:
    return {f"{prefix}weak": ("random", score), f"{prefix}strong": ("attack", score)}


def _share(weak: str, strong: str) -> Statistic:
    """Build the share of the strong perturbation's drop that the weak one reaches."""

    def statistic(c: Columns, w: np.ndarray) -> np.ndarray:
        return (1 - mean_of(weak)(c, w)) / np.maximum(1 - mean_of(strong)(c, w), 1e-9)

    return statistic


def claims_of_training(pool: Pool, networks: Sequence[Network]) -> list[Claim]:
    """Decide what each network gains over the plain one at the worst point found, on the seeds that both have."""
    task = pool.task
    clean = {
        (network.arm, network.seed): network.clean.value or 0.0 for network in networks if network.data == task.source
    }
    claims = []
    for arm in pool.arms:
        seeds = [s for s in pool.seeds(arm) if s in pool.seeds(PLAIN)]
        if arm == PLAIN or not seeds:
            continue
        lost = float(np.mean([clean[PLAIN, s] - clean[arm, s] for s in seeds]))
        for score, bound in (("tau", MIN_TAU_GAIN), (f"{main_lens(task)}, corrected", MIN_LENS_GAIN)):
            text = (
                f"{pool.where}: {arm} gains at least {bound:g} in {score} under attack over {PLAIN}, for at most "
                f"{100 * MAX_ACCURACY_LOSS:.0f} points of accuracy (it lost {100 * lost:.1f}); seeds: "
                f"{', '.join(map(str, seeds))}."
            )
            decided = claim(text, RAR_PAPER, gain(pool, arm, score, seeds), bound)
            if lost > MAX_ACCURACY_LOSS and decided.value is not None:
                decided = decided.model_copy(update={"verdict": "fails"})
            claims.append(decided)
    return claims


def gain(pool: Pool, arm: str, score: str, seeds: Sequence[int]) -> Interval:
    """Return a network's score minus the plain one's, each at the worst point of attack and random search.

    An attack that chance beats shows no robustness.
    """
    both = {name: pool.columns(name, {"attack": ("attack", score), "chance": ("best of N", score)}, seeds)
            for name in (arm, PLAIN)}  # fmt: skip
    own, plain = (np.fmin(both[name]["attack"], both[name]["chance"]) for name in (arm, PLAIN))
    return over_images(mean_difference("own", "plain"), {"id": both[arm]["id"], "own": own, "plain": plain})
