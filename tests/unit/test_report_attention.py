"""Attention on the page of an audit: overlays, arrows and the scatter, or nothing where there is no attention."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.report_runs import attention, fabricate
from torch import nn

from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.core.threats import Linf
from unfooled.evaluation.audit import Plan, audit
from unfooled.evaluation.explanations.attention import summarise_attention
from unfooled.explanations import saliency
from unfooled.models import SmallCnn
from unfooled.report.page import SINGLE, render
from unfooled.report.runs import read_run
from unfooled.report.sections.attention import attention_sections, correlation_sentence, enlarged, overlay

PLAN = Plan(effort=Effort("few", (Ascents(2),)), nearest_budget=100, floor=50, reasons=None, explain=saliency)


def test_completeness_and_distance_are_paired_and_counted() -> None:
    n = 6
    before = torch.rand(n, 4, 4).flatten(1).softmax(1).reshape(n, 4, 4)
    complete = torch.tensor([0.1, 0.5, 0.9, torch.nan, 0.3, 0.7])
    rows = {"attention_before": before, "attention_after": before.roll(1, 0), "complete": complete}
    distance = torch.tensor([1.0, 2.0, 3.0, 1.0, torch.inf, 2.5])
    right = torch.tensor([True, True, True, True, True, False])
    fooled = torch.tensor([True, False, False, True, False, True])
    worst = torch.tensor([3, 0])
    found = summarise_attention(rows, distance, fooled, right, torch.zeros(n, dtype=torch.int64), worst)
    assert found is not None
    assert [(round(c, 3), d, f) for c, d, f in found.points] == [(0.1, 1.0, True), (0.5, 2.0, False), (0.9, 3.0, False)]
    assert (found.n, found.undefined, found.unreached, found.cells) == (5, 1, 1, (4, 4))
    assert found.correlation.value == pytest.approx(1)
    assert [e.index for e in found.gallery] == [3, 0]
    assert found.gallery[0].complete is None
    assert found.gallery[0].start != found.gallery[0].end
    assert summarise_attention({}, distance, fooled, right, right.long(), worst) is None


def test_maps_are_enlarged_as_torch_does_and_shown_where_they_are_strong() -> None:
    p = np.random.default_rng(0).random((3, 5))
    peer = nn.functional.interpolate(torch.from_numpy(p)[None, None], (12, 10), mode="bilinear", align_corners=False)
    assert enlarged(p, (12, 10)) == pytest.approx(peer[0, 0].numpy())
    image = np.full((3, 4, 4), 0.5, np.float32)
    weak = overlay(image, np.zeros((2, 2)), 1.0)
    assert np.ptp(weak) == 0
    strong = overlay(image, np.eye(2), 1.0)
    assert (strong[0, 0] != weak[0, 0]).any()
    assert (strong[0, 3] == weak[0, 3]).all()


def test_the_page_shows_attention_before_and_after(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = SmallCnn((3, 16, 16), 3, width=4).eval()
    x = torch.rand(14, 3, 16, 16)
    y = net(x).argmax(1).detach()
    y[0] = (y[0] + 1) % 3  # one that is wrong
    found = audit(net, x, y, Linf(0.02), plan=PLAN, out=tmp_path / "run")
    assert found.attention is not None
    assert found.attention.n == 13
    run = read_run(tmp_path / "run")
    assert run.attention["before"].shape == (len(found.attention.gallery), 4, 4)
    (section,) = attention_sections([run], SINGLE)
    assert len(section.cases) == len(found.attention.gallery)
    ((_, plot),) = section.figures
    assert sum(len(cloud.dots) for cloud in plot.clouds) == len(found.attention.points)
    said = correlation_sentence(section)
    assert "Spearman" in said or "Too few" in said
    page = render([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "Where does it look?" in page
    assert page.count('class="over"') == 2 * len(section.cases)


def test_the_scatter_stands_where_its_numbers_are(tmp_path: Path) -> None:
    fabricate(tmp_path / "run", threat="linf:0.3", attention=attention(n=120))
    run = read_run(tmp_path / "run")
    assert run.summary.attention is not None
    (section,) = attention_sections([run], SINGLE)
    ((name, plot),) = section.figures
    assert name == "single"
    axes = plot.axes
    held, fooled = plot.clouds
    assert (held.style, held.marker, fooled.style, fooled.marker) == ("robust", "ring", "fooled", "cross")
    points = run.summary.attention.points
    assert len(fooled.dots) == sum(f for _, _, f in points)
    for complete, distance, was_fooled in points:
        cloud = fooled if was_fooled else held
        x = axes.left + (complete - axes.x.low) / (axes.x.high - axes.x.low) * (axes.right - axes.left)
        y = axes.bottom - distance / axes.y.high * (axes.bottom - axes.top)
        if axes.x.low <= complete <= axes.x.high and distance <= axes.y.high:
            assert any(
                dot.x == pytest.approx(x, abs=0.06) and dot.y == pytest.approx(y, abs=0.06) for dot in cloud.dots
            )
    assert 0 < section.outside < 12
    assert all(axes.left <= d.x <= axes.right and axes.top <= d.y <= axes.bottom for c in plot.clouds for d in c.dots)
    (reference,) = plot.references
    assert reference.text == "audited \u03b5: 0.3"
    assert reference.y == pytest.approx(axes.py(0.3))
    fabricate(tmp_path / "few", attention=attention(n=2))
    (section,) = attention_sections([read_run(tmp_path / "few")], SINGLE)
    assert (section.figures, section.outside) == ([], 0)
    assert 'class="chart single"' not in render([tmp_path / "few"], tmp_path / "few.html").read_text()


def test_a_constant_map_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    fabricate(tmp_path / "run", attention=attention(n=20))
    run = read_run(tmp_path / "run")
    run.attention["before"][0] = 1 / run.attention["before"][0].size
    (section,) = attention_sections([run], SINGLE)
    shown = Image.open(io.BytesIO(base64.b64decode(section.cases[0].pictures[0].src.split(",")[1]))).convert("RGB")
    pixels = np.asarray(shown).astype(int)
    assert (pixels.max(-1) == pixels.min(-1)).all()  # grey: no place has the attention


def test_a_model_without_a_map_has_no_such_section(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    x = torch.rand(8, 3, 4, 4)
    found = audit(net, x, net(x).argmax(1).detach(), Linf(0.02), plan=PLAN, out=tmp_path / "run")
    assert found.attention is None
    assert not (tmp_path / "run" / "attention.safetensors").exists()
    # A record from before there was attention is read, too.
    path = tmp_path / "run" / "summary.json"
    old = json.loads(path.read_text())
    del old["attention"]
    path.write_text(json.dumps(old))
    assert attention_sections([read_run(tmp_path / "run")], SINGLE) == []
    assert "Where does it look?" not in render([tmp_path / "run"], tmp_path / "page.html").read_text()
