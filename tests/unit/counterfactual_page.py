"""For tests of pages: a page of counterfactuals with every outcome, made up."""

from __future__ import annotations

from typing import Any

import numpy as np

from unfooled.counterfactuals.records import (
    AttributeFact,
    AttributeRow,
    Counterfactual,
    CounterfactualRecord,
    Figures,
    KappaPoint,
    Outcome,
)
from unfooled.report.sections.counterfactual import compose_counterfactual
from unfooled.runs.records import Environment


def counterfactual_page(text: str, attributes: int = 15) -> str:
    """Return a page whose names are all `text`."""
    names = [f"{text} {k}" for k in range(attributes)]
    facts = [
        AttributeFact(name=name, auc=(None, 0.6, 0.97)[k % 3], usable=k % 3 == 2, kept=k == 5, switch=1.5)
        for k, name in enumerate(names)
    ]
    figures = Figures(
        valid=True, valid_8bit=False, achieved=0.7, selectivity=0.4, side_effect=1.2, off_target=0.5, distance=0.9,
        psnr=36.1, ssim=None,
    )  # fmt: skip
    results = []
    for outcome in Outcome:
        done = outcome in (Outcome.DONE, Outcome.UNREALISED)
        moved: dict[str, Any] = {"wanted": -1.0, "achieved": -0.5, "asked": -0.25, "reached": -0.2} if done else {}
        results.append(
            Counterfactual(
                item=text, predicted=text, target=text, outcome=outcome, sentence=text, cost=0.25 if done else None,
                exact=False, shortfall=0.0, whole=names[:3] if done else None, whole_exact=False,
                rows=[
                    AttributeRow(name=name, before=-0.5, stays=False if done and k == 5 else None, **moved)
                    for k, name in enumerate(names)
                ],
                figures={text: figures} if done else {}, kappa=1.0 if done else None,
                curve=[KappaPoint(kappa=k, valid=k > 1, selectivity=0.3) for k in (1.0, 5.0)] if done else [],
                slope_of=names[0] if done else "", largest_difference=0.1,
            )
        )  # fmt: skip
    record = CounterfactualRecord(
        model=text, data=text, table=text, kind="probes", layer=text, images=20, attributes=facts, left_out=[text],
        threat="l2:3", steps=20, seed=0, target=text, results=results, success={text: text}, warnings=[text],
        seconds=3.0, command=f"unfooled counterfactual {text}", created="2026-05-03T14:22:05+00:00",
        environment=Environment.here("cpu"),
    )  # fmt: skip
    x = np.random.default_rng(0).random((3, len(results), 3, 16, 16), np.float32)
    return compose_counterfactual(record, *x)
