"""A folder of the Hugging Face transformers library, audited end to end with its normalisation and class names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import unfooled as uf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")
    out = tmp_path_factory.mktemp("hub") / "tiny-vit"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, image_size=8, patch_size=4,
        num_channels=3, id2label={0: "cat", 1: "dog", 2: "owl"}, label2id={"cat": 0, "dog": 1, "owl": 2},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).eval().save_pretrained(out)
    about = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_normalize": True, "size": {"height": 8, "width": 8}}
    (out / "preprocessor_config.json").write_text(json.dumps(about))
    return out


def test_folder_is_audited_end_to_end(folder: Path, tmp_path: Path) -> None:
    model = uf.load_model(folder)
    assert model.classes == ["cat", "dog", "owl"]
    assert (model.mean.tolist(), model.std.tolist()) == ([0.5] * 3, [0.25] * 3)
    x = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = uf.predicted(model, x)
    plan = uf.Plan(effort=uf.QUICK, nearest_budget=100, nearest_n=1, explain_n=1, gallery=1, floor=2000, reasons=None)
    inputs = uf.workflows.Inputs(folder, (x, y))
    summary = uf.workflows.audit(inputs, "linf:0.3", options=plan, out=tmp_path / "run")
    assert summary.classes == ["cat", "dog", "owl"]
    assert (summary.access, summary.clean_accuracy.value) == ("gradients", 1.0)
    assert summary.robust_accuracy.value is not None
    assert (tmp_path / "run" / "report.html").is_file()
