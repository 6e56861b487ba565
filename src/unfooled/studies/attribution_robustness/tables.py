"""Tables of the attribution-robustness study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unfooled.evaluation.explanations.judge import STATUSES
from unfooled.statistics.association import mean_of
from unfooled.statistics.bootstrap import over_images
from unfooled.studies.attribution_robustness.looks import table_scores
from unfooled.studies.attribution_robustness.records import OTHER, Network, Pool, Scores
from unfooled.studies.common.records import Table, array


def networks_table(networks: Sequence[Network]) -> Table:
    """Make one row per network: accuracies and cost."""
    return [
        {
            "data": network.data, "network": network.arm, "seed": network.seed,
            "clean accuracy": network.clean.value, "of": network.clean.n,
            "robust accuracy": network.robust.value, "lowest": network.robust.low, "highest": network.robust.high,
            "of these": network.robust.n, "seconds of training": round(network.seconds, 1), "loss": network.loss,
        }
        for network in networks
    ]  # fmt: skip


def scores_table(pool: Pool, how: str) -> Table:
    """Make one row per network and seed: every score under the attack or a baseline."""
    rows = []
    for (arm, seed), row in pool.rows.items():
        line: dict[str, Any] = {"network": arm, "seed": seed}
        if how in row.status:
            line |= {s: row.status[how].count(s) for s in STATUSES if s != "skipped"}
        for score in table_scores(pool.task):
            line[score] = _mean(row, row.values[how][score])
        if how == "attack":
            line["change of the logit"] = _mean(row, row.output_change)
            line["attack, seconds an image"] = round(row.attack_seconds / max(len(row.indices), 1), 3)
        if how == OTHER:
            line["zero share"] = _mean(row, row.zero_share)
            line |= {} if row.gap is None else {"completeness gap": round(row.gap, 4)}
        rows.append(line)
    return rows


def _mean(row: Scores, values: Sequence[float | None]) -> str:
    """Write the mean over one network's images, with its interval."""
    return over_images(mean_of("value"), {"id": np.array(row.indices), "value": array(values)}).text(2)
