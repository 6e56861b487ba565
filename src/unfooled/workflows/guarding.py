"""Purifiers by name: a saved folder, or a function of the user's, in front of a model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.encoder import Encoder
from unfooled.core.types import Model, Purify
from unfooled.core.user_code import imported
from unfooled.purification.guard import CHECKED, Guarded, check_purified, guard, modes_kept, purified_by
from unfooled.purification.semantic import load_purifier
from unfooled.purification.storage import UnknownEncoder, stored_layer
from unfooled.workflows.errors import BadOption
from unfooled.workflows.places import check_not_behind_url

Purifier = str | Path | Purify
"""Folder of a saved purifier, "file.py:name" or "package.module:name" of a function x -> x, or the function."""


def read_purifier(source: Purifier, device: str = "cpu", model: Model | None = None) -> Purify:
    """Read a purifier.

    Args:
        source: Folder that `SemanticPurifier.save` wrote, "file.py:name", "package.module:name", or a function.
        device: Device of its networks.
        model: Model whose layer is tried as the encoder where the folder cannot build it. None: there is none.

    Raises:
        BadInput: A folder without the two files, or with an encoder of other code than the model's, or user code that
            fails or is no function.
    """
    check_not_behind_url(source, "purify")
    if not isinstance(source, (str, Path)):
        return on_device(source, device)
    if Path(source).is_dir() or ":" not in str(source):
        return on_device(_from_folder(source, model), device)
    with imported(str(source)) as function:
        if not callable(function):
            raise BadOption("{purify:{0}} is a {1}; give a function x -> x", source, type(function).__name__)
        return on_device(function, device)


def _from_folder(folder: str | Path, model: Model | None) -> Purify:
    """Return a saved purifier, whose encoder is a layer of the model where the folder cannot build it."""
    try:
        return load_purifier(folder)
    except UnknownEncoder:
        if isinstance(model, nn.Module):
            with suppress(BadInput):  # another network, or other weights
                return load_purifier(folder, Encoder(model, *stored_layer(folder)))
    raise BadOption(
        "the encoder of {0} is of other code than unfooled's, and no layer of the model; give a function that loads "
        "it, {purify:file.py:name}: load_purifier(folder, encode)", folder,
    )  # fmt: skip


def check_purifier(source: Purifier) -> None:
    """Refuse a source that is neither a folder nor code, before anything is loaded.

    Raises:
        BadOption: It is empty, or there is no such folder.
    """
    if callable(source):
        return
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise BadOption("{purify} is {0!r}; give a folder, file.py:name, or a function x -> x", source)
    check_not_behind_url(source, "purify")
    if ":" not in str(source) and not Path(source).is_dir():
        raise BadOption("{purify:{0}}: there is no such folder; give one, or file.py:name", source)


def guarded_by(model: Model, source: Purifier, x: Tensor, device: str = "cpu") -> Guarded:
    """Put a purifier in front of a model; two calls on a few samples show whether it is random.

    Args:
        model: The model.
        source: The purifier, see `read_purifier`.
        x: Samples, (n, *D).
        device: Device of the purifier's networks.

    Raises:
        BadInput: A purifier that cannot be read, fails, or breaks a rule of `guard`.
    """
    purify = read_purifier(source, device, model)
    some = x[:CHECKED]
    roots = [root for part in (model, purify) for root in modules_of(part)]
    with modes_kept(module for root in roots for module in root.modules()):
        first, again = tried(purify, some)
    guarded = guard(model, purify, stochastic=not torch.equal(first, again))
    with torch.no_grad():
        guarded(some)  # refuses a purifier that breaks a rule of `Guarded`, before the work begins
    return guarded


def tried(purify: Purify, x: Tensor) -> tuple[Tensor, Tensor]:
    """Purify samples twice, and return both results.

    Raises:
        BadInput: The purifier fails, or returns no batch of inputs.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, again = purified_by(purify, x.clone()), purified_by(purify, x.clone())
    check_purified(first, x)
    check_purified(again, x)
    return first, again


def on_device(purify: Purify, device: str) -> Purify:
    """Return a purifier whose networks are on a device."""
    for module in modules_of(purify):
        if isinstance(module, nn.Module):
            module.to(device)
    return purify
