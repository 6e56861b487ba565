"""Panels of a sample, audits without labels, targets, and metrics and loggers for other libraries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import points, tiny_net

import unfooled as uf
from unfooled.compat import loggers
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf

PLAN = uf.Plan(effort=uf.QUICK, nearest_budget=100, nearest_n=2, explain_n=1, gallery=1, floor=2000, reasons=None)
SHAPE = (1, 4, 4)


def pixels(axis: Any) -> np.ndarray:
    return np.asarray(axis.get_images()[0].get_array())


def test_four_panels(tmp_path: Path) -> None:
    x, m = torch.rand(2, 3, 6, 5), torch.rand(2, 3, 6, 5) - 0.5
    shown = uf.show(x, 0.99 * x, m, names=["a", "b"], save=tmp_path / "panels.png")
    titles = [axis.get_title() for axis in shown.figure.axes[:4]]
    assert titles == ["sample", "attacked", "difference x 50", "attribution"]
    assert len(shown.figure.axes) == 8
    assert np.array_equal(pixels(shown.figure.axes[0]), (x[0].movedim(0, -1).numpy() * 255).round())
    assert (tmp_path / "panels.png").read_bytes()[:4] == b"\x89PNG" == shown._repr_png_()[:4]


def test_overlay_is_opaque_where_the_attribution_is_large() -> None:
    x, m = torch.full((1, 8, 8), 0.5), torch.zeros(1, 8, 8)
    m[0, 2, 3] = 1.0
    over, alone = (uf.show(x, attribution=m, overlay=on).figure.axes[1] for on in (True, False))
    assert pixels(over)[0, 0].tolist() == [128, 128, 128]
    assert np.abs(pixels(over)[2, 3] - pixels(alone)[2, 3].astype(int)).max() <= 0.36 * 128
    assert pixels(over)[2, 3].tolist() != [128, 128, 128]


def test_what_cannot_be_shown_is_refused() -> None:
    x = torch.rand(2, 1, 4, 4)
    for options, sentence in (
        ({"x_adv": x[:1]}, "x_adv has shape .1, 1, 4, 4., x has .2, 1, 4, 4."),
        ({"attribution": torch.rand(2, 1, 5, 4)}, "attribution has shape"),
        ({"names": ["a"]}, "1 names for 2 images"),
    ):
        with pytest.raises(BadInput, match=sentence):
            uf.show(x, **options)
    with pytest.raises(BadInput, match=r"images are \(B, C, H, W\)"):
        uf.show(torch.rand(3, 7))


def test_targets_and_predictions() -> None:
    net, x = tiny_net(5, SHAPE), points(9, SHAPE)
    with torch.no_grad():
        logits = net(x)
    assert torch.equal(uf.predicted(net, x), logits.argmax(1))
    assert torch.equal(uf.least_likely(net, x, batch=4), logits.argmin(1))


def test_audit_without_labels_states_no_clean_accuracy() -> None:
    net, x = tiny_net(3, SHAPE), points(8, SHAPE, seed=5)
    y = uf.predicted(net, x)
    with_labels = uf.audit(net, x, y, Linf(0.05), plan=PLAN)
    without = uf.audit(net, x, Linf(0.05), plan=PLAN)
    assert without.labels_predicted and not with_labels.labels_predicted
    assert without.clean_accuracy.value is None
    assert without.robust_accuracy == with_labels.robust_accuracy
    assert any("class that the model predicts was taken" in w for w in without.warnings)
    from unfooled.report.words import headline

    assert headline(without, "image") == headline(with_labels, "image")
    assert uf.robust_accuracy(net, x, None, Linf(0.0)).value == 1


def test_metrics_agree_with_the_functions_they_wrap() -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    from unfooled.compat.metrics import Lens, RobustAccuracy

    net, x = tiny_net(3, (1, 6, 6)), points(12, (1, 6, 6), seed=5)
    y = uf.predicted(net, x)
    y[0] = (y[0] + 1) % 3

    def fixed(model: Any, x: Any, y: Any, threat: Any) -> Any:
        return threat.extreme(x, 0)

    both = torchmetrics.MetricCollection(
        {"robust": RobustAccuracy(net, Linf(0.3), fixed), "lens": Lens(net, Linf(0.1))}
    )
    with torch.inference_mode():
        both.update(x[:5], y[:5])
        both.update(x[5:], y[5:])
    found = both.compute()
    assert float(found["robust"]) == pytest.approx(uf.robust_accuracy(net, x, y, Linf(0.3), attack=fixed).value)
    assert 0 <= float(found["lens"]) <= 1
    assert not list(RobustAccuracy(net, Linf(0.3)).parameters())
    both.reset()
    assert int(both["robust"].count) == 0


class Writer:
    """An object with chosen methods, which keeps the calls."""

    def __init__(self, *names: str) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        for name in names:
            setattr(self, name, lambda *args, _name=name, **kw: self.calls.append((_name, (*args, *kw.values()))))


def test_loggers_get_only_figures_that_can_be_believed() -> None:
    net, x = tiny_net(3, SHAPE), points(6, SHAPE, seed=5)
    summary = uf.audit(net, x, uf.predicted(net, x), Linf(0.01), plan=PLAN)
    found = loggers.figures(summary)
    assert found["unfooled/robust_accuracy"] == summary.robust_accuracy.value
    doubtful = summary.model_copy(update={"trusted": False, "verdict": "OVERSTATED"})
    assert "unfooled/robust_accuracy" not in loggers.figures(doubtful)
    board, flow, bias = (
        Writer("add_scalar", "add_text"), Writer("log_metrics", "set_tag", "log_artifact"), Writer("log", "save")
    )  # fmt: skip
    for to in (board, flow, bias):
        loggers.log(summary, to, step=3, page="report.html")
    assert ("add_scalar", ("unfooled/n", 6.0, 3)) in board.calls
    assert flow.calls[0] == ("log_metrics", (found, 3)) and flow.calls[-1] == ("log_artifact", ("report.html",))
    assert bias.calls[0][1][0]["unfooled/verdict"] == summary.verdict
    with pytest.raises(BadInput, match="takes no figures"):
        loggers.log(summary, object())


def test_mlflow_keeps_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    net, x = tiny_net(3, SHAPE), points(6, SHAPE, seed=5)
    summary = uf.audit(net, x, uf.predicted(net, x), Linf(0.01), plan=PLAN)
    mlflow.set_tracking_uri(tmp_path.as_uri())
    with mlflow.start_run() as run:
        loggers.log(summary, mlflow)
    stored = mlflow.get_run(run.info.run_id).data.metrics
    assert stored["unfooled/robust_accuracy"] == pytest.approx(summary.robust_accuracy.value)


def test_callback_measures_after_validation() -> None:
    net, x = tiny_net(3, SHAPE), points(6, SHAPE, seed=5)
    y = uf.predicted(net, x)
    logger = Writer("log_metrics")
    callback = loggers.RobustnessCallback(x, y, Linf(0.0), attack=uf.attacks.fgsm, every=2)
    trainer = SimpleNamespace(loggers=[logger], global_step=7)
    net.train()
    for _ in range(3):
        callback.on_validation_end(trainer, net)
    assert [call[1][0]["robust_accuracy"] for call in logger.calls] == [1.0, 1.0]
    assert net.training
