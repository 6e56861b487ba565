"""The sets of the study of robust features, kept in a folder that survives a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unfooled.runs import store
from unfooled.studies.robust_features.bench import FeatureBench
from unfooled.studies.robust_features.scale import RANDOM, SCALES


def test_a_set_that_a_kill_left_without_its_manifest_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = replace(SCALES["small"], rebuilt=12, gradients=3, shard=5, train_n=300, test_n=20)
    folder, whole = tmp_path / "sets/digits-0", store.write_whole

    def killed(file: Path, data: bytes) -> None:
        if file.suffix == ".json" and file.parent == folder:
            raise KeyboardInterrupt
        whole(file, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "write_whole", killed)
        FeatureBench(size.tasks[0], size, 0, folder=tmp_path).made(RANDOM)
    assert sorted(item.suffix for item in folder.iterdir()) == [".npz", ".parts"]
    told: list[int] = []
    bench = FeatureBench(size.tasks[0], size, 0, folder=tmp_path, progress=lambda what, done, n: told.append(done))
    made = bench.made(RANDOM)
    assert told == [12]  # the shards were there
    assert sorted(item.suffix for item in folder.iterdir()) == [".json", ".npz"]
    assert torch.equal(FeatureBench(size.tasks[0], size, 0, folder=tmp_path).made(RANDOM).x, made.x)
