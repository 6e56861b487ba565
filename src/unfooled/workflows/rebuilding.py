"""Rebuild a data set from the features of a network, and store it as a file or a folder of images."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unfooled.attacks.pgd import pgd
from unfooled.core.goals import read_logits
from unfooled.core.threats import Threat
from unfooled.core.unanswered import check_answered
from unfooled.data.formats.feature_sets import (
    check_place,
    load_features,
    manifest_of,
    save_features,
    stored,
)
from unfooled.features.cleaning import open_mask
from unfooled.features.inversion import Encoder, last_features
from unfooled.features.making import Search, Storage
from unfooled.runs.chunks import Progress
from unfooled.runs.folder import discard, saving, started
from unfooled.runs.helpers import Helpers, Watch
from unfooled.runs.opening import FilePlace, Place, is_url, open_file, seen_by_helpers
from unfooled.runs.store import Store, StoredFile
from unfooled.workflows import catalog
from unfooled.workflows.errors import BadOption
from unfooled.workflows.inputs import Inputs, Loaded
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import check_folder, open_out_file
from unfooled.workflows.words import choose, threat_of


@dataclass(frozen=True)
class FeatureOptions:
    """Options of rebuilding a data set; None: the method's own default.

    Args:
        layer: Layer whose output is inverted, or "NAME:input" for its input; None: the linear layer before the last.
        relu: Apply a ReLU to the features.
        start: Start of an inversion, "images", "noise" or "grey".
        steps: Largest number of gradients per image.
        tol: Residual at which an inversion ends.
        clean: Keep only bright strokes, at least 2 pixels thick.
        shard: Images per file of unfinished work.
    """

    layer: str | None = None
    relu: bool = False
    start: str | None = None
    steps: int = 100
    tol: float | None = None
    clean: bool = False
    shard: int = 500


def attacks_images(kind: str) -> bool:
    """Return whether a kind of data set is made by attacking images inside a threat, not by inverting features."""
    return "encode" not in catalog.takes(catalog.resolve(choose(catalog.FEATURES, kind, "kind")))


def features(
    inputs: Inputs,
    out: FilePlace,
    *,
    kind: str = "robust",
    threat: str | Threat | None = None,
    options: FeatureOptions = FeatureOptions(),
    fresh: bool = False,
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Rebuild a data set from the features of a network.

    Args:
        inputs: Model and source data.
        out: Data set: an .npz that `load_data` reads, a path or a URL, or a folder of images. Unfinished work is stored
            beside it in a folder that ends in .parts; a second run continues it, and the same call in another process
            shares it.
        kind: Name in `catalog.FEATURES`.
        threat: Threat model that bounds the changes to images; required by the kinds that attack images.
        options: Options of the kind.
        fresh: Start again.
        seed: Random seed.
        machine: The device, images computed at once, and the processes that share the work.
        progress: Called as `(stage, images done, images in all)`.

    Returns:
        The manifest of the set, and the paths `out` and `manifest`; `load_features(out)` reads the set.

    Raises:
        BadInput: options, model or data that cannot be used, or an `out` that
            holds something else.
    """
    device = machine.prepare(seed, shares=True)
    task = FeatureTask.of(inputs, kind, threat, options, seed, machine.alone(device))
    out, helpers = open_set(out), Helpers(machine.helpers())
    parts = seen_by_helpers(parts_of(out), helped=helpers.count > 0)
    refuse_other(out, parts)
    if fresh and not discard(parts):
        raise BadOption("another process works in {0}; wait for it, or choose another {out}", parts.place())
    loaded = inputs.load(device, seed=seed)
    # A finished set has no parts folder; where there is one, its work is continued, whatever `out` holds.
    done = None if fresh or has_unfinished_work(parts) or not stored(out) else load_features(out)
    if done is None:  # features may be finite where the logits are not
        with torch.no_grad():
            check_answered(read_logits(loaded.model, loaded.x, batch=256))
    storage = Storage(parts, helpers.chunk(options.shard, len(loaded.x)), done, helpers.start)
    if done is None:
        with helpers.on(partial(_help, task, replace(storage, start=helpers.watch.start), helpers.watch)):
            made = task.make(loaded, storage, progress)
    else:
        made = task.make(loaded, storage, progress)
    if made is not done:
        about = {
            "model": inputs.model_name,
            "from": {"data": inputs.data_name, "n": len(loaded.x), **inputs.options},
            "warnings": [*loaded.warnings, *helpers.notes],
        }
        with saving(parts):
            made = save_features(out, made, about)
    discard(parts)
    return {**made.manifest, "out": str(out), "manifest": str(manifest_of(out))}


def open_set(out: FilePlace, store_options: str | Path | None = None, *, lasting: bool = False) -> Path | StoredFile:
    """Open the place of a set and check that it can be written: an .npz, or a folder of images on this machine.

    Args:
        out: Path, URL or open file.
        store_options: JSON file of options and credentials of a URL's store. None: those of the environment.
        lasting: True: refuse a place that ends with this process.

    Raises:
        BadInput: It cannot be used.
    """
    if isinstance(out, StoredFile) or is_url(out) or store_options is not None:
        return open_out_file(out, ".npz", store_options, lasting=lasting)
    return open_out_file(out, ".npz") if Path(out).suffix.lower() == ".npz" else check_folder(os.fspath(out))


def parts_of(out: Path | StoredFile) -> Store:
    """Return the folder beside a set for unfinished work on it."""
    return open_file(out).parts


@dataclass(frozen=True)
class FeatureTask:
    """Set that is made, by names, so that helpers can load what it is made from."""

    inputs: Inputs
    kind: str
    threat: Threat | None
    options: FeatureOptions
    seed: int
    machine: Machine

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        kind: str,
        threat: str | Threat | None,
        options: FeatureOptions,
        seed: int,
        machine: Machine,
    ) -> FeatureTask:
        """Check the options of `features` before anything is loaded.

        Raises:
            BadInput: Options that do not exist or do not go together.
        """
        allowed = _check(kind, threat, options)
        inputs.check()
        return cls(inputs, kind, allowed, options, seed, machine)

    def make(self, loaded: Loaded, storage: Storage, progress: Progress | None) -> Any:
        """Make the set, chunk by chunk."""
        method = _bind_method(loaded, self.kind, self.threat, self.options, self.machine.batch)
        return method(seed=self.seed, classes=loaded.classes, storage=storage, progress=progress)


def _help(task: FeatureTask, storage: Storage, watch: Watch) -> None:
    """Help to make a set in another process: compute chunks, and write no result."""
    device = task.machine.prepare(task.seed)
    task.make(task.inputs.load(device, seed=task.seed), storage, watch)


def _bind_method(loaded: Loaded, kind: str, threat: Threat | None, options: FeatureOptions, batch: int | None) -> Any:
    """Bind the method to its inputs and options; calling the result makes a `FeatureSet`."""
    function = catalog.resolve(catalog.FEATURES[kind])
    more: dict[str, Any] = {}
    if options.clean:
        more["clean"] = partial(open_mask, threshold=0.3, size=2)
    if attacks_images(kind):
        attack = partial(pgd, steps=options.steps, stop=False, batch=batch)
        return partial(function, loaded.model, loaded.x, loaded.y, threat=threat, attack=attack, **more)
    set_options: dict[str, Any] = {k: v for k, v in {"tol": options.tol, "threat": threat}.items() if v is not None}
    more["search"] = Search(steps=options.steps, batch=batch, **set_options)
    if options.start is not None:
        more["start"] = options.start
    encode = Encoder(loaded.model, options.layer or last_features(loaded.model), options.relu)
    return partial(function, encode, loaded.x, loaded.y, **more)


def _check(kind: str, threat: str | Threat | None, options: FeatureOptions) -> Threat | None:
    """Refuse options that do not go together; return the threat."""
    if attacks_images(kind):
        if threat is None:
            raise BadOption("{kind:{0}} moves images inside a threat: give one, such as {threat:l2:1.5}", kind)
        for option in ("layer", "relu", "start", "tol"):
            if getattr(options, option) not in (None, False):
                sentence = "{kind:{0}} takes no {" + option + "}; leave it out, or choose robust or non-robust"
                raise BadOption(sentence, kind)
    if options.steps < 1 or (options.tol is not None and not 0 <= options.tol < 1):
        raise BadOption(
            "{steps} is {0}, {tol} {1}; they must be at least 1, and in [0, 1)", options.steps, options.tol
        )  # fmt: skip
    if options.shard < 1:
        raise BadOption("{shard} is {0}; it must be at least 1", options.shard)
    return None if threat is None else threat_of(threat)


def has_unfinished_work(parts: Place) -> bool:
    """Return whether the folder holds unfinished work that can be continued."""
    return started(parts)


def refuse_other(out: Path | StoredFile, parts: Place) -> None:
    """Refuse to overwrite files that this workflow did not write, at `out` or at the place of its manifest.

    Raises:
        BadInput: there is such a file.
    """
    path = out if isinstance(out, Path) else None
    if path is not None and not path.name:
        raise BadOption("{out} is {0!r}; name an .npz or a folder", str(out))
    if path is not None and path.suffix.lower() == ".npz" and path.is_dir():
        raise BadOption("{0} is a folder; name a file, or a folder without .npz", out)
    check_place(out)
    there = out.exists()
    if not there or stored(out) or (path is not None and path.is_dir() and not any(path.iterdir())):
        return
    if not has_unfinished_work(parts):  # with parts, the run was killed before its manifest was written
        raise BadOption("{0} exists and is no result of this command; choose another {out}", str(out))
